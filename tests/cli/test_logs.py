"""`otpd logs` as people and scripts see it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from otpd.cli.logs import follow_all, logs, visible
from otpd.supervisor.paths import NodePaths
from tests.helpers import eventually
from tests.supervisor.logwriting import Writing

#: The command as a process of its own; argv[1] is the state directory.
COMMAND = """
import sys, pathlib
from otpd.cli.logs import logs
from otpd.supervisor.paths import NodePaths
class Context:
    def paths(self):
        return NodePaths(pathlib.Path(sys.argv[1]), pathlib.Path("/nowhere"))
logs(sys.argv[2:], prog_name="otpd logs", obj=Context())
"""


class Context:
    def __init__(self, state: Path) -> None:
        self._state = state

    def paths(self) -> NodePaths:
        return NodePaths(self._state, Path("/nowhere"))


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def writing(state: Path) -> Writing:
    writing = Writing(state / "logs", max_bytes=1000)
    writing.at = datetime.fromisoformat("2026-01-02T03:04:05.500+00:00").timestamp()
    return writing


def run(state: Path, *arguments: str) -> Result:
    return CliRunner().invoke(logs, arguments, obj=Context(state))


def start(state: Path, *arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(state), *arguments], stdout=stdout)


def test_lines_are_shown_with_time_and_name_by_time(state: Path, writing: Writing) -> None:
    writing.write("feed-1", b"tick\n")
    writing.write("web", b"started\n")
    writing.write("web", b"half a line")
    assert run(state).output.splitlines() == [
        "2026-01-02 03:04:05.500 feed-1 | tick",
        "2026-01-02 03:04:06.500 web    | started",
        "2026-01-02 03:04:07.500 web    | half a line",
    ]


def test_only_the_wanted_names_are_shown(state: Path, writing: Writing) -> None:
    for name in ("a", "b", "c"):
        writing.write(name, name.encode() + b" line\n")
    assert [line.split("| ")[1] for line in run(state, "a", "c").output.splitlines()] == ["a line", "c line"]


def test_the_name_of_a_group_means_its_instances(state: Path, writing: Writing) -> None:
    for name in ("feed-10", "feed-2", "feed-x", "feeder-1"):
        writing.write(name, b"line\n")
    shown = [line.split()[2] for line in run(state, "feed").output.splitlines()]
    assert shown == ["feed-10", "feed-2"]


def test_the_last_100_lines_are_shown_unless_told_otherwise(state: Path, writing: Writing) -> None:
    writing.write("web", b"".join(b"%d\n" % number for number in range(300)))
    shown = {
        options: [line.split("| ")[1] for line in run(state, *options).output.splitlines()]
        for options in ((), ("-n", "2"), ("-n", "0"), ("-n", "all"), ("--since", "87600h"))
    }
    everything = [str(number) for number in range(300)]
    assert shown == {
        (): everything[-100:],
        ("-n", "2"): ["298", "299"],
        ("-n", "0"): [],
        ("-n", "all"): everything,
        ("--since", "87600h"): everything,
    }


def test_since_shows_the_last_while(state: Path, writing: Writing) -> None:
    writing.at = time.time() - 3600
    writing.write("web", b"old\n")
    writing.at = time.time() - 60
    writing.write("web", b"new\nnewest\n")
    assert [line.split("| ")[1] for line in run(state, "--since", "10m").output.splitlines()] == ["new", "newest"]
    assert [line.split("| ")[1] for line in run(state, "--since", "10m", "-n1").output.splitlines()] == ["newest"]


def test_json_has_one_object_per_line(state: Path, writing: Writing) -> None:
    at = writing.at
    writing.write("web", b"\x1b[31mred\x1b[0m \xff\r\n", 3)
    writing.gap("web", 17, 3)
    assert [json.loads(line) for line in run(state, "--json").output.splitlines()] == [
        {"at": at, "name": "web", "generation": 3, "line": "\x1b[31mred\x1b[0m \\xff\r"},
        {"at": at + 1, "name": "web", "generation": 3, "line": "[otpd: 17 bytes dropped]", "dropped": 17},
    ]


def test_raw_is_every_byte(state: Path, writing: Writing) -> None:
    data = bytes(range(256)) * 20 + b"\n"
    writing.write("web", data)
    writing.write("web", b"last\n")
    assert run(state, "web", "--raw").stdout_bytes == data + b"last\n"
    assert run(state, "web", "--raw", "-n", "1").stdout_bytes == b"last\n"


@pytest.mark.parametrize(
    ("printed", "plain", "coloured"),
    [
        ("text", "text", "text"),
        ("\x1b[31mred\x1b[0m", "red", "\x1b[31mred\x1b[0m\x1b[0m"),
        ("10%\r 50%\r100%", "100%", "100%"),
        ("dos\r", "dos", "dos"),
        ("clear\x1b[2J\x1b[H\x1b]0;title\x07\x1b(Bdone", "cleardone", "cleardone"),
        ("bell\x07 nul\x00 esc\x1b", "bell\\x07 nul\\x00 esc\\x1b", "bell\\x07 nul\\x00 esc\\x1b"),
        ("tab\tü", "tab\tü", "tab\tü"),
        ("c1\x9b31m", "c1\\x9b31m", "c1\\x9b31m"),
    ],
)
def test_nothing_but_colour_reaches_a_terminal_and_nothing_at_all_a_pipe(printed: str, plain: str, coloured: str) -> None:
    assert (visible(printed, False), visible(printed, True)) == (plain, coloured)


def test_a_terminal_gets_colours(state: Path, writing: Writing) -> None:
    writing.write("web", b"\x1b[31mred\x1b[0m\n")
    ours, theirs = pty.openpty()
    with start(state, stdout=theirs) as process:
        os.close(theirs)
        shown = os.read(ours, 1000)
        assert process.wait(60) == 0
    os.close(ours)
    assert b"\x1b[31mred\x1b[0m" in shown and shown.count(b"\x1b[") >= 4


def test_an_unknown_name_is_answered_with_the_nearest(state: Path, writing: Writing) -> None:
    writing.write("inventory", b"x\n")
    done = run(state, "inventroy")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr == (f"Error: no child called 'inventroy' has a log in {state}/logs; did you mean inventory?\n")
    done = run(state, "zzz")
    assert done.exit_code == 4
    assert "there are inventory; see otpd tree" in done.stderr


def test_a_child_that_printed_nothing_is_known(state: Path) -> None:
    (state / "logs" / "mute").mkdir(parents=True)
    assert (run(state, "mute").exit_code, run(state, "mute").output) == (0, "")


def test_a_node_that_never_ran_says_so(state: Path) -> None:
    done = run(state)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == f"nothing was logged in {state}/logs yet; start the node with: otpd start\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-n", "-1"), "expected a number of lines"),
        (("-n", "x"), "expected a number of lines"),
        (("--since", "10"), "expected a duration"),
        (("--json", "--raw"), "exclude each other"),
    ],
)
def test_wrong_use_is_refused(state: Path, arguments: tuple[str, ...], text: str) -> None:
    done = run(state, *arguments)
    assert done.exit_code == 2
    assert text in done.stderr


def test_following_shows_what_comes_and_ends_quietly_with_ctrl_c(state: Path, writing: Writing) -> None:
    writing.write("web", b"0\n1\n2\n")
    with start(state, "-f", "-n", "1") as process:
        assert process.stdout
        assert process.stdout.readline().endswith(b"web | 2\n")
        for number in range(3, 300):
            writing.write("web", b"%d\n" % number)
        writing.write("late", b"hello\n")
        shown = [process.stdout.readline().split(b"| ")[1] for _ in range(298)]
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b""
        assert process.wait(60) == 0
    assert sorted(shown) == sorted([b"hello\n", *(b"%d\n" % number for number in range(3, 300))])


def test_following_raw_copies_bytes(state: Path, writing: Writing) -> None:
    writing.write("web", b"no newline")
    with start(state, "-f", "--raw", "web") as process:
        assert process.stdout
        assert process.stdout.read(10) == b"no newline"
        writing.write("web", b"\0\xff")
        assert process.stdout.read(2) == b"\0\xff"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize("options", [(), ("--json",), ("--raw",), ("-f",), ("-f", "--raw")])
def test_a_reader_that_has_seen_enough_ends_it_quietly(state: Path, writing: Writing, options: tuple[str, ...]) -> None:
    writing.policy = type(writing.policy)(max_bytes=1 << 20)
    writing.write("web", b"".join(b"line %d\n" % number for number in range(50_000)))
    command = [sys.executable, "-c", COMMAND, str(state), "-n", "all", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert (process.wait(60), process.stderr.read()) == (0, b"")


def test_following_ends_when_the_reader_is_gone_though_nothing_more_is_printed(state: Path, writing: Writing) -> None:
    writing.write("web", b"only line\n")
    with start(state, "-f") as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0


def test_the_console_follows_everybody_from_a_point_in_time(state: Path, writing: Writing) -> None:
    writing.at = time.time() - 100
    writing.write("web", b"before\n")
    began = writing.at
    writing.write("web", b"first\n")
    shown: list[str] = []
    stop = threading.Event()
    paths = NodePaths(state, state)
    console = threading.Thread(target=follow_all, args=(paths, shown.append, began, stop.is_set))
    console.start()
    eventually(lambda: shown == ["web | first\n"])
    writing.write("worker", b"new\n")
    eventually(lambda: shown == ["web | first\n", "worker | new\n"])
    stop.set()
    console.join(60)
    assert not console.is_alive()
