"""`otpd letters` in words, and what it refuses before it asks anybody."""

from __future__ import annotations

from typing import Any

import pytest

from otpd.cli.failures import Failure
from otpd.cli.letters_view import letter, letters, waiting
from otpd.cli.messages import _own
from otpd.cli.output import plain
from tests.cli.fake import FakeNode

LETTER: dict[str, Any] = {
    "seq": 7, "target": "books", "kind": "cast", "name": "paid", "sender": "shop", "id": "o1", "key": "shop", "attempts": 5,
    "max_attempts": 5, "reason": "raised", "error": "RuntimeError: no ink", "traceback": "Traceback:\n  no ink\n",
    "sent_at": 0.0, "died_at": 40.0, "replay_of": 3, "arguments": {"order": "A"},
}  # fmt: skip


def test_the_list_says_what_died_for_whom_and_why() -> None:
    head, row = (plain(line).split() for line in letters([LETTER], 100.0))
    assert head == ["LETTER", "DIED", "FOR", "WHAT", "FROM", "ATTEMPTS", "WHY"]
    assert " ".join(row) == "7 1m00s ago books paid shop 5 of 5 raised: RuntimeError: no ink"
    assert [plain(line) for line in letters([], 0.0)] == ["there are no dead letters"]


def test_one_is_shown_with_arguments_traceback_and_the_next_step() -> None:
    lines = [plain(line) for line in letter(LETTER, 100.0)]
    assert lines[0] == "letter 7: cast paid for books"
    assert 'arguments: {"order": "A"}' in lines and "|   no ink" in lines and "replay: of letter 3" in lines
    assert lines[-1] == "next: otpd letters replay 7, or purge"


def test_what_waits_is_shown_by_target() -> None:
    rows = waiting([{"target": "books", "messages": 3, "in_flight": 1, "oldest": 40.0}], 100.0)
    assert plain(rows[1]).split() == ["books", "3", "1", "1m00s", "ago"]


@pytest.mark.parametrize("words", [("replay",), ("purge",), ("replay", "3", "--all")])
def test_who_replays_or_purges_says_which(down: FakeNode, words: tuple[str, ...]) -> None:
    said = down.otpd("letters", *words, code=2).stderr
    assert "expected numbers of letters, or --all" in said


def test_what_is_a_durable_message_s_own_needs_durable_and_is_no_argument() -> None:
    assert _own(True, "o1", None, ("n=1",)) == {"id": "o1"}
    with pytest.raises(Failure, match="--id is of a durable message"):
        _own(False, "o1", None, ())
    with pytest.raises(Failure, match="the argument id=3 would be the message's own"):
        _own(True, None, None, ("id=3",))
