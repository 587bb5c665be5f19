"""What audit events mean: which call made them, at whose line, and what to use instead; each place is told once."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.agents.spawning import COMMAND, FORK_EXEC, PROCESS, PYTHON, SHARING, Code, Tally, attempt

FEED = Code("__main__", "Feed.fetch", "/srv/feed.py", 12)
LIFE = Code("otpd.agents.life", "Life.run", __file__.replace("tests/agents/test_spawning.py", "agents/life.py"), 70)
PLACE = "/srv/feed.py:12 in Feed.fetch"


def python(module: str, function: str) -> Code:
    return Code(module, function, f"{PYTHON}/{module.replace('.', '/')}.py", 1)


POPEN = python("subprocess", "Popen._execute_child")
RUN = python("subprocess", "run")
FORKED = python("multiprocessing.popen_fork", "Popen._launch")
PROCESS_START = python("multiprocessing.process", "BaseProcess.start")


@pytest.mark.parametrize(
    ("event", "args", "within", "call", "program", "instead"),
    [
        ("os.fork", (), [], "os.fork", "", PROCESS),
        ("os.forkpty", (), [python("pty", "fork")], "pty.fork", "", PROCESS),
        ("os.fork", (), [python("os", "_spawnvef"), python("os", "spawnlp")], "os.spawnlp", "", COMMAND),
        ("os.fork", (), [FORKED, PROCESS_START], "multiprocessing.process.BaseProcess.start", "", PROCESS),
        ("os.exec", (b"/bin/ls", [], {}), [python("os", "execlp")], "os.execlp", "ls", COMMAND),
        ("os.posix_spawn", ("/bin/true", ["true"], {}), [], "os.posix_spawn", "true", COMMAND),
        ("os.system", (b"git log --author=me",), [], "os.system", "git", COMMAND),
        ("pty.spawn", (("/bin/sh",),), [python("pty", "spawn")], "pty.spawn", "sh", COMMAND),
        ("subprocess.Popen", ("/bin/sh", ["git", "log"], None, None), [POPEN, RUN], "subprocess.run", "git", COMMAND),
        ("subprocess.Popen", ("x", [], None, None), [POPEN, RUN], "subprocess.run", "x", COMMAND),
        ("subprocess.Popen", (None, "ls", None, None), [POPEN, RUN], "subprocess.run", "ls", COMMAND),
        (FORK_EXEC, ("/usr/bin/python3",), [PROCESS_START], "multiprocessing.process.BaseProcess.start", "", PROCESS),
        (
            FORK_EXEC, ("python3",),
            [python("multiprocessing.resource_tracker", "ensure_running"), python("multiprocessing.shared_memory", "S")],
            "multiprocessing.shared_memory.S", "", SHARING,
        ),
        ("os.system", (object(),), [], "os.system", "?", COMMAND),
    ],
)  # fmt: skip
def test_an_event_is_told_as_the_call_that_the_script_knows(
    event: str, args: tuple[Any, ...], within: list[Code], call: str, program: str, instead: str
) -> None:
    found = attempt(event, args, [*within, FEED, LIFE])
    assert found is not None
    assert (found.call, found.program, found.place, found.instead) == (call, program, PLACE, instead)


@pytest.mark.parametrize(
    ("event", "within"),
    [
        ("os.posix_spawn", [python("subprocess", "Popen._posix_spawn"), RUN]),
        ("os.forkpty", [python("pty", "fork"), python("pty", "spawn")]),
    ],
)
def test_what_has_said_so_before_is_not_counted_twice(event: str, within: list[Code]) -> None:
    assert attempt(event, ("/bin/sh", [], {}), [*within, FEED]) is None


def test_the_line_of_a_library_is_the_place_and_not_who_imports_it() -> None:
    numpy = Code("numpy.distutils", "<module>", f"{PYTHON}/site-packages/numpy/x.py", 7)
    found = attempt("subprocess.Popen", ("uname", ["uname"], None, None), [POPEN, RUN, numpy, FEED])
    assert found is not None
    assert str(found) == f"subprocess.run('uname') at {PYTHON}/site-packages/numpy/x.py:7 in <module>"


def test_arguments_of_a_command_are_not_told() -> None:
    found = attempt("os.system", ("curl -H 'Authorization: secret'",), [FEED])
    assert found is not None and "secret" not in str(found) + repr(found)


def test_without_a_line_of_anybody_elses_the_outermost_is_the_place() -> None:
    found = attempt("os.fork", (), [LIFE])
    assert found is not None and (found.call, found.place) == ("os.fork", f"{LIFE.file}:70 in Life.run")
    found = attempt("os.fork", (), [])
    assert found is not None and found.place == "?:0 in ?"


def test_each_call_at_each_place_is_new_once_and_not_more_than_a_thousand() -> None:
    tally = Tally()
    places = [attempt("os.fork", (), [FEED._replace(line=line)]) for line in range(2000)]
    assert [tally.is_new(each) for each in [places[0], places[0], places[1]] if each] == [True, False, True]
    other = attempt("os.system", ("x",), [FEED._replace(line=0)])
    assert other is not None and tally.is_new(other)
    assert sum(tally.is_new(each) for each in places if each) == 1000 - 3


def test_all_are_counted_and_those_that_were_refused_also_by_themselves() -> None:
    tally = Tally()
    for refused in (False, True, True):
        tally.count(refused)
    assert (tally.seen, tally.refused) == (3, 2)
