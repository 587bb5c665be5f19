"""What root answers, with a tree and clients that do what real ones do only now and then."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.supervisor import picture
from otpd.supervisor.control import OperationError
from otpd.supervisor.journal import Journal
from otpd.supervisor.loop import Loop
from otpd.supervisor.operations import MAX_NAMES, Operations


class Client:
    """A connection: what it was answered; `gone` once it is sent anything, if it has hung up."""

    def __init__(self, hung_up: bool = False) -> None:
        self.said: list[Any] = []
        self.open, self._hung_up = True, hung_up
        self.on_close: Callable[[], None] | None = None

    def part(self, value: dict[str, Any]) -> None:
        self.said.append(value)
        if self._hung_up and self.open:
            self.open = False
            if self.on_close is not None:
                self.on_close()

    def parts(self, values: list[dict[str, Any]]) -> None:
        for value in values:
            self.part(value)

    def answer(self, result: Any) -> None:
        self.said.append(result)

    def end(self, value: dict[str, Any]) -> None:
        self.said.append(value)

    def fail(self, error: OperationError) -> None:
        self.said.append((error.code, error.error))


class Root:
    """The tree is `rows`: path -> state."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.phase = "running"
        self.journal = Journal(lambda _event: None, lambda _action: None)
        self.link = SimpleNamespace(changes=[], packets=[])
        self.rows = {"top/a": "starting"}
        self.tree = SimpleNamespace(view=self._view, snapshot=lambda _now: self._view("top/a"))

    def _view(self, path: str, _now: float = 0.0) -> Any:
        state = self.rows.get(path)
        return None if state is None else SimpleNamespace(
            name=path.rpartition("/")[2], path=path, state=state, reason=None, children=(), spec=SimpleNamespace(start=None)
        )  # fmt: skip

    def shown(self, path: str) -> str:
        return path.partition("/")[2]


@pytest.fixture
def root() -> Any:
    made = Root()
    yield made
    made.loop._epoll.close()


def operations(root: Any) -> Operations:
    return Operations(root)


@pytest.mark.parametrize(
    ("wanted", "answer"), [("down", True), ("ready", (4, "a is not in the tree any more"))], ids=["down", "ready"]
)
def test_who_waits_for_a_child_is_answered_when_the_child_vanishes(root: Any, wanted: str, answer: object) -> None:
    """A temporary child that has ended, or one that somebody has deleted meanwhile."""
    made, client, other = operations(root), Client(), Client()
    for each in (client, other):
        made.dispatch(each, {"op": "wait", "name": "a", "for": wanted})
    assert client.said == []
    del root.rows["top/a"]
    made._look()
    assert (client.said, other.said, made._waiters) == ([answer], [answer], [])


@pytest.mark.parametrize(("others", "more"), [("", ""), ("b is backoff", ": b is backoff")])
def test_who_has_waited_in_vain_is_told_for_whom(
    root: Any, monkeypatch: pytest.MonkeyPatch, others: str, more: str
) -> None:
    monkeypatch.setattr(picture, "busy", lambda _root: others)
    made, client = operations(root), Client()
    made.dispatch(client, {"op": "wait", "name": "a", "for": "down", "timeout": 1})
    made._time_out(made._waiters[0])
    assert client.said == [(8, f"timed out: a is starting{more}")]


def test_who_has_waited_long_enough_is_told_of_what_has_just_become_true(root: Any) -> None:
    """The state changed in the turn in which the time was over."""
    made, client = operations(root), Client()
    made.dispatch(client, {"op": "wait", "name": "a", "for": "down", "timeout": 1})
    root.rows["top/a"] = "stopped"
    made._time_out(made._waiters[0])
    assert client.said == [True]


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1, True, "1"])
def test_a_time_that_no_timer_can_bear_is_the_mistake_of_the_request(root: Any, timeout: object) -> None:
    made = operations(root)
    with pytest.raises(OperationError) as caught:
        made.dispatch(Client(), {"op": "wait", "name": "a", "timeout": timeout})
    assert (caught.value.code, "expected 'timeout' to be a number from 0 to" in caught.value.error) == (2, True)
    assert made._waiters == []


def test_a_client_that_hangs_up_while_it_is_told_the_past_follows_nothing(root: Any) -> None:
    """Nobody would ever end it: its close has been and gone."""
    root.journal.event("node.started")
    made = operations(root)
    gone, there = Client(hung_up=True), Client()
    for client in (gone, there):
        made.dispatch(client, {"op": "events", "follow": True})
    assert len(root.journal._followers) == 1
    root.journal.event("node.stopping")
    root.journal.settle()
    assert (len(gone.said), len(there.said)) == (1, 2)


def test_who_waits_leaves_no_timer_behind_when_it_is_answered(root: Any) -> None:
    """`otpd status --wait ready --timeout 1h` in a loop of a script."""
    made = operations(root)
    for _ in range(500):
        made.dispatch(Client(), {"op": "wait", "name": "a", "for": "down", "timeout": 3600})
    root.rows["top/a"] = "stopped"
    made._look()
    assert made._waiters == []
    assert [timer for timer in root.loop._timers if timer.action and timer.deadline > root.loop.now + 1] == []


@pytest.mark.parametrize(("wanted", "looks"), [("ready", 1), ("down", 0)])
def test_only_what_time_alone_may_bring_is_looked_at_again_and_again(root: Any, wanted: str, looks: int) -> None:
    """Who waits for an end hears of it by the change that it is: a walk over a thousand children ten times a second is
    no way to wait for an hour."""
    made = operations(root)
    made.dispatch(Client(), {"op": "wait", "name": "a", "for": wanted, "timeout": 3600})
    before = len(root.loop._timers)
    made._look()
    assert len(root.loop._timers) - before == looks


def counting(root: Any, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """One entry for each walk over the tree."""
    walks: list[object] = []
    snapshot = root.tree.snapshot
    monkeypatch.setattr(root.tree, "snapshot", lambda now: walks.append(now) or snapshot(now))
    return walks


def test_five_hundred_who_wait_for_the_same_cost_one_look(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = operations(root)
    for _ in range(500):
        made.dispatch(Client(), {"op": "wait", "for": "down"})
    walks = counting(root, monkeypatch)
    made._look()
    assert len(walks) == 1


def test_however_many_names_a_request_has_the_tree_is_walked_once(root: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, walks = operations(root), counting(root, monkeypatch)
    monkeypatch.setattr(made, "_act", lambda action, path, done: done(None))
    client = Client()
    made.dispatch(client, {"op": "child", "action": "stop", "names": ["a"] * MAX_NAMES})
    assert (client.said, len(walks)) == ([[{"name": "a", "ok": True}]], 1)
    with pytest.raises(OperationError, match="expected at most 10000 names, got 10001"):
        made.dispatch(client, {"op": "child", "action": "stop", "names": ["a"] * (MAX_NAMES + 1)})


@pytest.mark.parametrize("request_", [{"op": "x" * 1_000_000}, {"op": "why", "name": "x" * 1_000_000}], ids=["op", "name"])
def test_what_a_name_of_a_megabyte_may_mean_is_not_guessed_from_all_of_it(root: Any, request_: dict[str, Any]) -> None:
    with pytest.raises(OperationError) as caught:
        operations(root).dispatch(Client(), request_)
    assert (caught.value.code in (2, 4), len(caught.value.error) < 300) == (True, True)
