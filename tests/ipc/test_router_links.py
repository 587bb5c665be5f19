"""Links (statements H5, H6; invariant 21)."""

from __future__ import annotations

import itertools

import pytest

from otpd.ipc import limits
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard, inc_of

GRACE = 20 * MS


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def end(board: Switchboard, agent: Agent, reason: str = "killed") -> None:
    board.death(agent, reason)
    board.wait(GRACE)


@pytest.mark.parametrize("dying", ["who linked", "who was linked"])
def test_h5_an_abnormal_exit_ends_the_other_whoever_made_the_link(board: Switchboard, dying: str) -> None:
    a, b = board.agents("a", "b")
    a.say("link", "b")
    assert (a.heard("linked"), b.heard("linked")) == ([["linked", "b", 1]], [["linked", "a", 1]])
    dead, other = (a, b) if dying == "who linked" else (b, a)
    end(board, dead, "error(1)")
    assert board.terminated() == [[other.name, other.inc, f"linked({dead.name}, error(1))"]]
    assert other.heard("exit") == []


@pytest.mark.parametrize("reason", ["shutdown", "killed", "signal(6)", "error(1)", "linked(c, killed)"])
def test_h5_every_reason_but_normal_propagates(board: Switchboard, reason: str) -> None:
    a, b = board.agents("a", "b")
    a.say("link", "b")
    end(board, b, reason)
    assert board.terminated() == [["a", a.inc, f"linked(b, {reason})"]]


def test_h5_normal_does_not(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("link", "b")
    end(board, b, "normal")
    assert board.terminated() == [] and a.heard("unlinked") == [["unlinked", "b"]]


@pytest.mark.parametrize("reason", ["normal", "killed"])
def test_h5_who_traps_exits_gets_a_message(board: Switchboard, reason: str) -> None:
    a, b = board.agents("a", "b")
    a.say("trap", True)
    a.say("link", "b")
    end(board, b, reason)
    assert a.heard("exit") == [["exit", "b", 1, reason]] and board.terminated() == []


def test_h5_the_trap_can_be_taken_off_again(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for on in (True, False):
        a.say("trap", on)
    a.say("link", "b")
    end(board, b)
    assert len(board.terminated()) == 1


def test_h5_there_is_one_link_per_pair(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("trap", True)
    for agent, other in ((a, "b"), (b, "a"), (a, "b")):
        agent.say("link", other)
    end(board, b)
    assert a.heard("exit") == [["exit", "b", 1, "killed"]] and len(a.heard("linked")) == 1


@pytest.mark.parametrize("who", ["a", "b"])
def test_h5_either_side_can_end_the_link(board: Switchboard, who: str) -> None:
    a, b = board.agents("a", "b")
    a.say("link", "b")
    one, other = (a, b) if who == "a" else (b, a)
    one.say("unlink", other.name)
    assert other.heard("unlinked") == [["unlinked", one.name]]
    end(board, b)
    assert board.terminated() == []


@pytest.mark.parametrize("trap", [True, False])
def test_h5_a_link_to_nobody_is_an_exit_noproc(board: Switchboard, trap: bool) -> None:
    (a,) = board.agents("a")
    a.say("trap", trap)
    a.say("link", "nobody")
    assert a.heard("exit") == ([["exit", "nobody", 0, "noproc"]] if trap else [])
    assert board.terminated() == ([] if trap else [["a", a.inc, "linked(nobody, noproc)"]])


def test_h5_a_link_holds_an_incarnation_not_a_name(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("trap", True)
    a.say("link", "b")
    new = board.reborn(b)
    end(board, new)
    assert a.heard("exit") == [["exit", "b", 1, "killed"]]


def test_a_link_to_oneself_is_none(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.say("link", "a")
    end(board, a)
    assert board.terminated() == [] and a.heard("linked") == []


def test_h6_a_cycle_ends_each_of_its_members_once(board: Switchboard) -> None:
    a, b, c = agents = board.agents("a", "b", "c")
    for agent, other in ((a, "b"), (b, "c"), (c, "a")):
        agent.say("link", other)
    end(board, a, "error(1)")
    assert board.terminated() == [["b", b.inc, "linked(a, error(1))"], ["c", c.inc, "linked(a, error(1))"]]
    for agent in agents[1:]:
        end(board, agent, f"linked({a.name}, error(1))")
    assert len(board.terminated()) == 2


def test_h6_a_chain_ends_link_by_link_and_its_reason_stays_short(board: Switchboard) -> None:
    agents = board.agents(*(f"agent-{number}" for number in range(200)))
    for agent, other in itertools.pairwise(agents):
        agent.say("link", other.name)
    end(board, agents[0], "error(1)")
    for agent in agents[1:]:
        (name, inc, reason) = board.terminated()[-1]
        assert (name, inc) == (agent.name, agent.inc) and len(reason) <= limits.REASON
        end(board, agent, reason)
    assert len(board.terminated()) == 199


def test_who_is_terminated_and_traps_exits_only_later_is_not_terminated_again(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    a.say("link", "b")
    a.say("link", "c")
    end(board, b)
    end(board, c)
    assert [name for name, _, _ in board.terminated()] == ["a"]


def test_an_exit_comes_after_the_messages_of_the_dead(board: Switchboard) -> None:
    a, b = board.agent("a", window=(1, 1000)), board.agent("b")
    a.say("trap", True)
    a.say("link", "b")
    b.cast("a", b"1")
    b.cast("a", b"2")
    end(board, b)
    assert a.heard("exit") == []
    a.credit()
    assert a.order[-1] == ["exit", "b", 1, "killed"] and len(a.casts()) == 2


# --- a new broker ---


def restored(links: list[list[object]], *packets: list[object], trap: bool = False) -> tuple[Switchboard, Agent]:
    board = Switchboard(snapshot=False)
    board.snapshot(*packets)
    board.agent("b", 2)
    a = board.born("a")
    board.row(a)
    a.hello(links=links, trap=trap)
    return board, a


def test_links_are_restored(board: Switchboard) -> None:
    board, a = restored([["b", inc_of(2)]])
    board.root("death", "b", inc_of(2), "killed")
    board.wait(GRACE)
    assert board.terminated() == [["a", a.inc, "linked(b, killed)"]]


@pytest.mark.parametrize("trap", [True, False])
def test_a_link_whose_other_side_died_meanwhile_is_an_exit_with_roots_reason(trap: bool) -> None:
    board, a = restored([["b", inc_of(1)]], ["death", "b", inc_of(1), "error(3)"], trap=trap)
    assert a.heard("exit") == ([["exit", "b", 1, "error(3)"]] if trap else [])
    assert board.terminated() == ([] if trap else [["a", a.inc, "linked(b, error(3))"]])


def test_a_link_that_was_asked_for_and_never_made_is_made() -> None:
    _board, a = restored([["b", None], ["nobody", None]], trap=True)
    assert a.heard("linked") == [["linked", "b", 2]] and a.heard("exit") == [["exit", "nobody", 0, "noproc"]]


def test_who_has_not_said_hello_yet_is_asked_for_its_trap_before_it_is_ended(board: Switchboard) -> None:
    a = board.agent("a")
    b, c = board.born("b"), board.born("c")
    for agent in (b, c):
        board.row(agent)
        a.say("link", agent.name)
    end(board, a)
    board.wait(SECOND)
    assert board.terminated() == []
    b.hello(trap=True)
    c.hello()
    assert b.heard("exit") == [["exit", "a", 1, "killed"]]
    assert board.terminated() == [["c", c.inc, "linked(a, killed)"]]


def test_links_of_one_peer_are_bounded(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINKS", 1)
    a, _, _ = board.agents("a", "b", "c")
    a.say("trap", True)
    a.say("link", "b")
    a.say("link", "c")
    assert a.heard("exit") == [["exit", "c", 1, "overloaded"]]


def test_nothing_of_a_link_is_left_when_both_are_dead(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.say("link", "b")
    end(board, a)
    end(board, b, "linked(a, killed)")
    links = board.router._hold.links
    assert (links._of, links._doomed, links._waiting) == ({}, set(), {})


def test_an_exit_that_waits_is_not_told_to_the_next_incarnation(board: Switchboard) -> None:
    a, b = board.agent("a", window=(0, 0)), board.agent("b")
    a.say("trap", True)
    a.say("link", "b")
    b.cast("a", b"1")
    end(board, b)
    new = board.reborn(a)
    assert new.casts() == [("b", b"1")] and new.heard("exit") == []
