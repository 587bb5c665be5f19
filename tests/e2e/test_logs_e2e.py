"""Logs of a real node: nothing is lost whoever is killed (T11, T12), last words are kept (T16), `logs -f` sees all."""

from __future__ import annotations

import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tests.e2e.node import OTPD, Node, node
from tests.helpers import eventually
from tests.supervisor.logwriting import stored_events

#: Prints numbered lines, as many as its argument says, then `done`, and lives on.
COUNTER = """
import os, sys, time
count, pause = int(sys.argv[1]), float(sys.argv[2])
generation = os.environ["OTPD_GENERATION"]
for k in range(count):
    print(f"{generation}:{k:06d} {'x' * 40}", flush=True)
    if pause and k % 100 == 99:
        time.sleep(pause)
print("done", flush=True)
while True:
    time.sleep(1000)
"""
#: Prints its last words and dies when the file `die` is there.
LAST_WORDS = """
import os, sys, time
print("up", flush=True)
while not os.path.exists("die"):
    time.sleep(0.01)
os.unlink("die")
for k in range(2000):
    print(f"word {k:04d} " + "y" * 60)
sys.stdout.flush()
os._exit(9)
"""
#: Ends and begins again all the time.
BRIEF = """
[supervisors.s]
max_restarts = 1000000
max_seconds = 1
[programs.brief]
command = ["sleep", "0.01"]
supervisor = "s"
"""
FILES = {"counter.py": COUNTER, "last_words.py": LAST_WORDS}
SMALL = '[node.log]\nmax_size = "64KiB"\nkeep = 1000\n'


def counter(name: str, count: int, pause: float) -> str:
    return f'[programs.{name}]\nscript = "counter.py"\nargs = ["{count}", "{pause}"]\nshutdown = "1s"\n'


def lines_of(generation: int, count: int) -> list[str]:
    return [f"{generation}:{k:06d} {'x' * 40}" for k in range(count)] + ["done"]


@contextmanager
def following(n: Node, *arguments: str) -> Iterator[queue.Queue[str]]:
    """Lines that `otpd logs -f` prints, as they come."""
    command = [*OTPD, "logs", "-f", *arguments]
    with subprocess.Popen(command, cwd=n.home, env=n.env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines: queue.Queue[str] = queue.Queue()
        reading = threading.Thread(target=_read, args=(process.stdout, lines))
        reading.start()
        try:
            yield lines
        finally:
            process.terminate()
            reading.join()


def _read(stream: Iterator[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))


def until(lines: queue.Queue[str], last: str, deadline: float = 60.0) -> list[str]:
    """All lines up to the first that ends with `last`."""
    seen: list[str] = []

    def found() -> bool:
        while not lines.empty():
            seen.append(lines.get())
            if seen[-1].endswith(last):
                return True
        return False

    eventually(found, deadline, f"a line that ends with {last!r}")
    return seen


def new_logger(n: Node, old: int) -> int:
    found: int = eventually(lambda: (pid := n.facts()["logger_pid"]) != old and pid)
    return found


def test_every_line_is_stored_once_and_in_order_though_the_logger_is_killed_again_and_again() -> None:
    """T11: across rotation, in the middle of the output of three children; they never notice."""
    names = ["one", "two", "three"]
    with node(SMALL + "".join(counter(name, 30_000, 0.005) for name in names), FILES) as n:
        logger, pids = n.facts()["logger_pid"], {name: n.pid(name) for name in names}
        for stored in (1_000, 5_000, 12_000, 20_000):
            eventually(lambda stored=stored: n.printed("one").count("\n") > stored, 30)  # type: ignore[misc]
            n.kill(logger)
            logger = new_logger(n, logger)
        for name in names:
            eventually(lambda name=name: n.printed(name).endswith("done\n"), 30)  # type: ignore[misc]
            assert n.log(name).splitlines() == lines_of(1, 30_000)
        assert {name: n.pid(name) for name in names} == pids
        assert len(list((n.home / ".otpd" / "logs" / "one").glob("*.log"))) > 10


def test_what_is_printed_while_no_logger_runs_waits_for_the_next_one() -> None:
    """T11, T15: a logger that stands still, as on a slow disk, a child that dies meanwhile, a restart by a root that waits
    for nobody; then all of it is there, in order."""
    with node(counter("c", 500, 0.0), FILES) as n:
        eventually(lambda: n.printed("c").endswith("done\n"))
        logger = n.facts()["logger_pid"]
        n.kill(logger, 19)
        n.kill(n.pid("c"))
        n.reborn("c", 1)
        assert n.log("c").splitlines() == lines_of(1, 500)
        n.kill(logger)
        new_logger(n, logger)
        eventually(lambda: n.printed("c").splitlines() == lines_of(1, 500) + lines_of(2, 500))


def test_bytes_of_any_kind_are_stored_as_they_were_printed() -> None:
    """T12: all 256 values, half a character, no newline at the end."""
    writes = "import os, time; os.write(1, bytes(range(256)) * 100 + b'\\xe2\\x82'); time.sleep(1000)"
    with node('[programs.bytes]\nscript = "bytes.py"\n', {"bytes.py": writes}) as n:
        wanted = bytes(range(256)) * 100 + b"\xe2\x82"
        command = [*OTPD, "logs", "bytes", "--raw"]

        def stored() -> bytes:
            return subprocess.run(command, cwd=n.home, env=n.env, capture_output=True, check=True).stdout

        eventually(lambda: len(stored()) >= len(wanted))
        assert stored() == wanted
        assert "\\xe2\\x82" in n.otpd("logs", "bytes").stdout


def test_the_last_twenty_lines_are_in_why_though_rotation_has_just_happened() -> None:
    """T16: segments of 4 KiB, so that the last words lie in two or more; and though the logger was killed with them."""
    config = '[node.log]\nmax_size = "4KiB"\nkeep = 3\n[programs.p]\nscript = "last_words.py"\n'
    words = [f"word {k:04d} " + "y" * 60 for k in range(1980, 2000)]
    with node(config, FILES) as n:
        for generation in (1, 2, 3):
            eventually(lambda: n.printed("p").endswith("up\n"))
            n.write("die", "")
            if generation == 3:
                n.kill(n.facts()["logger_pid"])
            n.reborn("p", generation)
            newest = eventually(lambda: (d := n.json("why", "p")["deaths"][0])["tail"] and d)
            assert (newest["generation"], newest["reason"], newest["tail"]) == (generation, "error(9)", words)
        assert n.otpd("why", "p").stdout.count(f"| {words[-1]}") == 3


def test_logs_are_followed_over_the_restart_of_the_child_of_the_logger_and_of_root() -> None:
    """Each line once, in order, from the moment at which one looks, through three kinds of restart."""
    with node(counter("c", 300, 0.0) + counter("other", 1, 0.0), FILES) as n:
        eventually(lambda: n.printed("c").endswith("done\n"))
        with following(n, "c", "--raw", "-n", "1") as lines:
            assert until(lines, "done") == ["done"]
            n.otpd("restart", "c")
            assert until(lines, "done") == lines_of(2, 300)
            logger = n.facts()["logger_pid"]
            n.kill(logger)
            new_logger(n, logger)
            n.kill(n.pid("c"))
            assert until(lines, "done") == lines_of(3, 300)
            root = n.facts()["pid"]
            n.kill(root)
            eventually(lambda: n.answers() and n.facts()["pid"] != root)
            assert until(lines, "done") == lines_of(1, 300)
        everything = lines_of(1, 300) + lines_of(2, 300) + lines_of(3, 300) + lines_of(1, 300)
        assert n.log("c").splitlines() == everything


def test_a_name_that_appears_later_is_followed_from_its_first_line() -> None:
    with node(counter("first", 2, 0.0), FILES) as n:
        eventually(lambda: n.printed("first").endswith("done\n"))
        with following(n, "-n", "1", "--json") as lines:
            until(lines, '"line": "done"}')  # of the first: now it follows
            n.write("otpd.toml", counter("first", 2, 0.0) + counter("late", 3, 0.0))
            n.otpd("reload")
            seen = until(lines, '"line": "done"}')
            assert len(seen) == 4
            assert all('"name": "late"' in line for line in seen)


def test_logs_can_be_read_while_the_node_is_down() -> None:
    with node(counter("c", 3, 0.0), FILES) as n:
        eventually(lambda: n.printed("c").endswith("done\n"))
        n.stop()
        assert n.log("c").splitlines() == lines_of(1, 3)
        assert n.otpd("logs", "c", "-n", "1").stdout.rstrip().endswith("done")
        assert "c" in n.otpd("logs", "cc", check=4).stderr


def test_no_event_is_missing_or_there_twice_though_the_logger_is_killed_again_and_again() -> None:
    """Root keeps what it does not know to be stored; the numbers say that nothing is missing."""
    with node(BRIEF, start=False) as n:
        n.start(None, "--timeout", "100ms")
        eventually(n.answers)
        for _ in range(4):
            logger, generation = n.facts()["logger_pid"], n.worker("brief")["generation"]
            eventually(lambda generation=generation: n.worker("brief")["generation"] > generation + 5)  # type: ignore[misc]
            n.kill(logger)
            eventually(lambda logger=logger: n.facts()["logger_pid"] not in (None, logger))  # type: ignore[misc]
        n.stop()
        stored = stored_events(n.home / ".otpd")
        assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
        assert {event["life"] for event in stored} == {1}
        assert stored[-1]["event"] == "otpd.node.ended"


def test_a_logger_that_is_behind_at_the_end_of_the_node_stores_all_before_root_goes() -> None:
    with node(BRIEF, start=False) as n, ThreadPoolExecutor(1) as threads:
        n.start(None, "--timeout", "100ms")
        eventually(n.answers)
        logger = n.facts()["logger_pid"]
        n.kill(logger, signal.SIGSTOP)
        eventually(lambda: n.worker("brief")["generation"] > 100)  # more events than its socket holds
        stopping = threads.submit(n.stop)
        eventually(lambda: {process.pid for process in n.processes()} <= {logger})
        n.kill(logger, signal.SIGCONT)
        stopping.result()
        stored = stored_events(n.home / ".otpd")
        assert [event["seq"] for event in stored] == list(range(1, len(stored) + 1))
        assert stored[-1]["event"] == "otpd.node.ended"
