"""Exit statuses of `otpd exec`, the table of `otpd commands`, and what doctor says of profiles."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.agents import BadArguments, BrokerLost, Exited, NodeNotRunning, NoProcess, OtpdError, Overloaded, Refused
from otpd.agents.sandbox import Capability, Limits, PoolSettings, Profile, Result
from otpd.agents.sandbox.capability import Bound, Gap, Unavailable
from otpd.cli.checkup import Level
from otpd.cli.commands import exit_code, remarks, table, undone
from otpd.cli.output import plain
from otpd.cli.sandboxes import judge

#: All that a default profile asks for.
LAYERS = dict.fromkeys(("no_new_privs", "seccomp", "view", "signals", "net"), "")


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (Result("r", "exited", exit_code=0), 0),
        (Result("r", "exited", exit_code=124), 124),
        (Result("r", "signaled", signal=11), 139),
        (Result("r", "killed", killed_by="timeout", signal=9), 124),
        (Result("r", "killed", killed_by="memory", signal=9), 137),
        (Result("r", "killed", killed_by="cancelled", signal=15), 130),
        (Result("r", "refused"), 125),
        (Result("r", "setup_failed"), 125),
        (Result("r", "not_executable"), 126),
        (Result("r", "not_found"), 127),
    ],
)
def test_the_exit_status_is_that_of_the_command_or_says_what_ended_it(result: Result, code: int) -> None:
    assert exit_code(result) == code


@pytest.mark.parametrize(
    ("error", "code", "hint"),
    [
        (Exited("call of commands.read: it died", reason="killed"), 125, "see why: otpd why commands"),
        (BrokerLost("x"), 125, "it comes back by itself; run it again"),
        (Overloaded("x"), 125, "see what runs: otpd commands"),
        (Refused("x"), 125, "see: otpd exec --help, and [commands] of otpd.toml"),
        (NoProcess("nobody is called commands; look: otpd status"), 125, "look: otpd status"),
        (BadArguments("argv; see docs"), 2, "see docs"),
        (NodeNotRunning("none; start it"), 7, "start it"),
    ],
)
def test_what_otpd_could_not_do_is_not_told_by_an_exit_status_of_the_command(error: OtpdError, code: int, hint: str) -> None:
    failure = undone(error)
    assert (failure.code, failure.hint) == (code, hint)


def test_output_that_is_cut_is_no_secret_whatever_the_exit_status() -> None:
    cut = "stdout is cut: it had 3.0MiB, more than `limits.output`; raise it, or write to a file"
    assert list(remarks(Result("r", "exited", exit_code=0, stdout_bytes=3 * 2**20, stdout_truncated=True))) == [cut]
    assert list(remarks(Result("r", "signaled", signal=11, stdout_bytes=5))) == ["signaled SIGSEGV"]
    gone = {"code": "not_found", "layer": "", "text": "nosuch: not found.", "fix": "look at PATH"}
    assert list(remarks(Result("r", "not_found", error=gone))) == ["not_found: nosuch: not found; look at PATH"]


def test_commands_are_shown_oldest_first_and_then_those_that_run() -> None:
    who = {"caller": "builder", "profile": "build", "at": 100.0}
    use = {"wall_s": 1.5, "cpu_s": 0.25, "max_rss": 2**20}
    ended = {**who, **use, "id": "c1-1", "status": "killed", "killed_by": "memory", "argv": "make \x1b[31m"}
    running = {**who, "id": "c1-2", "state": "running", "s": 3.0, "argv": "sleep 9"}
    found: dict[str, Any] = {"last": [ended], "running": [running]}
    assert [plain(line) for line in table(found, 160.0)] == [
        "ID    CALLER   PROFILE  STATE           TIME  CPU    MEMORY  WHEN       COMMAND",
        r"c1-1  builder  build    killed: memory  1.5s  0.25s  1.0MiB  1m00s ago  make \x1b[31m",
        "c1-2  builder  build    running         3s    -      -       1m00s ago  sleep 9",
    ]


def test_doctor_says_which_profiles_are_refused_here_and_why() -> None:
    native = Capability("native", LAYERS, {"netns": Gap("none")}, {"memory": Bound("best-effort", "watch")}, "c")
    strict = Profile("strict", limits=Limits(memory_mode="hard"))
    found = list(judge(PoolSettings(profiles={"default": Profile(), "strict": strict}), [native]))
    assert [(each.check, each.level) for each in found] == [("commands", Level.OK), ("profile strict", Level.WARN)]
    assert found[0].what == "run in the sandbox native (launcher: c), without netns"
    assert found[1].what.startswith('refused here, no command of it runs: profile "strict" asks for what the backend "nat')
    assert 'allow_degraded = ["memory"]' in found[1].advice


def test_where_no_sandbox_can_be_built_doctor_says_that_every_command_is_refused() -> None:
    away = Unavailable("native", "clone: not permitted", "allow user namespaces")
    (found,) = judge(PoolSettings(backend="native"), [away, Capability("bwrap")])
    assert found.what == "every command is refused: no sandbox can be built here (native: clone: not permitted)"
    assert (found.level, found.advice) == (Level.WARN, "allow user namespaces")
