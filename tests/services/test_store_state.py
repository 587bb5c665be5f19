"""Versions, fencing and checksums of the state of agents."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.services.store.refusals import DamagedState, Stale
from otpd.agents.services.store.schema import META, set_meta
from otpd.agents.services.store.state import MIGRATION, State, decide, get_state, list_states, put_state, replace_state


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(META + MIGRATION)
    yield connection
    connection.close()


def test_a_save_replaces_the_version_that_it_was_made_from() -> None:
    first = decide(None, 5, 0, b"a")
    assert first == State(1, 5, b"a")
    assert decide(first, 5, 1, b"b") == State(2, 5, b"b")
    assert decide(first, 7, None, b"b") == State(2, 7, b"b"), "without a version: whatever is there"


def test_an_older_incarnation_is_fenced_whatever_it_expects() -> None:
    there = State(3, 8, b"a")
    for expected in (None, 2, 3):
        with pytest.raises(Stale, match="a newer incarnation has saved its state"):
            decide(there, 7, expected, b"b")


def test_a_save_of_another_version_is_stale() -> None:
    with pytest.raises(Stale, match="its state has version 3, not 1: somebody else has changed it since"):
        decide(State(3, 8, b"a"), 8, 1, b"b")


def test_a_save_that_is_said_again_because_its_answer_was_lost_is_done_once() -> None:
    there = State(3, 8, b"a")
    assert decide(there, 8, 2, b"a") is there
    for inc, body in ((8, b"b"), (9, b"a")):
        with pytest.raises(Stale):
            decide(there, inc, 2, body)


@given(st.lists(st.tuples(st.integers(1, 4), st.none() | st.integers(0, 6), st.sampled_from([b"a", b"b"])), max_size=12))
def test_versions_have_no_gaps_and_incarnations_never_go_back(saves: list[tuple[int, int | None, bytes]]) -> None:
    """Invariant 45."""
    row: State | None = None
    for inc, expected, body in saves:
        before = row or State(0, 0, None)
        try:
            row = decide(row, inc, expected, body)
        except Stale:
            continue
        assert row.version in (before.version, before.version + 1)
        assert row.inc >= before.inc
        assert row is before or expected in (None, before.version)


def test_what_is_stored_is_found_and_listed(db: sqlite3.Connection) -> None:
    assert get_state(db, "a") == State(0, 0, None)
    assert put_state(db, "a", 5, 0, b"one", 1.5) == 1
    assert put_state(db, "a", 5, 1, b"two", 2.5) == 2
    assert get_state(db, "a") == State(2, 5, b"two")
    assert list_states(db) == [{"name": "a", "version": 2, "bytes": 3, "at": 2.5, "intact": True}]


def test_what_is_dropped_keeps_its_version_and_its_fence(db: sqlite3.Connection) -> None:
    put_state(db, "a", 5, 0, b"one", 1.5)
    assert replace_state(db, "a", None, 2.0) == 2
    assert get_state(db, "a") == State(2, 5, None)
    assert list_states(db) == []
    with pytest.raises(Stale):
        put_state(db, "a", 4, None, b"old", 3.0)
    assert put_state(db, "a", 5, 2, b"new", 3.0) == 3


@pytest.mark.parametrize("column", ["version = 7", "inc = 1", "body = x'00'", "body = NULL", "crc = 1"])
def test_nobody_is_given_a_row_that_is_not_as_it_was_written(db: sqlite3.Connection, column: str) -> None:
    put_state(db, "a", 5, 0, b"one", 1.5)
    db.execute(f"UPDATE state SET {column}")
    for use in (lambda: get_state(db, "a"), lambda: put_state(db, "a", 5, None, b"x", 2.0)):
        with pytest.raises(DamagedState, match="the state of a is damaged on the disk; put a good one in its place: otpd"):
            use()
    replace_state(db, "a", b"good", 3.0)
    assert get_state(db, "a").body == b"good"


def test_after_a_loss_a_name_without_a_row_is_no_new_name_until_somebody_says_so(db: sqlite3.Connection) -> None:
    put_state(db, "a", 5, 0, b"one", 1.5)
    set_meta(db, "loss", "yesterday: a page")
    assert get_state(db, "a").body == b"one"
    with pytest.raises(DamagedState, match="whether b had a state can't be told since the database has lost some"):
        get_state(db, "b")
    replace_state(db, "b", None, 2.0)
    assert get_state(db, "b") == State(1, 0, None)
