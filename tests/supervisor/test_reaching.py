"""How root joins whoever asks with a service that comes on demand: when it is ready, with who that is, one answer each."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from otpd.ipc.frames import close_all
from otpd.supervisor import pools, reaching
from otpd.supervisor.events import Boot, Event, Exited, Op, Reply, Request, Spawn, Started
from otpd.supervisor.names import Names
from otpd.supervisor.reaching import Reaching
from otpd.supervisor.services import with_services
from otpd.supervisor.spec import ChildSpec, ChildType, NodeSpec, SupervisorSpec
from otpd.supervisor.tree import Tree
from tests.supervisor.test_ownchildren import Clock

NODE = NodeSpec(name="n", state_dir="/s", config="/etc/n/otpd.toml", top=SupervisorSpec(), pools={"own": {"size": 3}})
CPU = "top/tasks/tasks-cpu"


class Channel:
    """What a process is told; its descriptors are kept."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, list[int]]] = []
        self.full, self.holds, self.on_room = False, 0, None
        self.fails = False  # the kernel gives no descriptors

    def send(self, packet: Any, fds: tuple[int, ...] = ()) -> None:
        if self.fails and fds:
            raise OSError(errno.EMFILE, "Too many open files")
        self.told.append((packet, [os.dup(fd) for fd in fds]))


class Desk:
    """root without processes; a service is ready when `up` says so."""

    def __init__(self) -> None:
        self.loop, self.node, self.phase = Clock(), NODE, "running"
        top = with_services(NODE, ())
        self.tree = Tree(ChildSpec(id="top", start=top, type=ChildType.SUPERVISOR, shutdown="infinity"))
        self.lives: dict[str, Any] = {}
        self.workers = SimpleNamespace(live=self.lives.get)
        self.names = Names(self)  # type: ignore[arg-type]
        self._replies: dict[int, Callable[[Any], None]] = {}
        self.spawned: list[str] = []
        self.keep_service = lambda _name: None
        self.feed(Boot())
        self.reaching = Reaching(self)  # type: ignore[arg-type]

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
                case Spawn(path):
                    self.spawned.append(path)
                case Reply(number, result):
                    self._replies[number](result)

    def up(self, path: str, generation: int = 1) -> Any:
        live = self.lives[path] = process(path)
        self.feed(Started(path, generation))
        self.reaching.ready(live)
        return live

    def close(self) -> None:
        for live in self.lives.values():
            for _packet, fds in live.channel.told:
                close_all(fds)


def process(path: str, kind: str = "agent", generation: int = 7) -> Any:
    launch = SimpleNamespace(kind=kind, user=None)
    name = path.rpartition("/")[2]
    pidfd = os.pidfd_open(os.getpid())
    live = SimpleNamespace(
        name=name, path=path, generation=generation, pid=os.getpid(), launch=launch, pidfd=pidfd, channel=Channel()
    )
    live.counts = live.asks = None
    return live


@pytest.fixture
def desk() -> Iterator[Desk]:
    before = len(os.listdir("/proc/self/fd"))
    made = Desk()
    made.lives["top/boss"] = process("top/boss")
    yield made
    made.close()
    for live in made.lives.values():
        os.close(live.pidfd)
    assert len(os.listdir("/proc/self/fd")) <= before


def ask(desk: Desk, ref: int, *what: Any) -> None:
    """One that rests between its requests."""
    boss = desk.lives["top/boss"]
    if boss.asks is not None:
        boss.asks.rests_until = 0.0
    desk.reaching.heard(boss, ["reach", ref, *what])


def told(desk: Desk, path: str = "top/boss") -> list[Any]:
    return [(packet, len(fds)) for packet, fds in desk.lives[path].channel.told]


def test_the_first_who_asks_starts_it_and_all_are_joined_when_it_is_ready(desk: Desk) -> None:
    ask(desk, 1, "cpu"), ask(desk, 2, "cpu")
    assert (desk.spawned, told(desk)) == ([CPU], [])
    desk.up(CPU)
    assert told(desk) == [(["reach", 1, True, None], 1), (["reach", 2, True, None], 1)]
    who = {"name": "boss", "generation": 7, "user": None, "client": False, "pid": os.getpid()}
    assert told(desk, CPU) == [(["caller", who], 2)] * 2
    line, other = desk.lives["top/boss"].channel.told[0][1][0], desk.lives[CPU].channel.told[0][1][0]
    os.write(line, b"hello")
    assert os.read(other, 10) == b"hello"


def test_one_that_runs_is_joined_at_once_and_a_look_brings_no_line(desk: Desk) -> None:
    ask(desk, 1, "cpu", False)
    desk.up(CPU)
    ask(desk, 2, "cpu")
    assert told(desk) == [(["reach", 1, True, None], 0), (["reach", 2, True, None], 1)]


def test_a_service_starts_with_its_table_in_the_directory_of_the_configuration(desk: Desk) -> None:
    ask(desk, 1, "own")
    view = desk.tree.view("top/tasks/tasks-own")
    assert view is not None
    start: Any = view.spec.start
    assert (start.kind, start.args, start.cwd) == ("service", {"pool": "own", "options": {"size": 3}}, "/etc/n")
    assert start.script.endswith("agents/tasks/dispatcher.py")


def test_whoever_can_not_be_joined_is_told_why(desk: Desk) -> None:
    ask(desk, 1, "cpo")
    assert told(desk)[0][0][3] == 'the node has no pool or service "cpo" that could be reached; did you mean cpu?'
    ask(desk, 2, "cpu")
    desk.loop.run(reaching.DEADLINE)
    assert told(desk)[1][0][3] == "tasks-cpu did not become ready within 15 s; look with: otpd why tasks-cpu"
    desk.phase = "stopping"
    ask(desk, 3, "io")
    assert "the node is stopping" in told(desk)[2][0][3]


def test_a_name_that_somebody_has_is_not_taken(desk: Desk) -> None:
    desk.node = replace(NODE, top=SupervisorSpec(children=(ChildSpec(id="tasks-io", start=SupervisorSpec()),)))
    ask(desk, 1, "io")
    assert (told(desk)[0][0][3], desk.spawned) == ("the name tasks-io is taken by tasks-io; rename that", [])


def test_one_that_restarts_is_waited_for(desk: Desk) -> None:
    ask(desk, 1, "cpu")
    desk.up(CPU)
    desk.lives["(dead)"] = desk.lives.pop(CPU)
    desk.feed(Exited(CPU, 1, "killed"))
    ask(desk, 2, "cpu")
    assert len(told(desk)) == 1
    desk.up(CPU, 2)
    assert told(desk)[1] == (["reach", 2, True, None], 1)


@pytest.mark.parametrize("packet", [["reach"], ["reach", "x", "cpu"], ["reach", 1, 2], ["reach", 1, "c" * 65], 7])
def test_what_is_no_request_is_ignored(desk: Desk, packet: Any) -> None:
    desk.reaching.heard(desk.lives["top/boss"], packet)
    assert (desk.spawned, told(desk)) == ([], [])


def test_counts_are_taken_from_services_alone_and_only_if_they_are_few_numbers(desk: Desk) -> None:
    agent, service = desk.lives["top/boss"], process("top/tasks/tasks-x", "service")
    desk.lives[service.path] = service
    for live in (agent, service):
        desk.reaching.heard(live, ["counts", {"done": 3}])
    many = {str(n): n for n in range(reaching.MAX_COUNTS + 1)}
    for wrong in (many, {"done": "3"}, {3: 3}):
        desk.reaching.heard(service, ["counts", wrong])
    assert (agent.counts, service.counts) == (None, {"done": 3})


def test_requests_without_an_answer_are_bounded(desk: Desk) -> None:
    for ref in range(reaching.MAX_OPEN + 1):
        ask(desk, ref, "cpu")
    refused = "64 requests of boss have no answer yet; await one first"
    assert told(desk) == [(["reach", reaching.MAX_OPEN, False, refused], 0)]
    desk.up(CPU)
    assert [packet[:3] for packet, _ in told(desk)[1:]] == [["reach", ref, True] for ref in range(reaching.MAX_OPEN)]
    ask(desk, 99, "cpu")
    assert told(desk)[-1] == (["reach", 99, True, None], 1)


def test_the_next_request_rests_longer_than_the_last_one_took(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(50.0)
    monkeypatch.setattr(reaching, "time", SimpleNamespace(monotonic=lambda: float(next(now))))
    boss = desk.lives["top/boss"]
    for ref in (1, 2):
        desk.reaching.heard(boss, ["reach", ref, "cpo"])
    assert [packet[1] for packet, _ in told(desk)] == [1]
    desk.loop.run(10.0)
    assert [packet[1] for packet, _ in told(desk)] == [1, 2]
    assert boss.asks.open == 0


def test_who_does_not_take_its_lines_gets_no_more(desk: Desk) -> None:
    desk.reaching.heard(desk.lives["top/boss"], ["reach", 1, "cpu"])
    desk.up(CPU)
    desk.lives["top/boss"].channel.holds = reaching.MAX_HELD
    ask(desk, 2, "cpu")
    assert told(desk)[-1] == (["reach", 2, False, "boss has not taken its last 16 lines; read them first"], 0)


@pytest.mark.parametrize("path", ["top/boss", CPU])
def test_no_descriptor_left_is_an_answer(desk: Desk, path: str) -> None:
    ask(desk, 1, "cpu", False)
    desk.up(CPU)
    desk.lives[path].channel.fails = True
    ask(desk, 2, "cpu")
    assert told(desk)[-1][0][:3] == ["reach", 2, False]
    assert "Too many open files" in told(desk)[-1][0][3]


def test_lines_to_one_that_is_behind_wait_until_it_has_taken_the_last(desk: Desk) -> None:
    ask(desk, 1, "cpu", False)
    cpu = desk.up(CPU)
    cpu.channel.full = True
    for ref in (2, 3):
        ask(desk, ref, "cpu")
    assert (told(desk)[1:], told(desk, CPU)) == ([], [])
    cpu.channel.full = False
    cpu.channel.on_room()
    assert told(desk)[1:] == [(["reach", ref, True, None], 1) for ref in (2, 3)]


def test_a_pool_takes_nothing_from_an_agent_of_another_user(desk: Desk) -> None:
    desk.lives["top/boss"].launch.user = "www-data"
    for ref, line in enumerate((True, False)):
        ask(desk, ref, "cpu", line)
    why = "boss runs as www-data, and pool cpu runs functions as the user of the node"
    assert told(desk) == [
        (["reach", ref, False, f"{why}; have an agent of that user do it, and call that"], 0) for ref in (0, 1)
    ]
    assert desk.spawned == []
    desk.reaching._user = "www-data"
    ask(desk, 3, "cpu", False)
    assert desk.spawned == [CPU]


def test_a_node_has_three_pools_whatever_is_configured() -> None:
    assert pools.pools_of(NODE) == {"general": {}, "cpu": {}, "io": {}, "own": {"size": 3}}
    assert pools.pools_of(replace(NODE, pools={"cpu": {"size": 9}}))["cpu"] == {"size": 9}
