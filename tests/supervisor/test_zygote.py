"""The zygote and its blanks, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from otpd.supervisor import linux
from otpd.supervisor.incarnation import Status
from tests.helpers import eventually
from tests.supervisor.processes import NODE, Root


def test_a_blank_is_roots_own_child_with_a_session_and_nothing_but_its_channel(root: Root) -> None:
    blank = root.blank()
    eventually(lambda: len(os.listdir(f"/proc/{blank.pid}/fd")) == 4)
    found = linux.stat(blank.pid)
    assert found is not None
    assert (found.ppid, found.session, found.group) == (os.getpid(), blank.pid, blank.pid)
    assert [os.readlink(f"/proc/{blank.pid}/fd/{fd}") for fd in range(3)] == [os.devnull] * 3
    assert psutil.Process(blank.pid).environ()["OTPD_NODE"] == NODE


def test_a_blank_whose_channel_closes_ends(root: Root) -> None:
    blank = root.blank()
    assert blank.channel is not None
    blank.channel.close()
    assert blank.reap() == Status(code=0)


def test_proc_shows_the_cookie_of_a_worker(root: Root) -> None:
    worker = root.script("import time; time.sleep(60)", name="shop/feed-1", generation=12)
    assert worker.packet() == ["spawned"]
    env = psutil.Process(worker.pid).environ()
    assert (env["OTPD_NODE"], env["OTPD_CHILD"], env["OTPD_GENERATION"]) == (NODE, "shop/feed-1", "12")


def test_proc_and_ps_show_the_name(root: Root) -> None:
    worker = root.script("print(1); import time; time.sleep(60)")
    worker.line()
    assert psutil.Process(worker.pid).cmdline()[0] == "otpd: feed"
    assert psutil.Process(worker.pid).environ()["OTPD_CHILD"] == "feed"


def test_a_name_too_long_for_the_cookie_is_a_failed_set_up(root: Root) -> None:
    [[word, text]] = root.script("", name="x" * 600).packets()
    assert (word, text) == ("failed", "its name is too long: 600 bytes, at most 448")


def test_descendants_carry_the_cookie(root: Root) -> None:
    worker = root.script("import os; os.execvp('cat', ['cat', '/proc/self/environ'])", generation=4)
    cookie = sorted(each for each in worker.printed().split("\0") if each.startswith("OTPD_"))
    assert cookie == ["OTPD_CHILD=feed", "OTPD_GENERATION=4", f"OTPD_NODE={NODE}"]


def test_a_script_runs_as_python_would_run_it(root: Root) -> None:
    (root.directory / "neighbour.py").write_text("value = 5")
    worker = root.script(
        """
        import sys, __main__, neighbour
        print(__name__, __file__, sys.argv[1:], neighbour.value, __main__.__dict__ is globals(), __spec__)
        """,
        argv=("a", "b c"),
    )
    script = root.directory / "worker.py"
    assert worker.printed() == f"__main__ {script} ['a', 'b c'] 5 True None\n"
    assert worker.packets() == [["spawned"]]
    assert worker.reap() == Status(code=0)


def test_prints_appear_at_once(root: Root) -> None:
    worker = root.script("print('now'); import time; time.sleep(60)")
    assert worker.line() == "now"


def test_an_exception_is_printed_from_the_script_on_and_announced_in_one_line(root: Root) -> None:
    worker = root.script("def f():\n    raise ValueError('two\\nlines')\nf()\n")
    spawned, (word, trace), last = worker.packets()
    assert (spawned, word, last) == (["spawned"], "traceback", ["exit", "error(ValueError: two lines)"])
    assert trace.startswith(f'Traceback (most recent call last):\n  File "{root.directory}'), "from the script on"
    assert trace.endswith("ValueError: two\nlines\n")
    script = root.directory / "worker.py"
    lines = worker.printed().splitlines()
    assert lines[:2] == ["Traceback (most recent call last):", f'  File "{script}", line 3, in <module>']
    assert not any("blank.py" in line for line in lines)
    assert lines[-2:] == ["ValueError: two", "lines"]
    assert worker.reap() == Status(code=1)


def test_a_syntax_error_is_an_exception_like_any(root: Root) -> None:
    worker = root.script("def f(:\n")
    word, reason = worker.packets()[2]
    assert (word, reason.startswith("error(SyntaxError: invalid syntax")) == ("exit", True)
    assert worker.reap() == Status(code=1)


@pytest.mark.parametrize(
    ("argument", "code", "printed"),
    [("", 0, ""), ("7", 7, ""), ("'why'", 1, "why\n"), ("None", 0, ""), ("256 + 3", 3, "")],
)
def test_sys_exit_means_what_it_means_in_python(root: Root, argument: str, code: int, printed: str) -> None:
    worker = root.script(f"import sys; sys.exit({argument})")
    assert (worker.packets(), worker.printed()) == ([["spawned"]], printed)
    assert worker.reap() == Status(code=code)


def test_an_interrupt_ends_it_by_sigint_with_a_traceback(root: Root) -> None:
    worker = root.script("print(1)\nimport time\ntime.sleep(60)")
    worker.line()
    signal.pidfd_send_signal(worker.pidfd, signal.SIGINT)
    assert worker.printed().splitlines()[-1] == "KeyboardInterrupt"
    assert worker.reap() == Status(signal=signal.SIGINT)


@pytest.mark.parametrize("kind", ["program", "agent"])
def test_threads_exit_handlers_and_files_are_finished_at_the_end(root: Root, kind: str) -> None:
    worker = root.script(
        """
        import atexit, threading
        atexit.register(print, "exit handler")
        threading.Timer(0.05, print, ("thread",)).start()
        file = open("out", "w"); file.write("flushed")
        print("end of script")
        """,
        kind=kind,
    )
    assert worker.printed() == "end of script\nthread\nexit handler\n"
    assert (root.directory / "out").read_text() == "flushed"


def test_sigquit_prints_the_stacks_of_all_threads_and_it_lives_on(root: Root) -> None:
    worker = root.script(
        """
        import threading, time
        def waiting(): time.sleep(60)
        threading.Thread(target=waiting, daemon=True).start()
        print("up"); time.sleep(60)
        """
    )
    worker.line()
    signal.pidfd_send_signal(worker.pidfd, signal.SIGQUIT)
    assert worker.line().startswith("Thread 0x")
    assert worker.line().endswith("in waiting")
    assert not worker.died(0)


def test_a_missing_script_is_a_failed_set_up(root: Root) -> None:
    worker = root.run(root.job(script="/no/such.py"))
    assert worker.packets() == [["failed", "script /no/such.py: No such file or directory"]]


def test_random_numbers_differ_between_workers(root: Root) -> None:
    drawn = {root.script("import random; print(random.random())").printed() for _ in range(3)}
    assert len(drawn) == 3


def test_workers_outlive_the_zygote(root: Root) -> None:
    worker = root.script("print('up'); import time; time.sleep(60)")
    worker.line()
    assert root.zygote is not None
    root.zygote.kill()
    root.zygote.wait()
    assert not worker.died(0.05)


def test_a_module_that_cant_be_imported_is_reported_and_no_harm(root: Root) -> None:
    root.start_zygote("json", "no_such_module_here")
    root.blank()
    assert root.problems == [
        "can't preload no_such_module_here: ModuleNotFoundError: No module named 'no_such_module_here'"
    ]


def test_a_module_that_starts_a_thread_is_dropped(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    (root.directory / "threaded.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    monkeypatch.setenv("PYTHONPATH", str(root.directory))
    root.start_zygote("json", "threaded", "asyncio")
    root.blank()
    assert root.problems == ["can't preload threaded: it starts threads, which forbids to fork"]
    assert root.zygote is not None
    assert len(os.listdir(f"/proc/{root.zygote.pid}/task")) == 1


def test_everything_dies_with_root(tmp_path: Path) -> None:
    """kill -9 of a root with a zygote, a blank, an agent and a program: all are gone, and at once."""
    linux.set_child_subreaper()
    (tmp_path / "play.py").write_text(
        textwrap.dedent(
            """
            import sys, time
            from pathlib import Path
            from tests.supervisor.processes import Root
            root = Root(Path(sys.argv[1]))
            sleep = "import time; time.sleep(60)"
            workers = [root.blank(), root.script("print('up'); " + sleep), root.spawn("sleep", "60")]
            workers[1].line(); workers[2].exec_error()
            print(root.zygote.pid, *(worker.pid for worker in workers), flush=True)
            time.sleep(60)
            """
        )
    )
    command = [sys.executable, str(tmp_path / "play.py"), str(tmp_path)]
    played = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert played.stdout is not None
    pids = [int(pid) for pid in played.stdout.readline().split()]
    played.kill()
    played.communicate()

    def gone() -> bool:
        found = [linux.stat(pid) for pid in pids]
        return all(each is None or each.state == "Z" for each in found)

    assert len(pids) == 4
    eventually(gone, 1.0)
    for pid in pids:
        os.waitpid(pid, 0)
    linux.set_child_subreaper(False)


def test_a_cgroup_that_cant_be_made_is_reported_and_done_without(root: Root) -> None:
    root.start_zygote("json", cgroup="/no/such/cgroup")
    assert root.blank().cgroup is None
    assert root.problems == ["can't make a cgroup: No such file or directory"]


def test_a_directory_that_is_no_cgroup_is_reported_and_done_without(root: Root) -> None:
    root.start_zygote("json", cgroup=str(root.directory))
    assert root.blank().cgroup is None
    assert os.listdir(root.directory) == []
    assert root.problems == ["can't fork: clone: Bad file descriptor"]
