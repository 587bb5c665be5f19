"""The registry: keys and locks (statements I1-I3; rules 113-120; invariants 19, 20, 23)."""

from __future__ import annotations

import msgpack
import pytest

from otpd.ipc import limits
from tests.ipc.switchboard import MS, SECOND, Switchboard


@pytest.fixture
def board() -> Switchboard:
    return Switchboard()


def test_i1_rule_113_a_second_register_is_refused_and_names_the_holder(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    assert a.ask("register", "leader", {"port": 1}) is True
    assert b.ask("register", "leader", 2) == ("already_registered",) and "a (1)" in b.heard("refused")[0][3]
    assert b.ask("lookup", "leader") == {"name": "a", "generation": 1, "value": {"port": 1}, "revision": 1}


def test_i1_rule_113_the_key_of_a_dead_holder_is_free_at_once(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.ask("register", "leader", 1)
    board.death(a)
    assert b.ask("register", "leader", 2) is True


def test_rule_115_119_only_the_holder_changes_its_key(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.ask("register", "key", 1)
    assert b.ask("update", "key", 2) == b.ask("unregister", "key") == b.ask("update", "other", 2) == ("not_holder",)
    assert a.ask("update", "key", 3) == 2 and b.ask("lookup", "key")["value"] == 3
    assert a.ask("unregister", "key") is True and b.ask("lookup", "key") is None


def test_rule_116_all_keys_of_a_dead_holder_are_gone(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    for key in ("x", "y"):
        a.ask("register", key, 1)
    assert a.ask("keys") == ["x", "y"]
    new = board.reborn(a)
    assert new.ask("keys") == [] and b.ask("lookup", "x") is b.ask("lookup", "y") is None


def test_i2_a_value_is_replaced_only_if_it_is_the_one_that_was_seen(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.ask("register", "key", 1)
    seen = a.ask("lookup", "key")["revision"]
    revision = a.ask("replace", "key", 2, seen)
    assert a.ask("replace", "key", 3, seen) == ("conflict",)
    assert a.ask("lookup", "key") == {"name": "a", "generation": 1, "value": 2, "revision": revision}


def test_i2_values_and_keys_are_bounded(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEYS", 2)
    (a,) = board.agents("a")
    assert a.ask("register", "key", "x" * 4093) is True and a.ask("register", "other", "x" * 4094) == ("too_large",)
    assert a.ask("update", "key", "x" * 5000) == ("too_large",) and len(a.ask("lookup", "key")["value"]) == 4093
    assert a.ask("register", "", 1) == a.ask("register", "k" * 1025, 1) == ("refused",)
    assert (a.ask("register", "k" * 1024, 1), a.ask("register", "third", 1)) == (True, ("overloaded",))


def test_i3_rule_117_listeners_hear_of_each_change_and_of_a_loss(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.say_data("subscribe", 1, "otpd.key.**")
    a.ask("register", "shop.leader", 1)
    a.ask("unregister", "shop.leader")
    a.ask("register", "shop.leader", 1)
    a.ask("register", "..", 1)
    board.death(a, "error(1)")
    changes = [msgpack.unpackb(body) for _, topic, body in b.published if topic == "otpd.key.shop.leader"]
    assert changes == [
        {"revision": 1, "change": "registered", "name": "a", "generation": 1},
        {"revision": 2, "change": "unregistered", "name": "a", "generation": 1},
        {"revision": 3, "change": "registered", "name": "a", "generation": 1},
        {"revision": 5, "change": "lost", "name": "a", "generation": 1, "reason": "error(1)"},
    ]
    assert len(b.published) == 4  # a key that makes no topic has no listeners


def test_a_key_is_an_address(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    b.ask("register", "leader", 1)
    a.cast("leader", b"1", kind="key")
    a.call("leader", b"2", kind="key")
    assert [message.body for message in b.received] == [b"1", b"2"]
    board.death(b)
    a.cast("leader", b"3", kind="key")
    assert a.heard("rejected") == [["rejected", 3, "noproc", "leader"]]


def test_rule_121_a_call_to_a_key_that_nobody_holds_fails_at_once(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.call("leader", kind="key")
    assert a.failed() == [(1, "noproc", "no")]


def test_a_hello_restores_keys_and_root_hears_of_one_that_was_lost(board: Switchboard) -> None:
    (a,) = board.agents("a")
    a.ask("register", "taken", 1)
    b = board.born("b")
    board.row(b)
    b.hello(keys=[["free", {"x": 1}], ["taken", 2]])
    assert b.ask("keys") == ["free"] and a.ask("lookup", "free")["value"] == {"x": 1}
    assert [name for name, _ in board.events("key_lost")] == ["b"]


# --- locks ---


def test_rule_120_a_lock_has_one_holder_and_the_next_in_the_order_of_asking(board: Switchboard) -> None:
    a, b, c, d = board.agents("a", "b", "c", "d")
    assert a.ask("lock", "x") is True
    assert b.ask("lock", "x") is c.ask("lock", "x") is None
    assert d.ask("lock", "y") is True  # other keys are not affected
    assert a.ask("unlock", "x") is True
    assert (b.answer(1), c.answer(1)) == (True, None)
    assert b.ask("unlock", "x") is True and c.answer(1) is True
    assert c.ask("unlock", "x") is True and a.ask("lock", "x") is True


def test_rule_120_it_is_released_at_the_death_of_its_holder_and_dead_waiters_are_passed_over(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    a.ask("lock", "x")
    b.ask("lock", "x")
    c.ask("lock", "x")
    board.death(b)
    board.death(a)
    assert b.answer(1) is None and c.answer(1) is True
    board.death(c)
    board.wait(20 * MS)
    assert board.router._hold.registry._locks == {}


def test_a_waiter_that_struck_out_is_passed_over(board: Switchboard) -> None:
    a, b, c = board.agents("a", "b", "c")
    a.ask("lock", "x")
    b.ask("lock", "x")
    c.ask("lock", "x")
    for _ in range(3):
        board.router.stray(b.identity, board.now)
    a.ask("unlock", "x")
    assert c.answer(1) is True
    board.death(b)
    board.wait(SECOND)
    assert c.ask("unlock", "x") is True


def test_a_waiter_that_struck_out_leaves_no_trace_of_a_lock_that_is_free_when_it_dies(board: Switchboard) -> None:
    a, b = board.agents("a", "b")
    a.ask("lock", "x")
    b.ask("lock", "x")
    for _ in range(3):
        board.router.stray(b.identity, board.now)
    assert a.ask("unlock", "x") is True
    board.death(b)
    board.wait(SECOND)
    assert board.agent("c").ask("lock", "x") is True


def test_only_the_holder_unlocks_and_nobody_waits_for_himself(board: Switchboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCKS", 2)
    a, b = board.agents("a", "b")
    a.ask("lock", "x")
    assert b.ask("unlock", "x") == b.ask("unlock", "y") == ("not_holder",)
    assert a.ask("lock", "x") == ("deadlock",)
    assert (a.ask("lock", "y"), a.ask("lock", "z")) == (True, ("overloaded",))
