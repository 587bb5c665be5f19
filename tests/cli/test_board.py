"""The keys of `otpd top`: what they choose, and what they do."""

from __future__ import annotations

import pytest

from otpd.cli.board import Board, Look
from otpd.cli.output import Style, plain
from otpd.cli.tree_view import Usage
from tests.cli.fake import AT, worker

ROWS = [worker("b", pid=1) | {"inbox": 1}, worker("a", pid=2) | {"inbox": 9}, worker("c", pid=3) | {"inbox": 0}]
LOOK = Look(ROWS, {1: Usage(5.0, 10, 1), 2: Usage(1.0, 30, 1)}, {"a": 1.0, "c": 8.0}, AT)


@pytest.mark.parametrize(
    ("key", "order"),
    [("c", "bac"), ("m", "abc"), ("n", "abc"), ("i", "abc"), ("s", "cab"), ("t", "bac")],
)
def test_a_key_sorts(key: str, order: str) -> None:
    board = Board(order="name")
    assert board.press(key) is None
    board.lines(LOOK)
    assert "".join(board.names) == order


def test_the_arrows_choose_a_row_and_stop_at_both_ends() -> None:
    board = Board()
    board.lines(LOOK)
    seen = []
    for key in ("down", "down", "down", "down", "up"):
        board.press(key)
        seen.append(board.chosen)
    assert seen == ["b", "a", "c", "c", "a"]


def test_the_chosen_row_stands_out() -> None:
    board = Board(chosen="a")
    marked = [plain(line) for line in board.lines(LOOK) if line and line[0].style is Style.CHOSEN]
    assert [line.split()[0] for line in marked] == ["a"]


def test_a_restart_needs_its_y() -> None:
    board = Board(chosen="a")
    assert board.press("r") is None
    assert plain(board.lines(LOOK)[1]) == "restart a? y, or any other key"
    assert board.press("y") == "a"
    assert board.asked is None


def test_any_other_key_calls_a_restart_off_and_does_nothing_else() -> None:
    board = Board(chosen="a")
    board.press("r")
    assert board.press("n") is None
    assert (board.asked, board.order) == (None, "tree")


def test_nothing_is_restarted_without_a_choice() -> None:
    board = Board()
    board.press("r")
    assert (board.asked, board.press("y")) == (None, None)


def test_w_reads_why_and_goes_back() -> None:
    board = Board(chosen="a")
    board.press("w")
    assert board.reading == "a"
    board.press("w")
    assert board.reading is None


def test_a_choice_that_is_gone_begins_at_the_top_again() -> None:
    board = Board(chosen="gone")
    board.lines(LOOK)
    board.press("down")
    assert board.chosen == "b"
