"""Groups: membership and choice (statements B4, G1-G4; invariants 19, 22)."""

from __future__ import annotations

from collections import Counter

import msgpack
import pytest

from otpd.ipc import groups, limits
from otpd.ipc.frames import pack
from tests.ipc.switchboard import MS, SECOND, Agent, Switchboard

POLICIES = ["any", "round_robin", "least_loaded"]


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def pool(board: Switchboard, size: int = 3) -> tuple[Agent, ...]:
    """w1..wn in the group w, as `instances = n` makes it."""
    return tuple(board.agent(f"w{number}", group="w") for number in range(1, size + 1))


def loads(*members: Agent) -> list[int]:
    return [len(member.received) for member in members]


def test_g1_rows_with_a_group_are_members_while_they_are_ready(board: Switchboard) -> None:
    (a,) = board.agents("a")
    w1, w2 = pool(board, 2)
    w3 = board.agent("w3", state="starting", group="w")
    assert a.ask("members", "w") == [2, ["w1", "w2"]]
    board.row(w3, group="w")
    board.death(w1)
    assert a.ask("members", "w") == [4, ["w2", "w3"]]
    assert w2.received == []


def test_g1_joining_twice_is_joining_once_and_leaving_twice_leaving_once(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for _ in range(2):
        b.say_data("join", "g")
    assert a.ask("members", "g") == [1, ["b"]]
    for _ in range(2):
        b.say_data("leave", "g")
    assert a.ask("members", "g") == [2, []]


def test_g1_b4_a_dead_member_is_no_member_before_its_death_is_told(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say_data("join", "g")
    a.say("monitor", 1, "b", False)
    board.death(b)
    assert a.ask("members", "g") == [2, []] and a.heard("down") == []
    assert board.agent("b", 2) and a.ask("members", "g") == [2, []]  # the next incarnation joins for itself


def test_a_row_that_changes_its_group_moves(board: Switchboard) -> None:
    (a,), (w,) = board.agents("a"), pool(board, 1)
    board.row(w, group="v")
    assert (a.ask("members", "w")[1], a.ask("members", "v")[1]) == ([], ["w1"])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("what", ["cast", "call"])
def test_g2_turns_are_even_while_nothing_changes(board: Switchboard, policy: str, what: str) -> None:
    (a,), members = board.agents("a"), pool(board)
    for _ in range(30):
        if what == "cast":
            a.cast("w", b"x", kind="group", policy=policy)
        else:
            a.call("w", kind="group", policy=policy)
    assert loads(*members) == [10, 10, 10]


def test_g2_a_batch_for_a_group_is_shared_out_message_by_message(board: Switchboard) -> None:
    (a,), members = board.agents("a"), pool(board)
    a.cast("w", *[b"x"] * 9, kind="group", policy="round_robin")
    assert loads(*members) == [3, 3, 3]


def test_g2_any_passes_over_who_cannot_take_it_at_once(board: Switchboard) -> None:
    (a,) = board.agents("a")
    w1, w2 = board.agent("w1", group="w", window=(1, 1000)), board.agent("w2", group="w")
    for _ in range(10):
        a.cast("w", b"x", kind="group", policy="any")
    assert loads(w1, w2) == [1, 8]  # the tenth found w1 without a queue, and waits in it


def test_g2_any_and_least_loaded_pass_over_an_open_breaker_in_calls(board: Switchboard) -> None:
    (a,), (w1, w2) = board.agents("a"), pool(board, 2)
    board.root("breaker", 1, "w1", "open")
    for policy in ("any", "least_loaded"):
        for _ in range(4):
            a.call("w", kind="group", policy=policy)
    assert loads(w1, w2) == [0, 8] and a.failed() == []
    a.cast("w", b"x", kind="group", policy="least_loaded")
    assert loads(w1, w2) == [1, 8]


def test_g2_least_loaded_goes_to_who_has_the_fewest_calls_open(board: Switchboard) -> None:
    (a,), (w1, w2, w3) = board.agents("a"), pool(board)
    for _ in range(9):
        a.call("w", kind="group", policy="least_loaded")
    for _ in range(3):
        w2.reply(call=w2.calls().pop(0)[0])
        w2.received.pop(0)
    for _ in range(3):
        a.call("w", kind="group", policy="least_loaded")
    assert loads(w1, w2, w3) == [3, 3, 3]


def test_g2_a_member_that_is_not_ready_is_passed_over_while_another_is(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    c = board.agent("c", state="starting")
    for member in (b, c):
        member.say_data("join", "g")
    for _ in range(4):
        a.cast("g", b"x", kind="group", policy="round_robin")
    assert loads(b, c) == [4, 0]
    board.death(b)
    a.cast("g", b"y", kind="group", policy="round_robin")
    board.row(c)
    assert loads(b, c) == [4, 1]


def test_a_caller_is_passed_over_in_its_own_group(board: Switchboard) -> None:
    w1, w2 = pool(board, 2)
    for policy in POLICIES:
        w1.call("w", kind="group", policy=policy)
    assert loads(w1, w2) == [0, 3]


def test_a_caller_that_is_alone_in_its_group_calls_itself(board: Switchboard) -> None:
    (w1,) = pool(board, 1)
    w1.call("w", kind="group", policy="any")
    assert w1.failed() == [(1, "deadlock", "no")]


def placed(board: Switchboard, sender: Agent, members: list[Agent], keys: int) -> dict[str, str]:
    """key -> the member that got its message."""
    for number in range(keys):
        sender.cast("w", b"%d" % number, kind="group", policy="hash", key=f"key{number}")
        for member in members:
            member.credit()
    where = {body.decode(): member.name for member in members for _, body in member.casts()}
    for member in members:
        member.received.clear()
    return where


def test_g2_hash_sends_a_key_always_to_the_same_member_and_moves_only_those_of_one_that_leaves(board: Switchboard) -> None:
    """Rule 96."""
    (a,), members = board.agents("a"), list(pool(board, 5))
    before = placed(board, a, members, 500)
    assert len(before) == 500 and before == placed(board, a, members, 500)
    assert max(Counter(before.values()).values()) < 2 * 500 / 5
    gone = members.pop(2)
    board.death(gone)
    after = placed(board, a, members, 500)
    assert {key for key in before if before[key] != after[key]} == {key for key in before if before[key] == gone.name}


def test_g2_a_member_that_joins_takes_its_share_and_moves_nothing_else(board: Switchboard) -> None:
    (a,), members = board.agents("a"), list(pool(board, 4))
    before = placed(board, a, members, 500)
    members.append(board.agent("w5", group="w"))
    after = placed(board, a, members, 500)
    moved = [key for key in before if before[key] != after[key]]
    assert {after[key] for key in moved} == {"w5"} and len(moved) <= 500 * (1 / 5 + 0.05)


def test_g2_hash_without_a_key_is_refused(board: Switchboard) -> None:
    (a,), _ = board.agents("a"), pool(board)
    a.cast("w", b"x", kind="group", policy="hash")
    a.call("w", kind="group", policy="hash")
    assert a.heard("rejected") == [["rejected", 1, "refused", "w"]] and a.failed() == [(2, "refused", "no")]


def test_g2_all_is_one_copy_each(board: Switchboard) -> None:
    (a,), members = board.agents("a"), pool(board)
    a.cast("w", b"1", b"2", kind="group", policy="all", confirm=True)
    assert [member.casts() for member in members] == [[("a", b"1"), ("a", b"2")]] * 3
    assert a.heard("accepted") == [["accepted", 1], ["accepted", 2]] and board.router.counts().casts == 6


def test_g2_a_copy_that_is_refused_is_told_once_and_credit_returns_once(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    c = board.agent("c", state="starting", inbox={"messages": 0})
    d = board.agent("d", state="starting", inbox={"messages": 1})
    for member in (b, c, d):
        member.say_data("join", "g")
    for _ in range(3):
        a.cast("g", *[b"x"] * 100, kind="group", policy="all", confirm=True)
        b.credit()
    assert a.heard("rejected") == [["rejected", number, "overloaded", "c"] for number in range(1, 301)]
    assert a.heard("accepted") == [] and len(b.casts()) == 300 and a.granted == (1024 + 300, 1024 * 1024 + 300 * 17)


def test_g2_a_call_to_all_is_refused(board: Switchboard) -> None:
    (a,), members = board.agents("a"), pool(board)
    a.call("w", kind="group", policy="all")
    assert a.failed() == [(1, "refused", "no")] and loads(*members) == [0, 0, 0]


@pytest.mark.parametrize("policy", ["any", "round_robin", "least_loaded", "hash", "all"])
def test_g3_an_empty_group_has_nobody(board: Switchboard, policy: str) -> None:
    a, b = board.agents("a", "b")
    b.say_data("join", "g")
    b.say_data("leave", "g")
    a.cast("g", b"x", kind="group", policy=policy, key="k")
    a.call("h", kind="group", policy="any")
    assert a.heard("rejected") == [["rejected", 1, "noproc", "g"]] and a.failed() == [(2, "noproc", "no")]


def test_a_name_that_is_only_a_group_means_any_of_it(board: Switchboard) -> None:
    (a,), members = board.agents("a"), pool(board)
    for _ in range(3):
        a.cast("w", b"x")
        a.call("w")
    assert loads(*members) == [2, 2, 2]


def test_g4_a_snapshot_and_the_changes_after_it_give_the_current_members(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    b.say_data("join", "g")
    a.say_data("subscribe", 50, "otpd.group.g")
    revision, members = a.ask("members", "g")
    c.say_data("join", "g")
    b.say_data("leave", "g")
    board.death(c)
    board.agent("d").say_data("join", "g")
    changes = [msgpack.unpackb(body) for _, _, body in a.published]
    assert [change["revision"] for change in changes] == list(range(revision + 1, revision + 5))
    for change in changes:
        (members.append(change["joined"]) if "joined" in change else members.remove(change["left"]))
    assert [revision + 4, members] == a.ask("members", "g") == [5, ["d"]]


def test_g4_revisions_go_on_after_a_group_was_empty_and_when_it_was_forgotten(
    board: Switchboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "_REMEMBERED", 2)
    (a,) = board.agents("a")
    for group in ("g", "g", "h", "i", "j"):
        a.say_data("join", group)
        a.say_data("leave", group)
    assert (a.ask("members", "i"), a.ask("members", "g")) == ([2, []], [4, []])  # g is forgotten: above all forgotten ones
    a.say_data("join", "g")
    assert a.ask("members", "g") == [5, ["a"]]


def test_groups_of_one_peer_are_bounded(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "GROUPS", 2)
    (a,) = board.agents("a")
    for group in ("g", "h", "i"):
        a.say_data("join", group)
    assert len(board.events("strike")) == 1


def test_a_hello_restores_groups_in_silence(board: Switchboard) -> None:
    (a,) = board.agents("a")
    b = board.born("b")
    board.row(b)
    b.hello(groups=["g", "h"])
    assert a.ask("members", "g")[1] == a.ask("members", "h")[1] == ["b"]
    assert [command[0] for command in b.said] == ["welcome"]


def test_state_of_names_is_published(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.say_data("subscribe", 50, "otpd.name.*")
    b = board.born("b")
    board.row(b, "starting")
    board.row(b)
    board.row(b)
    board.death(b, "error(1)")
    board.name("b", "restarting", 1, reason="error(1)")
    board.root("gone", "b")
    board.wait(SECOND + MS)
    states = [(topic, msgpack.unpackb(body)) for _, topic, body in a.published]
    assert [data["state"] for _, data in states] == ["starting", "ready", "restarting", "gone"]
    assert states[2] == ("otpd.name.b", {"state": "restarting", "generation": 1, "reason": "error(1)"})
    assert {source for source, _, _ in a.published} == {"broker"} and pack(states[0][1]) == a.published[0][2]
