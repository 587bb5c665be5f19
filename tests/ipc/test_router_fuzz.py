"""Whatever a peer or a stranger sends, nobody else is touched and nothing is raised (K7; T48 and test 60 of the faults)."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpd.ipc import limits
from otpd.ipc.wire import INNER, OUTER, Kind, Lane, join
from tests.ipc.switchboard import SECOND, Switchboard

LANES = st.sampled_from(list(Lane))
WHATS = ["stats", "letters", "breaker", "whereis", "replace", "keys", "unlock", "weather"]
#: Names of others, of groups and topics, and what is none.
WORDS = st.sampled_from(["a", "b", "g", "x.*", "name", "group", "key", "hash", "all", "", ".", "*", "\udcff", "k" * 2000])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
REF = st.integers(0, 3)
#: Of the right shape, with whatever words.
SHAPES = {
    "bind": [REF, st.sampled_from(["name", "group", "key"]), WORDS, st.sampled_from(["any", "hash", "all"])],
    "credit": [st.integers(-1, 10**6), st.integers(-1, 10**6)],
    "cancel": [REF],
    "monitor": [REF, WORDS, st.booleans()],
    "demonitor": [REF],
    "link": [WORDS],
    "unlink": [WORDS],
    "trap": [st.booleans()],
    "subscribe": [REF, WORDS],
    "unsubscribe": [REF],
    "join": [WORDS],
    "leave": [WORDS],
}
VERBS = ["hello", "bye", "ask", "welcome", *SHAPES]
IN_DATA = ("bind", "subscribe", "unsubscribe", "join", "leave")
SHAPELY = st.one_of(
    st.sampled_from(list(SHAPES)).flatmap(lambda verb: st.tuples(st.just(verb), st.tuples(*SHAPES[verb]).map(list))),
    st.tuples(st.just("ask"), st.tuples(REF, st.sampled_from(["register", "update"]), WORDS, VALUES).map(list)),
    st.tuples(st.just("ask"), st.tuples(REF, st.sampled_from(["lock", "lookup", "members"]), WORDS).map(list)),
)
COMMANDS = st.one_of(
    st.tuples(st.just("ask"), st.tuples(st.integers(0, 9), st.sampled_from(WHATS)).flatmap(lambda head: _more(list(head)))),
    st.tuples(st.just("hello"), st.lists(VALUES, max_size=2)),
    st.tuples(st.sampled_from(VERBS), st.lists(VALUES, max_size=4)),
)


def _more(head: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(VALUES, max_size=3).map(lambda rest: head + rest)


def said(commands: list[tuple[str, list[Any]]]) -> bytes:
    bodies = [msgpack.packb([verb, *values], unicode_errors="surrogateescape") for verb, values in commands]
    return join(Kind.SYSTEM, 0, [(0, 0, body) for body in bodies])


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Headers that are nearly right."""
    bodies = draw(st.lists(st.binary(max_size=40), max_size=3))
    payload = b"".join(INNER.pack(len(body) + draw(st.sampled_from([0, 0, 0, 1, 9])), 1, 1) + body for body in bodies)
    count = len(bodies) + draw(st.sampled_from([0, 0, 0, 1, 200]))
    kind, version = draw(st.integers(0, 6)), draw(st.sampled_from([1, 1, 1, 2]))
    length = 16 + len(payload) + draw(st.sampled_from([0, 0, 0, 1]))
    return OUTER.pack(version, kind, count, draw(st.integers(0, 2)), length, draw(st.integers(0, 4))) + payload


def in_its_lane(command: tuple[str, list[Any]]) -> tuple[Lane, bytes]:
    return Lane.DATA if command[0] in IN_DATA else Lane.SYSTEM, said([command])


THINGS = st.lists(
    st.one_of(
        SHAPELY.map(in_its_lane),
        SHAPELY.map(in_its_lane),
        st.tuples(LANES, st.binary(max_size=60) | frames() | st.lists(COMMANDS, min_size=1, max_size=3).map(said)),
    ),
    max_size=20,
)


@settings(max_examples=100)
@given(things=THINGS)
def test_a_peer_may_send_anything(things: list[tuple[Lane, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "STRIKES", 1000)  # so that it is listened to till the end
        send_all(things)


def send_all(things: list[tuple[Lane, bytes]]) -> None:
    board = Switchboard()
    a, b, c = board.agents("a", "b", "c")
    a.handle("b")
    b.say_data("subscribe", 1, "**")
    for lane, frame in things:
        a.send(lane, frame)
    board.wait(SECOND)
    board.root("stats", 1)
    b.cast("c", b"still there")
    assert c.casts()[-1] == ("b", b"still there")
    board.reborn(a)
    board.wait(60 * SECOND)
    assert not b.stale and not c.stale


@settings(max_examples=60)
@given(things=THINGS, loaded=st.booleans())
def test_a_stranger_may_send_anything_and_is_heard_by_nobody(things: list[tuple[Lane, bytes]], loaded: bool) -> None:
    board = Switchboard(snapshot=loaded)
    for number, (lane, frame) in enumerate(things):
        board.router.frame(b"stranger%d" % (number % 2), lane, frame, board.now, number or None)
    board.wait(5 * SECOND)
    board.snapshot()
    board.wait(5 * SECOND)
    (a, b) = board.agents("a", "b")
    a.cast("b", b"1")
    assert b.casts() == [("a", b"1")] and board.router._lobby._guests == {}


def test_a_value_that_is_nested_too_deeply_to_be_told_is_refused() -> None:
    board = Switchboard()
    (a,) = board.agents("a")
    for ref, depth, answer in ((1, 1000, True), (2, 1021, ("refused",))):
        raw = b"\x95\xa3ask" + bytes([ref]) + b"\xa8register\xa1" + b"%d" % ref + b"\x91" * depth + b"\x01"
        a.send(Lane.SYSTEM, join(Kind.SYSTEM, 0, [(0, 0, raw)]))
        assert a.answer(ref) == answer
