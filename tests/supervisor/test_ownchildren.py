"""What root does with the requests of agents for children of their own: in order, bounded, and whatever they are."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.supervisor import ownchildren
from otpd.supervisor.events import Boot, Event, Exited, Op, Reply, Request, Spawn, Started, Stop
from otpd.supervisor.incarnation import Phase
from otpd.supervisor.names import Names
from otpd.supervisor.ownchildren import OwnChildren, Requests
from otpd.supervisor.spec import ChildSpec, ChildType, Launch, NodeSpec, SupervisorSpec
from otpd.supervisor.tree import Tree


class Clock:
    """A loop whose time only `run` moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay, next(self._order), action))

    def run(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            due, _, action = heapq.heappop(self._due)
            self.now = max(self.now, due)
            action()
        self.now = max(self.now, end)


@dataclass
class Agent:
    """As much of a `Live` as is needed; its channel keeps what it is told."""

    path: str
    launch: Launch
    told: list[Any] = field(default_factory=list)
    requests: Requests | None = None
    generation: int = 1

    def __post_init__(self) -> None:
        self.incarnation = SimpleNamespace(phase=Phase.RUNNING)
        self.channel: Any = SimpleNamespace(send=self.told.append)

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class Desk:
    """root without processes: the tree is answered at once, but for starts of those in `slow`."""

    def __init__(self, home: Path) -> None:
        (home / "boss.py").write_text("")
        self.loop = Clock()
        launch = Launch(kind="agent", script=str(home / "boss.py"), ready="init", cwd=str(home))
        workers = tuple(ChildSpec(id=name, start=launch) for name in ("boss", "other"))
        grouped = ChildSpec(id="feed-1", start=Launch(kind="agent", script=str(home / "boss.py"), group="feed"))
        self.node = NodeSpec(name="n", state_dir="/", config="", top=SupervisorSpec(children=(*workers, grouped)))
        self.tree = Tree(ChildSpec(id="top", start=self.node.top, type=ChildType.SUPERVISOR, shutdown="infinity"))
        self.phase, self.slow = "running", set[str]()
        self.cost = 0.0  # seconds that a look at a path takes
        self.asked: list[tuple[str, str]] = []
        starts = SimpleNamespace(native=SimpleNamespace(may_hang=self._look))
        asked = self.asked.append
        self.workers = SimpleNamespace(starts=starts, asked=lambda *who: asked(who), live=lambda _path: None)
        self.names = Names(self)  # type: ignore[arg-type]
        self.own = OwnChildren(self)  # type: ignore[arg-type]
        self._replies: dict[int, Callable[[Any], None]] = {}
        self.feed(Boot())
        self.boss, self.other = (Agent(f"top/{name}", launch) for name in ("boss", "other"))

    def path_below_top(self, shown: str) -> str:
        return f"top/{shown}" if shown else "top"

    def shown(self, path: str) -> str:
        return path.partition("/")[2]

    def request(self, op: Op, then: Callable[[Any], None]) -> None:
        number = len(self._replies) + 1
        self._replies[number] = then
        self.feed(Request(number, op))

    def feed(self, event: Event) -> None:
        for effect in self.tree.handle(event, self.loop.now):
            match effect:
                case Spawn(path, generation, spec) if spec.id not in self.slow:
                    self.feed(Started(path, generation))
                case Stop(path, generation, _):
                    self.feed(Exited(path, generation, "shutdown"))
                case Reply(number, result):
                    self._replies[number](result)

    def say(self, agent: Agent, *requests: list[Any]) -> None:
        for ref, request in enumerate(requests):
            self.own.heard(agent, ["child", ref, *request])  # type: ignore[arg-type]

    def ask(self, agent: Agent, *requests: list[Any]) -> list[Any]:
        """(ok, value) of each."""
        agent.told.clear()
        self.say(agent, *requests)
        self.loop.run()
        assert [answer[:2] for answer in agent.told] == [["child", ref] for ref in range(len(requests))]
        return [tuple(answer[2:]) for answer in agent.told]

    def _look(self, _paths: Any) -> bool:
        self.loop.now += self.cost
        return False


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk(tmp_path)
    monkeypatch.setattr(ownchildren.time, "monotonic", lambda: made.loop.now)
    return made


def start(name: str) -> list[Any]:
    return ["start", {"name": name, "script": "boss.py"}]


def started(name: str, generation: int = 1) -> tuple[bool, dict[str, Any]]:
    return True, {"name": name, "generation": generation}


# --- one after the other ---


def test_requests_that_come_together_are_answered_in_their_order(desk: Desk) -> None:
    rows = [{"name": "x", "state": "running", "generation": 1, "pid": None, "restarts": 0}]
    answers = desk.ask(desk.boss, start("x"), ["which"], ["stop", "x"], ["which"])
    assert answers == [started("x"), (True, rows), started("x"), (True, [])]
    assert desk.asked == [("top/boss/x", "boss")]


def test_a_request_waits_for_the_answer_to_the_one_before_it(desk: Desk) -> None:
    desk.slow.add("x")
    desk.say(desk.boss, start("x"), ["which"])
    desk.loop.run()
    assert desk.boss.told == []
    desk.feed(Started("top/boss/x", 1))
    desk.loop.run()
    assert [answer[1:3] for answer in desk.boss.told] == [[0, True], [1, True]]


def test_agents_do_not_wait_for_each_other(desk: Desk) -> None:
    desk.slow.add("x")
    desk.say(desk.boss, start("x"))
    assert desk.ask(desk.other, start("y")) == [started("y")]


def test_what_a_dead_agent_has_asked_is_forgotten(desk: Desk) -> None:
    desk.say(desk.boss, start("x"), start("y"))
    desk.boss.incarnation.phase = Phase.CLEARING
    desk.loop.run()
    assert (desk.boss.told, desk.tree.holder("x"), desk.boss.requests) == ([], None, Requests())


def test_an_agent_that_is_asked_to_stop_may_stop_children_but_not_start_any(desk: Desk) -> None:
    desk.ask(desk.boss, start("x"))
    desk.boss.incarnation.phase = Phase.STOPPING
    refused = "boss is being stopped, and with it its children; none is started any more"
    assert desk.ask(desk.boss, start("y"), ["stop", "x"]) == [(False, refused), started("x")]


def test_while_the_node_stops_nobody_is_started(desk: Desk) -> None:
    desk.phase = "stopping"
    assert desk.ask(desk.boss, start("x"))[0][0] is False


# --- bounds ---


def test_requests_beyond_the_bound_are_refused_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownchildren, "MAX_WAITING", 2)
    desk.say(desk.boss, ["which"], ["which"], ["which"])
    text = "2 requests of boss wait already (14 bytes); await an answer first"
    assert desk.boss.told == [["child", 2, False, text]]
    desk.loop.run()
    assert desk.boss.told[1:] == [["child", 0, True, []], ["child", 1, True, []]]
    assert desk.ask(desk.boss, ["which"]) == [(True, [])]


def test_bytes_beyond_the_bound_are_refused_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownchildren, "MAX_BYTES", 100)
    desk.say(desk.boss, ["stop", "x" * 50], ["stop", "x" * 50])
    assert [answer[:3] for answer in desk.boss.told] == [["child", 1, False]]
    desk.loop.run()
    assert desk.boss.requests is not None and desk.boss.requests.size == 0


def test_an_agent_whose_requests_cost_much_rests_longer(desk: Desk) -> None:
    """Four times as long as root has worked for it; others are served meanwhile."""
    desk.cost = 1.0
    desk.say(desk.boss, start("x"), start("y"))
    desk.loop.run()
    assert [answer[1] for answer in desk.boss.told] == [0]
    desk.cost = 0.0
    assert desk.ask(desk.other, start("z")) == [started("z")]
    desk.loop.run(3.9)
    assert [answer[1] for answer in desk.boss.told] == [0]
    desk.loop.run(0.2)
    assert [answer[1] for answer in desk.boss.told] == [0, 1]


def test_children_of_children_go_only_so_deep(desk: Desk) -> None:
    deep = Agent("top/" + "/".join(["boss"] * ownchildren.MAX_DEPTH), desk.boss.launch)
    ((ok, text),) = desk.ask(deep, start("x"))
    assert (ok, text) == (False, "expected at most 32 workers below each other, boss is the last that is possible")


# --- names ---


@pytest.mark.parametrize("name", ["other", "feed", "feed-1"])
def test_names_of_the_configuration_are_taken_also_those_of_groups(desk: Desk, name: str) -> None:
    ((ok, text),) = desk.ask(desk.boss, start(name))
    assert not ok and text.startswith(f"the name {name} is taken by ")


def test_a_name_is_taken_while_its_child_is_on_its_way(desk: Desk) -> None:
    desk.slow |= {"x", "y"}
    desk.say(desk.boss, start("x"), start("y"))
    desk.loop.run()
    text = "the name x is taken by boss/x, a child of boss; names are unique in a node, choose another"
    assert desk.ask(desk.other, start("x"), start("z")) == [(False, text), started("z")]


def test_a_name_is_free_again_when_its_child_is_gone(desk: Desk) -> None:
    desk.ask(desk.boss, start("x"), ["stop", "x"])
    assert desk.ask(desk.other, start("x")) == [started("x", 2)]


def test_names_of_a_reload_are_taken_while_it_goes_on(desk: Desk) -> None:
    new = NodeSpec(name="n", state_dir="/", config="", top=SupervisorSpec(children=(ChildSpec(id="x", start=None),)))
    desk.names.expect(new)
    assert desk.ask(desk.boss, start("x"))[0][0] is False
    desk.names.expect(None)
    desk.ask(desk.boss, start("x"))
    assert desk.names.clashes(new) == [
        "the name 'x' is taken by boss/x, which its agent has started; rename one of them, or stop that one: "
        "otpd child stop x"
    ]
    assert desk.names.clashes(desk.node) == []


# --- what is no request ---


@pytest.mark.parametrize("packet", [["child"], ["child", None, "which"], ["child", "r" * 65, "which"], [7], "child", None])
def test_what_can_not_be_answered_is_ignored(desk: Desk, packet: Any) -> None:
    desk.own.heard(desk.boss, packet)  # type: ignore[arg-type]
    desk.loop.run()
    assert desk.boss.told == []


def test_who_is_no_agent_has_no_children(desk: Desk) -> None:
    program = Agent("top/boss", Launch(kind="program", command=("x",)))
    desk.say(program, ["which"])
    desk.loop.run()
    assert program.told == []


def test_nested_rubbish_is_named_and_never_printed(desk: Desk) -> None:
    deep: Any = 1
    for _ in range(1000):
        deep = [deep]
    assert [text for _, text in desk.ask(desk.boss, [deep], ["stop", deep], ["start", deep])] == [
        "expected start and a table, stop and a name, or which; got an array and 0 more",
        "expected the name of a child, got an array",
        'expected a table such as {"name": "feed-7", "script": "feed.py", "args": {"symbol": "ACME"}}, got an array',
    ]


def test_a_mistake_of_our_own_is_an_answer_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.workers.starts.native, "may_hang", lambda _paths: 1 / 0)
    ((ok, text),) = desk.ask(desk.boss, start("x"))
    assert (ok, text) == (False, "the table can't be read: ZeroDivisionError: division by zero")


def test_what_could_not_be_ended_is_told_to_who_stopped_it(desk: Desk) -> None:
    desk.ask(desk.boss, start("x"))
    desk.workers.asked = lambda path, _by: desk.loop.after(0, lambda: None)
    request = desk.request

    def with_rest(op: Op, then: Callable[[Any], None]) -> None:
        desk.own.removed("top/boss/x", ["ghost (pid 7)"])
        request(op, then)

    desk.request = with_rest  # type: ignore[method-assign]
    assert desk.ask(desk.boss, ["stop", "x"]) == [(False, "x is stopped, but this could not be ended: ghost (pid 7)")]
