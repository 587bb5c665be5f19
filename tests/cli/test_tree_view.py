"""`otpd tree`: golden text, golden JSON, colour only at a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import Any

from otpd.cli.output import coloured, plain
from otpd.cli.tree_view import Usage, budget, render
from tests.cli.fake import AT, OTPD, FakeNode, supervisor, tree, wide_tree, worker

GOLDEN = """\
● shop  running  one_for_one, no restart limit  pid 4711, heart 4710, up 12m34s
├─ ● pricing  running  rest_for_one  restarts used 1/3 in 5s
│  ├─ ● feed  running  pid 4720  gen 3  2 restarts  up 12s                 last exit: killed 1m30s ago
│  └─ ◌ calc  backoff            gen 9  8 restarts  next attempt in 2.12s  last exit: error(1) 2s ago
└─ ✗ web      failed             gen 1  0 restarts                         gunicorn: command not found"""

ASCII = """\
* shop  running  one_for_one, no restart limit  pid 4711, heart 4710, up 12m34s
|- * pricing  running  rest_for_one  restarts used 1/3 in 5s
|  |- * feed  running  pid 4720  gen 3  2 restarts  up 12s                 last exit: killed 1m30s ago
|  `- . calc  backoff            gen 9  8 restarts  next attempt in 2.12s  last exit: error(1) 2s ago
`- x web      failed             gen 1  0 restarts                         gunicorn: command not found"""


def text(answer: dict[str, Any], **options: Any) -> str:
    return "\n".join(plain(line) for line in render(answer, AT, **options))


def test_the_picture_in_unicode() -> None:
    assert text(tree()) == GOLDEN


def test_the_picture_in_ascii() -> None:
    assert text(tree(), unicode=False) == ASCII


def test_resources_stand_before_the_past() -> None:
    shown = text(tree(), usage={4720: Usage(12.34, 5 * 2**20, 3)})
    assert "up 12s                  12.3%     5.0MiB  last exit: killed" in shown


def test_a_node_without_children_is_one_line() -> None:
    empty = tree()
    empty["tree"]["children"] = []
    assert text(empty) == GOLDEN.splitlines()[0]


def test_a_supervisor_that_waits_says_why_and_for_how_long() -> None:
    answer = tree()
    answer["tree"]["children"] = [
        supervisor("s", "s", [], state="backoff", restarts=2, restarts_in_window=3, next_attempt_s=0.5, what="shutdown")
    ]
    assert text(answer).splitlines()[1] == (
        "└─ ◌ s  backoff  one_for_one  restarts used 3/3 in 5s  2 restarts  next attempt in 0.5s  shutdown"
    )


def test_what_was_added_by_hand_is_marked() -> None:
    answer = tree()
    answer["tree"]["children"] = [worker("feed-4", runtime=True)]
    assert text(answer).splitlines()[1] == "└─ ● feed-4  running  pid 4720  gen 1  0 restarts  up 12m30s  runtime"


def test_children_of_a_worker_stand_below_it() -> None:
    answer = tree()
    deep = worker("deep", "boss/x/deep", pid=4722, runtime=True)
    own = [worker("x", "boss/x", pid=4721, runtime=True, children=[deep]), worker("y", "boss/y", pid=4723, runtime=True)]
    answer["tree"]["children"] = [worker("boss", children=own), worker("web", pid=4724)]
    assert text(answer).splitlines()[1:] == [
        "├─ ● boss        running  pid 4720  gen 1  0 restarts  up 12m30s",
        "│  ├─ ● x        running  pid 4721  gen 1  0 restarts  up 12m30s  runtime",
        "│  │  └─ ● deep  running  pid 4722  gen 1  0 restarts  up 12m30s  runtime",
        "│  └─ ● y        running  pid 4723  gen 1  0 restarts  up 12m30s  runtime",
        "└─ ● web         running  pid 4724  gen 1  0 restarts  up 12m30s",
    ]
    shown = text(answer, usage={4722: Usage(12.34, 5 * 2**20, 3)}).splitlines()
    assert "12.3%     5.0MiB" in shown[3] and "MiB" not in shown[2]


def test_a_name_can_do_nothing_to_the_terminal() -> None:
    answer = tree()
    answer["tree"]["children"] = [worker("a\x1b[2Jb\n")]
    assert "\x1b" not in text(answer) and len(text(answer).splitlines()) == 2


def test_budget_in_words() -> None:
    assert budget(supervisor("s", "", [], max_restarts=None)) == "no restart limit"
    assert budget(supervisor("s", "", [], restarts_in_window=2, max_seconds=60)) == "restarts used 2/3 in 1m00s"


def test_a_line_is_cut_to_the_width_of_a_terminal_but_never_for_a_pipe() -> None:
    line = render(tree(), AT)[2]
    assert len(re.sub(r"\x1b\[\d*m", "", coloured(line, 40))) == 40
    assert plain(line).endswith("1m30s ago")


def test_json_is_what_root_answered(node: FakeNode) -> None:
    assert node.json("tree") == tree()
    assert node.asked("tree") == [{}]


def test_a_pipe_gets_neither_colour_nor_cuts(node: FakeNode) -> None:
    shown = node.otpd("tree", env={"COLUMNS": "20"}).stdout
    assert "\x1b" not in shown
    assert shown.splitlines()[0] == GOLDEN.splitlines()[0]


def test_a_terminal_gets_colour_cut_to_its_width(node: FakeNode) -> None:
    shown = at_a_terminal(node, ["tree"], COLUMNS="60")
    assert "\x1b[32m●\x1b[0m" in shown
    assert max(len(re.sub(r"\x1b\[\d*m", "", line)) for line in shown.splitlines()) == 60


def test_no_color_is_respected_at_a_terminal(node: FakeNode) -> None:
    assert "\x1b" not in at_a_terminal(node, ["tree"], NO_COLOR="1")


def test_watch_draws_on_the_other_screen_until_q(node: FakeNode) -> None:
    shown = at_a_terminal(node, ["tree", "-w"], keys=b"q")
    assert shown.startswith("\x1b[?1049h\x1b[?25l\x1b[H") and shown.endswith("\x1b[?25h\x1b[?1049l")
    assert "shop" in shown


def test_watch_shows_what_fits_and_counts_the_rest(node: FakeNode) -> None:
    node.answers["tree"] = wide_tree(100)
    shown = at_a_terminal(node, ["tree", "-w"], keys=b"q", LINES="10", COLUMNS="80")
    assert "... 103 more lines" in shown


def test_watch_outlives_root(node: FakeNode) -> None:
    node.answers["tree"] = lambda *_: node.hang_up()
    assert "went away" in at_a_terminal(node, ["tree", "-w"], keys=b"q")


def test_resources_are_measured_here_and_added_to_the_json(node: FakeNode) -> None:
    answer = tree()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        answer["tree"]["children"] = [worker("feed", pid=child.pid), worker("gone", pid=2**22 + 1)]
        node.answers["tree"] = answer
        feed, gone = node.json("tree", "--resources")["tree"]["children"]
    finally:
        child.communicate(b"\n")
    assert feed["resources"]["processes"] == 1 and feed["resources"]["memory"] > 1_000_000
    assert "resources" not in gone


def at_a_terminal(node: FakeNode, arguments: list[str], keys: bytes = b"", **env: str) -> str:
    """What the command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*OTPD, *arguments], cwd=node.home, env={**node.env, **env}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := _read(ours):
            shown += chunk
            if keys and b"\x1b[J" in shown:
                os.write(ours, keys)
                keys = b""
    finally:
        os.close(ours)
        assert process.wait(60) == 0
    return shown.decode()


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side is closed
        return b""
