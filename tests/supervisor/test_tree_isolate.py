"""The top isolates: a child that can't start takes nobody with it."""

from __future__ import annotations

from otpd.supervisor.events import Boot, StopTree
from otpd.supervisor.spec import Backoff, Restart, Strategy
from tests.supervisor.rig import Rig, supervisor, worker

PLAIN = Backoff(initial=0.1, factor=2.0, max=0.5, jitter=0.0)
TOP = {"isolate": True, "max_restarts": None}


def test_a_child_that_fails_at_the_start_is_passed_over_and_retried_with_its_backoff() -> None:
    rig = Rig(worker("a"), worker("b", backoff=PLAIN), worker("c"), **TOP)
    rig.fails["b"] = "no such file"
    rig.feed(Boot())
    assert rig.settle() == ["spawn a 1", "spawn b 1", "spawn c 1", "started", "spawn b 2", "arm 1 0.1 b"]
    assert rig.states() == {"a": "running", "b": "backoff", "c": "running"}
    assert rig.view("b").reason == "no such file"
    rig.fails.clear()
    rig.fire(1)
    rig.settle()
    assert set(rig.states().values()) == {"running"}


def test_a_subtree_that_fails_at_the_start_is_retried_as_a_whole() -> None:
    rig = Rig(supervisor("s", worker("x"), worker("y"), backoff=PLAIN), worker("a"), **TOP)
    rig.feed(Boot())
    rig.up("s/x")
    assert rig.fail("s/y") == ["stop s/x 1 5.0"]
    assert rig.gone("s/x", "shutdown") == ["spawn a 1"]
    assert rig.up("a") == ["started", "spawn s/x 2"]


def test_a_child_that_keeps_crashing_takes_nobody_with_it() -> None:
    rig = Rig(worker("a", backoff=PLAIN), worker("b"), **TOP).boot()
    for _ in range(100):
        said = rig.crash("a")
        if said[0].startswith("arm"):
            rig.fire(int(said[0].split()[1]))
            rig.settle()
    assert (rig.view("b").generation, rig.view("a").generation, rig.view("a").restarts) == (1, 101, 100)


def test_a_temporary_child_that_fails_at_the_start_is_not_retried() -> None:
    rig = Rig(worker("a", restart=Restart.TEMPORARY), worker("b"), **TOP)
    rig.fails["a"] = "boom"
    rig.feed(Boot())
    assert rig.settle() == ["spawn a 1", "spawn b 1", "started"]
    assert rig.states() == {"b": "running"}


def test_bad_specs_are_still_fatal() -> None:
    assert Rig(worker("a"), worker("a"), **TOP).feed(Boot()) == ["gave up ['start_spec', ['duplicate_child_name', 'a']]"]


def test_isolation_and_group_strategies_exclude_each_other() -> None:
    rig = Rig(worker("a"), strategy=Strategy.ONE_FOR_ALL, **TOP)
    combination = ["bad_combination", [["isolate", True], ["strategy", "one_for_all"]]]
    assert rig.feed(Boot()) == [f"gave up {['supervisor_data', combination]}"]


def test_it_can_be_stopped_while_children_wait() -> None:
    rig = Rig(worker("a", backoff=PLAIN), worker("b"), **TOP)
    rig.fails["a"] = "boom"
    rig.boot()
    assert rig.run(StopTree()) == ["stop b 1 5.0", "cancel 1", "ended shutdown"]
