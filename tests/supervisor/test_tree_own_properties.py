"""What holds for the own children of workers in every sequence of events; and that bugs which are planted are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpd.supervisor import answers, leaving, requests
from otpd.supervisor.answers import Answer
from otpd.supervisor.child import HAS_PROCESS, Child
from otpd.supervisor.events import Boot, EndWorker, Spawn, StartChild, StopTree
from otpd.supervisor.own import OwnSupervisor
from otpd.supervisor.spec import Restart, Strategy
from otpd.supervisor.supervision import Supervisor
from tests.supervisor.rig import Rig, supervisor, worker
from tests.supervisor.shell import Shell, pick
from tests.supervisor.test_tree_properties import FIXED, LIVES, shutdowns, static_trees

FEW = settings(LIVES, max_examples=40)
LONG = st.lists(st.integers(0, 10**6), min_size=100, max_size=200)


class Owners(Shell):
    """Two workers below a supervisor and one beside it; they do little else than to start children and to die."""

    def __init__(self, strategy: Strategy) -> None:
        below = supervisor("s", worker("a"), worker("b", restart=Restart.TRANSIENT), strategy=strategy, shutdown=2.0)
        super().__init__(supervisor("top", below, worker("c"), max_restarts=None))

    def choices(self) -> list[Callable[[int], object]]:
        found: list[Callable[[int], object]] = [self.owner_asks] * 6
        found += [self.starts] * 8 + [self.start_fails] if self.starting else []
        found += [self.asked_ends] * 3 if self.asked else []
        found += [self.dies] * 5 if self.alive else []
        found += [self.timer_fires] if self.timers else []
        return [*found, self.crashes_again_and_again, self.asks, self.supervisor_is_killed, self.is_late]

    def live(self, numbers: list[int]) -> None:
        self.answer_all(0)  # the boot
        super().live(numbers)

    def crashes_again_and_again(self, number: int) -> None:
        """An own child, until it is given up or somebody stops it."""
        for _ in range(5):
            mine = {path for path in self.owners if path not in self.asked}
            if mine:
                path = pick(sorted(mine), number)
                if path in self.starting:
                    self.starts(sorted(self.starting).index(path))
                if path in self.alive and path not in self.asked:
                    self.end(path, "error(1)")


@FEW
@given(st.sampled_from(list(Strategy)), LONG)
def test_no_child_outlives_its_owner_and_no_owner_starts_before_its_children_are_gone(
    strategy: Strategy, numbers: list[int]
) -> None:
    Owners(strategy).play(numbers)


@FEW
@given(st.sampled_from(list(Strategy)), LONG, st.integers(0, 1000))
def test_children_end_when_the_tree_is_stopped_and_nobody_is_started_any_more(
    strategy: Strategy, numbers: list[int], number: int
) -> None:
    shell = Owners(strategy)
    shell.play(numbers)
    shell.feed(StopTree(urgent=True))
    before = len(shell.log)
    for each in numbers[:20]:  # owners have time to do this and that
        if shell.ended is None:
            pick([shell.owner_asks, shell.crashes_again_and_again], each)(each // 2)
    shell.finish(number)
    assert shell.ended is not None
    assert [effect for effect in shell.log[before:] if isinstance(effect, Spawn)] == []


def test_the_random_lives_end_own_children_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """How the own supervisor left, as what its owner was known, and how that had ended, if it had."""
    seen: Counter[tuple[str, str, str]] = Counter()
    close = OwnSupervisor._close

    def counted(sup: OwnSupervisor, event: Answer) -> None:
        seen[sup.job.doing.name, sup.seat.state.name, type(sup.seat.end).__name__] += 1
        close(sup, event)

    monkeypatch.setattr(OwnSupervisor, "_close", counted)
    test_no_child_outlives_its_owner_and_no_owner_starts_before_its_children_are_gone()
    test_children_end_when_the_tree_is_stopped_and_nobody_is_started_any_more()
    after = {("SHUTDOWN", state, "Exited") for state in ("STARTING", "RUNNING", "STOPPING")}
    after |= {("SHUTDOWN", "STARTING", how) for how in ("StartFailed", "StartIgnored")}
    before = {("SHUTDOWN", state, "NoneType") for state in ("STARTING", "RUNNING")}
    killed = {("KILL", "STOPPING", how) for how in ("NoneType", "Exited")}
    assert after | before | killed <= seen.keys()


# --- bugs ---


def _says_at_once(sup: Supervisor, child: Child, event: Answer) -> None:
    if event.generation == child.generation:
        answers.handle(sup, child, event)


def _stops_no_own_child(sup: Supervisor) -> None:
    if not isinstance(sup, OwnSupervisor):
        _URGE(sup)


def _spares_own_children(sup: Supervisor, child: Child) -> None:
    own = sup.ledger.own.pop(child.path, None)
    _KILL(sup, child)
    if own is not None:
        sup.ledger.own[child.path] = own


def _restarts_always(sup: OwnSupervisor, child: Child) -> None:
    Supervisor._restart(sup, child)


def _starts_always(sup: Supervisor, request: int, op: StartChild) -> object:
    closing, sup.ledger.closing = sup.ledger.closing, False
    result: object = _START(sup, request, op)
    sup.ledger.closing = closing
    return result


def _ends_alone(sup: OwnSupervisor, event: Answer) -> None:
    _CLOSE(sup, event)
    sup.ledger.effects = [effect for effect in sup.ledger.effects if not isinstance(effect, EndWorker)]


def _loses_the_end(sup: OwnSupervisor, event: Answer) -> None:
    sup.seat.end = None
    _CLOSE(sup, event)


def _tells_the_dead(child: Child) -> bool:
    return child.state in HAS_PROCESS


_URGE, _KILL, _START, _CLOSE = leaving.urge, leaving._kill_child, requests._start_child, OwnSupervisor._close

_LIVES = test_no_child_outlives_its_owner_and_no_owner_starts_before_its_children_are_gone
_STOPS = test_children_end_when_the_tree_is_stopped_and_nobody_is_started_any_more

#: What is planted where, and the property that finds it.
BUGS: dict[str, tuple[object, str, object, Callable[[], None]]] = {
    "the end of an owner is told at once": (answers, "worker_said", _says_at_once, _LIVES),
    "the children of a dead owner go on": (leaving, "urge", _stops_no_own_child, _LIVES),
    "own children survive a kill": (leaving, "_kill_child", _spares_own_children, _LIVES),
    "an owner lives on without its children": (OwnSupervisor, "_close", _ends_alone, _LIVES),
    "the end that was held back is lost": (OwnSupervisor, "_close", _loses_the_end, _LIVES),
    "a dead owner is asked to stop": (Child, "has_process", property(_tells_the_dead), _LIVES),
    "restarts while the tree stops": (OwnSupervisor, "_restart", _restarts_always, _STOPS),
    "starts while the tree stops": (requests, "_start_child", _starts_always, _STOPS),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, name, planted, property_ = BUGS[bug]
    monkeypatch.setattr(where, name, planted)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        property_()


@FIXED
@given(st.lists(st.integers(0, 2), min_size=1, max_size=4), st.booleans(), st.data())
def test_at_a_stop_every_owner_goes_before_its_children(depths: list[int], urgent: bool, data: st.DataObject) -> None:
    rig = Rig(*(data.draw(static_trees(depth, f"c{number}")) for number, depth in enumerate(depths)))
    rig.feed(Boot())
    rig.settle()
    for name in data.draw(st.lists(st.sampled_from("xyz"), max_size=6)):
        if rig.alive:
            rig.start_own(data.draw(st.sampled_from(sorted(rig.alive))), worker(name, shutdown=data.draw(shutdowns)))
            rig.settle()
    workers, gone = sorted(rig.alive), []
    rig.feed(StopTree(urgent))
    while open_ := rig.open:
        name = data.draw(st.sampled_from(open_)).split()[1]
        gone.append(name)
        rig.gone(name, "shutdown")
    assert sorted(gone) == workers and rig.trace[-1] == "ended shutdown"
    assert all(gone.index(owner) < gone.index(name) for name in gone if (owner := name.rpartition("/")[0]) in gone)


