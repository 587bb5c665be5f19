"""A pool of real workers: what comes of commands of every kind."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from otpd.agents.sandbox import PIPE, Limits, Pool, PoolClosed, PoolSettings, Profile, ProfileError, SandboxError
from tests.helpers import eventually

QUICK = Profile(name="quick", limits=Limits(wall=1.0), grace=0.1)


def sh(pool: Pool, script: str, **options: object) -> str:
    """What a script prints; an error if it fails."""
    return pool.run(["sh", "-c", script], **options).check().text  # type: ignore[arg-type]


# --- results ---


@pytest.mark.parametrize("code", [0, 1, 3, 124, 137, 255])
def test_an_exit_status_is_an_exit_status(pool: Pool, code: int) -> None:
    result = pool.run(["sh", "-c", f"exit {code}"])
    assert (result.status, result.exit_code, result.killed_by, result.signal) == ("exited", code, None, None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_of_its_own_is_not_a_kill(pool: Pool, number: int) -> None:
    result = pool.run(["sh", "-c", f"kill -{int(number)} $$"])
    assert (result.status, result.signal, result.killed_by) == ("signaled", number, None)


def test_both_streams_come_back_byte_for_byte(pool: Pool) -> None:
    result = pool.run(["sh", "-c", r"printf 'a\000\377'; printf 'e\n' >&2"])
    assert (result.stdout, result.stderr, result.stdout_bytes, result.stderr_bytes) == (b"a\0\xff", b"e\n", 3, 2)


SPAWNED = """
import sys
from otpd.agents.sandbox import Pool, PoolSettings
with Pool(PoolSettings(workers=1, slot_uids=(220_000, 220_063)), launcher=LAUNCHER) as pool:
    sys.stdout.write(pool.run(["grep", "^Sig[BI]", "/proc/self/status"]).text)
"""


def test_no_signal_is_ignored_or_blocked_in_a_command_however_its_pool_was_started(launcher: str | None) -> None:
    """libc's posix_spawn() leaves two signals ignored that libc lets nobody touch."""
    came, goes = os.pipe()
    argv = [sys.executable, "-c", SPAWNED.replace("LAUNCHER", repr(launcher))]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, goes, 1)])
    os.close(goes)
    with open(came) as said:
        assert said.read() == f"SigBlk:\t{0:016}\nSigIgn:\t{0:016}\n"
    assert os.waitpid(pid, 0)[1] == 0


def test_a_result_says_what_was_used_and_what_was_in_force(pool: Pool) -> None:
    result = pool.run(["python3", "-c", "x = sum(range(2000000)); b = bytearray(30 << 20)"])
    assert result.status == "exited"
    assert 0.005 < result.cpu_s <= result.wall_s * os.cpu_count() + 0.1  # type: ignore[operator]
    assert 30 << 20 < result.max_rss < 200 << 20
    assert {"userns", "pidns", "mntns", "netns", "caps", "no_new_privs", "seccomp:2"} <= set(result.isolation["layers"])
    assert result.limits["wall"] == {"value": 10.0, "enforced": "hard", "by": "clock of the worker"}


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (["no-such-command"], "not_found", "not_found"),
        (["/no/such/command"], "not_found", "not_found"),
        (["/etc/passwd"], "not_executable", "not_executable"),
        (["/"], "not_executable", "not_executable"),
        (["echo", "x" * 3_000_000], "not_executable", "not_executable"),
        (["echo", "a\0b"], "refused", "command"),
        ("echo hello", "refused", "command"),
    ],
)
def test_what_can_not_start_has_a_status_of_its_own(pool: Pool, argv: list[str], status: str, code: str) -> None:
    result = pool.run(argv)
    assert result.error is not None
    assert (result.status, result.error["code"], result.exit_code) == (status, code, None)
    with pytest.raises(SandboxError):
        result.check()


def test_a_directory_of_work_that_is_not_there_is_refused(pool: Pool) -> None:
    result = pool.run(["true"], cwd="/no/such/place")
    assert (result.status, "cwd" in result.hint) == ("refused", True)


def test_a_large_order_and_a_large_answer_arrive_whole(pool: Pool) -> None:
    content = os.urandom(700_000)
    profile = Profile(limits=Limits(output=2**20))
    result = pool.run(["cat", "data"], profile=profile, files={"data": content})
    assert (result.stdout == content, result.stdout_truncated) == (True, False)


# --- what a command gets ---


def test_the_environment_is_clean(pool: Pool) -> None:
    os.environ["OTPD_TEST_LEAK"] = "1"
    try:
        found = dict(line.split("=", 1) for line in sh(pool, "env", env={"A": "1"}).splitlines())
    finally:
        del os.environ["OTPD_TEST_LEAK"]
    found.pop("PWD")
    assert found == {
        "A": "1", "HOME": "/home/sandbox", "LANG": "C.UTF-8", "LOGNAME": "sandbox", "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": "/tmp", "USER": "sandbox",
    }  # fmt: skip


def test_a_command_yields_to_who_waits_for_it(pool: Pool) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert sh(pool, "nice; cat /proc/self/oom_score_adj") == f"{own + 5}\n1000\n"


def test_nothing_is_open_but_the_three_streams(pool: Pool) -> None:
    assert sh(pool, "ls /proc/self/fd").split() == ["0", "1", "2", "3"]  # 3 is that of ls


def test_standard_input_is_what_is_given_or_empty(pool: Pool) -> None:
    assert (pool.run(["cat"], stdin=b"hello").stdout, pool.run(["cat"]).stdout) == (b"hello", b"")


def test_standard_input_can_not_be_changed_by_the_command(pool: Pool) -> None:
    result = pool.run(["sh", "-c", "echo x > /proc/self/fd/0; cat"], stdin=b"hello")
    assert result.stdout == b"hello"


def test_a_pipe_is_written_while_the_command_runs(pool: Pool) -> None:
    run = pool.start(["cat"], stdin=PIPE, stream=True)
    events = run.events()
    os.write(run.stdin, b"one")
    assert next(events) == ("stdout", b"one")
    os.write(run.stdin, b"two")
    assert next(events) == ("stdout", b"two")
    run.close_stdin()
    assert (list(events), run.result().stdout) == ([], b"onetwo")


def test_files_are_there_before_it_starts(pool: Pool) -> None:
    assert sh(pool, "cat a/b/in.txt; cat x", files={"a/b/in.txt": "deep", "x": b"flat"}) == "deepflat"


def test_a_workspace_is_private_and_where_it_works(pool: Pool) -> None:
    profile = Profile(name="w", workspace=2**20)
    assert (
        sh(pool, "pwd; echo x > f; cat f; df -k . | tail -1 | awk '{print $2}'", profile=profile) == "/workspace\nx\n1024\n"
    )
    assert sh(pool, "ls -A /workspace", profile=profile) == ""


def test_a_granted_directory_is_the_directory(pool: Pool, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    if os.geteuid() == 0:
        os.chown(work, 61_000, 61_000)
    profile = Profile(rw=(str(work),))
    assert sh(pool, "pwd; mkdir d; echo x > d/f; stat -c %u d/f", profile=profile) == f"{work}\nd\n".replace("d\n", "1000\n")
    about = (work / "d" / "f").stat()
    assert ((work / "d" / "f").read_text(), about.st_uid) == ("x\n", work.stat().st_uid)


def test_a_single_file_can_be_granted(pool: Pool, tmp_path: Path) -> None:
    file, beside = tmp_path / "file", tmp_path / "beside"
    for path in (file, beside):
        path.write_text("old")
    result = pool.run(["sh", "-c", f"ls {tmp_path}; echo new > {file}"], profile=Profile(rw=(str(file),)))
    assert (result.text, file.read_text(), beside.read_text()) == ("file\n", "new\n", "old")


def test_a_read_only_path_can_be_read(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("read me")
    tmp_path.chmod(0o700)
    result = pool.run(["sh", "-c", f"cat {tmp_path}/f; echo x > {tmp_path}/f"], profile=Profile(ro=(str(tmp_path),)))
    assert (result.text, result.exit_code, (tmp_path / "f").read_text()) == ("read me", 2, "read me")


def test_a_missing_grant_is_refused_and_harms_nobody(pool: Pool) -> None:
    for profile in (Profile(rw=("/no/such/dir",)), Profile(ro=("/no/such/dir",))):
        result = pool.run(["true"], profile=profile)
        assert (result.status, "/no/such/dir: No such file" in result.summary()) == ("refused", True)
    assert pool.run(["true"]).ok


def test_the_view_of_the_host_hides_what_is_private(pool: Pool) -> None:
    profile = Profile(name="host", view="host-ro")
    assert sh(pool, "ls -A /root /home /run /sys /srv; ls /usr >/dev/null && ls -A /home", profile=profile).split() == [
        "/home:", "sandbox", "/root:", "/run:", "/srv:", "/sys:", "sandbox",
    ]  # fmt: skip
    result = pool.run(["sh", "-c", "echo x > /usr/x; echo x > /opt/x; echo x > /x"], profile=profile)
    assert result.stderr.count(b"Read-only file system") == 3


# --- limits ---


def test_time_over_is_told_as_such(pool: Pool) -> None:
    result = pool.run(["sleep", "60"], profile=QUICK)
    assert (result.status, result.killed_by, result.timed_out, result.limit_hits) == (
        "killed",
        "timeout",
        True,
        ("timeout",),
    )
    assert 1.0 <= result.wall_s < 30


def test_a_timeout_of_the_call_wins(pool: Pool) -> None:
    assert pool.run(["sleep", "60"], timeout=0.3).limits["wall"]["value"] == 0.3


def test_who_is_asked_to_end_may_end_in_order(pool: Pool) -> None:
    script = "trap 'echo bye; exit 5' TERM; echo up; sleep 60 & wait"
    result = pool.run(["sh", "-c", script], profile=dataclasses.replace(QUICK, grace=5.0))
    assert (result.text, result.killed_by, result.exit_code) == ("up\nbye\n", "timeout", 5)


def test_who_does_not_listen_is_killed(pool: Pool) -> None:
    result = pool.run(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], profile=QUICK)
    assert (result.killed_by, result.signal) == ("timeout", signal.SIGKILL)


def test_output_keeps_its_beginning_and_its_end(pool: Pool) -> None:
    profile = Profile(limits=Limits(output=4096))
    result = pool.run(["sh", "-c", "seq 1 5000; echo last"], profile=profile)
    assert (result.stdout_truncated, result.limit_hits, result.stdout_bytes) == (True, ("output",), 23898)
    assert result.text.startswith("1\n2\n")
    assert "\n[... 19802 bytes left out ...]\n" in result.text
    assert result.text.endswith("\n5000\nlast\n")


def test_output_kills_where_the_profile_says_so(pool: Pool) -> None:
    result = pool.run(["yes"], profile=Profile(limits=Limits(output=4096), on_output_limit="kill"))
    assert (result.status, result.killed_by) == ("killed", "output")


def test_a_file_that_is_too_large_kills_by_its_limit(pool: Pool) -> None:
    profile = Profile(limits=Limits(file_size=8192))
    result = pool.run(["python3", "-c", "open('f','wb').write(b'x' * 100000)"], profile=profile)
    assert b"File too large" in result.stderr  # Python ignores SIGXFSZ
    result = pool.run(["sh", "-c", "exec head -c 100000 /dev/zero > f"], profile=profile)
    assert (result.status, result.killed_by) == ("killed", "files")


def test_processor_time_is_counted_over_all(pool: Pool) -> None:
    profile = Profile(limits=Limits(cpu=1.0, wall=30.0))
    result = pool.run(["sh", "-c", "while :; do :; done & while :; do :; done & wait"], profile=profile)
    assert (result.status, result.killed_by) == ("killed", "cpu")


def test_memory_is_bounded(pool: Pool) -> None:
    profile = Profile(limits=Limits(memory=64 * 2**20))
    result = pool.run(["python3", "-c", "x=[]\nwhile 1: x.append(bytearray(b'x' * (4 << 20)))"], profile=profile)
    assert (result.status, result.killed_by, "memory" in result.limit_hits) == ("killed", "memory", True)


# --- streaming, cancelling, waiting ---


def test_output_is_streamed_up_to_the_limit(pool: Pool) -> None:
    run = pool.start(["sh", "-c", "seq 1 100000"], profile=Profile(limits=Limits(output=10_000)), stream=True)
    streamed = b"".join(chunk for _, chunk in run.events())
    assert len(streamed) == 10_000
    assert run.result().stdout.startswith(streamed[:7500])


def test_a_slow_reader_does_not_stop_the_clock(pool: Pool) -> None:
    profile = Profile(limits=Limits(wall=1.0, output=64 * 2**20), grace=0.1)
    run = pool.start(["yes"], profile=profile, stream=True)
    started = time.monotonic()
    time.sleep(1.5)  # what a slow reader does; the worker must not wait for it
    assert (run.result().killed_by, time.monotonic() - started < 30) == ("timeout", True)


def test_a_running_command_is_cancelled(pool: Pool) -> None:
    run = pool.start(["sh", "-c", "echo up; exec sleep 60"], stream=True)
    next(run.events())
    run.cancel()
    assert (run.result().status, run.result().killed_by) == ("killed", "cancelled")


def test_the_end_of_its_owner_is_a_reason_of_its_own(pool: Pool) -> None:
    run = pool.start(["sleep", "60"])
    run.cancel("owner")
    assert run.result().killed_by == "owner"


def test_waiting_has_a_limit_and_the_run_goes_on(pool: Pool) -> None:
    run = pool.start(["sh", "-c", "sleep 0.5; echo done"])
    with pytest.raises(TimeoutError):
        run.result(0.05)
    assert run.result().text == "done\n"


def test_threads_share_a_pool(pool: Pool) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda n=n: found.append(sh(pool, f"echo {n}"))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found, key=int) == [f"{n}\n" for n in range(12)]


def test_an_event_loop_drives_a_pool(pool: Pool) -> None:
    run = pool.start(["echo", "hello"])
    eventually(lambda: (pool.step(0.0), run.done())[1], what="done by steps alone")
    assert run.result().text == "hello\n"


def test_an_unknown_profile_is_an_error_of_the_caller(pool: Pool) -> None:
    with pytest.raises(ProfileError, match=r"there is no profile 'defualt'; did you mean 'default'?"):
        pool.run(["true"], profile="defualt")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_an_error_of_the_caller(pool: Pool, timeout: float) -> None:
    with pytest.raises(ProfileError, match="expected seconds, more than 0"):
        pool.run(["true"], timeout=timeout)


def test_a_pool_that_is_closed_while_others_wait_tells_them(own_settings: PoolSettings, launcher: str | None) -> None:
    pool = Pool(own_settings, launcher=launcher)
    run = pool.start(["sleep", "60"])
    found: list[str | None] = []
    waiter = threading.Thread(target=lambda: found.append(run.result().killed_by))
    waiter.start()
    eventually(lambda: pool.counters.workers_started and run.sent)
    pool.close()
    waiter.join(60)
    assert found == ["cancelled"]


def test_two_tenants_share_no_worker(pool: Pool) -> None:
    script = "cat /proc/sys/kernel/random/boot_id > /dev/null; cat /proc/self/mountinfo | grep ' / / ' | cut -d' ' -f3"
    one, other = sh(pool, script, tenant="one"), sh(pool, script, tenant="other")
    assert one != ""
    assert other != ""
    assert len(pool.workers()) == 2


# --- the pool itself ---


def test_a_full_queue_and_a_greedy_caller_are_told_at_once(own_settings: PoolSettings, launcher: str | None) -> None:
    given = dataclasses.replace(own_settings, max_queue=1, max_per_caller=2)
    with Pool(given, launcher=launcher) as pool:
        first, second = (pool.start(["sleep", "60"], caller="a") for _ in range(2))
        third, fourth = pool.start(["true"], caller="a"), pool.start(["true"], caller="b")
        assert [run.result().status for run in (third, fourth)] == ["busy", "busy"]
        second.cancel()
        assert second.result().status == "cancelled"
        first.cancel()
        first.result()


def test_a_run_that_waits_for_too_long_is_told(own_settings: PoolSettings, launcher: str | None) -> None:
    with Pool(dataclasses.replace(own_settings, queue_timeout=0.3), launcher=launcher) as pool:
        pool.run(["true"]).check()
        first = pool.start(["sleep", "60"])
        result = pool.start(["true"]).result()
        assert (result.status, result.queue_s) == ("busy", 0.3)
        first.cancel()
        first.result()


def test_a_worker_is_replaced_after_its_share(own_settings: PoolSettings, launcher: str | None) -> None:
    with Pool(dataclasses.replace(own_settings, recycle_after=2), launcher=launcher) as pool:
        pids = []
        for _ in range(4):
            pool.run(["true"]).check()
            pids.append(tuple(pool.workers()))
        assert pool.counters.workers_started == 2
        assert len(set(pids)) == 2


def test_a_closed_pool_has_ended_everything(own_settings: PoolSettings, launcher: str | None) -> None:
    pool = Pool(own_settings, launcher=launcher)
    pool.run(["true"]).check()
    run, waiting = pool.start(["sleep", "60"]), pool.start(["true"])
    workers = pool.workers()
    pool.close()
    assert (run.result().killed_by, waiting.result().status) == ("cancelled", "cancelled")
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)
    with pytest.raises(PoolClosed):
        pool.run(["true"])


def test_counters_are_true(own_settings: PoolSettings, launcher: str | None) -> None:
    with Pool(own_settings, launcher=launcher) as pool:
        pool.run(["true"])
        pool.run(["nope"])
        pool.run(["sleep", "60"], timeout=0.2)
        assert pool.counters.done == {"exited": 1, "not_found": 1, "killed": 1}
        assert pool.counters.killed_by == {"timeout": 1}


def test_a_command_whose_output_nobody_takes_waits_and_loses_nothing(
    own_settings: PoolSettings, launcher: str | None
) -> None:
    """The pool holds a bounded part of it meanwhile; the end of its time is its end all the same."""
    size = 8 << 20
    roomy = Profile(name="roomy", limits=Limits(output=2 * size))
    with Pool(own_settings, launcher=launcher) as pool:
        run = pool.start(["head", "-c", str(size), "/dev/zero"], profile=roomy, stream=True)
        pool.wait(lambda: run.is_full, 30)
        for _ in range(20):
            pool.step(0.01)
        assert (run.done(), run.unread < size // 4) == (False, True)
        assert sum(len(chunk) for _, chunk in run.events()) == size
        assert run.result().check().stdout_bytes == size
        ignored = pool.start(["cat", "/dev/zero"], profile=roomy, timeout=1.0, stream=True)
        assert (ignored.result().status, ignored.result().killed_by) == ("killed", "timeout")
        assert pool.run(["true"]).ok
