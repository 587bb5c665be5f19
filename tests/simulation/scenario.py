"""What one seed draws: the tree, what agents say, how fast the world is, and which faults there are (swarm testing).

Each seed leaves most things out and makes the rest frequent, so that all together go where no average world would. The
faults are a plain list with times: a failing seed is shrunk by leaving some of them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final, Literal

from otpd.supervisor.spec import (
    BRUTAL_KILL,
    INFINITY,
    AutoShutdown,
    Backoff,
    ChildSpec,
    ChildType,
    Health,
    Inbox,
    Launch,
    Restart,
    RestartWhen,
    Strategy,
    SupervisorSpec,
    TcpReady,
)
from tests.simulation.clock import MS, SECOND

#: Descriptors that a child with limits may have open.
FILES: Final = 100
Mode = Literal["safety", "liveness"]
MODES: Final[tuple[Mode, ...]] = ("safety", "liveness")
GROUPS: Final = ("g1", "g2")
#: Names that each agent has for children of its own.
PER_AGENT: Final = 2
#: Faults end at this part of a run in liveness mode.
CALM: Final = 0.8
#: Events that agents cause on their own, per seed: what a seed may cost.
_ACTIONS: Final = 260
#: Timers that agents set or take back on their own, per seed.
_TIMERS: Final = 40
#: Durable messages that agents send on their own, per seed.
_DURABLE: Final = 80
VERBS: Final = (
    "call", "calls", "cast", "confirmed", "burst", "publish", "cancel", "monitor", "demonitor", "link", "unlink", "trap",
    "subscribe", "unsubscribe", "join", "leave", "ask", "key", "lock", "exit", "start_child", "stop_child",
)  # fmt: skip
#: How often, next to each other, where a seed has them at all.
_WEIGHTS: Final = {"call": 30, "cast": 20, "confirmed": 8, "publish": 10, "monitor": 4, "ask": 6, "key": 6, "lock": 5}


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at` nanoseconds `kind` befalls `name`; `amount` is what `faults` says of the kind."""

    at: int
    kind: str
    name: str
    amount: int = 0

    def __str__(self) -> str:
        return f"{self.at / SECOND:9.3f} s  {self.kind} {self.name} {self.amount or ''}".rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    seed: int
    mode: Mode
    top: SupervisorSpec
    agents: tuple[str, ...]
    span: int  # ns until faults and workload are over
    rate: float  # actions per second and agent
    handler: int  # ns that a handler takes on average
    patience: int  # ns that a caller waits at most
    nesting: float  # share of handlers that call on
    odd_answers: float  # share of handlers that raise or reject
    large: float  # share of bodies that are large
    verbs: dict[str, int]
    latency: int  # ns at least on a connection
    tail: float  # share of things that are much slower
    trapping: frozenset[str]
    members: frozenset[tuple[str, str]]
    faults: tuple[Fault, ...] = ()
    programs: tuple[str, ...] = field(default=())
    durable: float = 0.0  # durable messages per second and agent; 0: there is no store
    timers: float = 0.0  # timers that are set or taken back per second and agent; 0: there is no scheduler

    def traps(self, name: str) -> bool:
        return name in self.trapping

    def is_member(self, name: str, group: str) -> bool:
        return (name, group) in self.members

    def only(self, places: tuple[int, ...]) -> Scenario:
        """With these of its faults, and no others."""
        return replace(self, faults=tuple(self.faults[place] for place in places))


def draw(seed: int, mode: Mode) -> Scenario:
    """The scenario of a seed: the same for ever, until this file changes."""
    random = Random(f"{seed}/{mode}/scenario")
    agents = tuple(f"a{number}" for number in range(random.choice((2, 3, 3, 4, 5, 6, 8, 12))))
    programs = tuple(f"p{number}" for number in range(random.choice((0, 0, 1, 2))))
    span = random.choice((3, 6, 10, 20, 45, 90)) * SECOND
    patience = int(random.choice((0.1, 1, 5, 10)) * SECOND)
    scenario = Scenario(
        seed=seed,
        mode=mode,
        top=_top(random, agents, programs),
        agents=agents,
        programs=programs,
        span=span,
        rate=_ACTIONS / (span / SECOND) / len(agents),
        handler=int(random.choice((0.02, 0.2, 2, 2, 10, 100, 1000)) * MS),
        patience=patience,
        nesting=random.choice((0.0, 0.1, 0.4)),
        odd_answers=random.choice((0.0, 0.01, 0.05)),
        large=random.choice((0.0, 0.0, 0.02, 0.3)),
        verbs=_verbs(random),
        latency=random.choice((5_000, 30_000, 200_000, 2_000_000)),
        tail=random.choice((0.0, 0.0, 0.01, 0.1)),
        trapping=frozenset(name for name in agents if random.random() < 0.5),
        members=frozenset((name, group) for name in agents for group in GROUPS if random.random() < 0.6),
    )
    return replace(scenario, faults=_faults(random, scenario))


def _verbs(random: Random) -> dict[str, int]:
    """About half of them; something is always said."""
    chosen = {verb: _WEIGHTS.get(verb, 2) for verb in VERBS if random.random() < 0.55}
    for verb in {"exit", "start_child", "stop_child"} & chosen.keys():
        chosen[verb] = 1
    return chosen or {"call": 1}


# --- the tree ---


def _top(random: Random, agents: tuple[str, ...], programs: tuple[str, ...]) -> SupervisorSpec:
    """The user's part of the tree, as the configuration gives it: the top isolates."""
    workers = [_agent(random, name) for name in agents] + [_program(random, name) for name in programs]
    random.shuffle(workers)
    numbers = iter(range(100))
    rest = _gathered(random, workers, numbers)
    if random.random() < 0.5:
        rest = _gathered(random, rest, numbers)
    return SupervisorSpec(max_restarts=None, isolate=True, children=tuple(_isolated(random, child) for child in rest))


def _gathered(random: Random, children: list[ChildSpec], numbers: Any) -> list[ChildSpec]:
    """Some of them under new supervisors."""
    left = list(children)
    result: list[ChildSpec] = []
    while left:
        size = min(len(left), random.choice((1, 1, 2, 3, 4)))
        taken, left = left[:size], left[size:]
        if random.random() < 0.5:
            result.append(_supervisor(random, f"s{next(numbers)}", taken))
        else:
            result += taken
    return result


def _supervisor(random: Random, name: str, children: list[ChildSpec]) -> ChildSpec:
    auto = random.choice((AutoShutdown.NEVER, *AutoShutdown))
    if auto is not AutoShutdown.NEVER:
        children = [
            replace(child, significant=child.restart is not Restart.PERMANENT and random.random() < 0.7)
            for child in children
        ]
    start = SupervisorSpec(
        strategy=random.choice(list(Strategy)),
        max_restarts=random.choice((0, 1, 3, 10, None)),
        max_seconds=random.choice((1, 5, 30)),
        auto_shutdown=auto,
        children=tuple(children),
    )
    shutdown = random.choice((INFINITY, INFINITY, INFINITY, 2.0))
    restart = random.choice((Restart.PERMANENT, Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY))
    return ChildSpec(id=name, start=start, shutdown=shutdown, restart=restart, type=ChildType.SUPERVISOR)


def _isolated(random: Random, child: ChildSpec) -> ChildSpec:
    """Below the top everybody has a back-off."""
    fast = Backoff(initial=0.05, max=random.choice((0.5, 5.0, 5.0, 40.0)), reset_after=random.choice((2.0, 60.0)))
    return replace(child, significant=False, backoff=child.backoff or fast)


def _worker(random: Random, name: str, launch: Launch) -> ChildSpec:
    restart = random.choice((Restart.PERMANENT, Restart.PERMANENT, Restart.PERMANENT, Restart.TRANSIENT, Restart.TEMPORARY))
    backoff = Backoff(initial=0.05, max=2.0, reset_after=5.0) if random.random() < 0.3 else None
    shutdown = random.choice((0.2, 1.0, 1.0, 5.0, BRUTAL_KILL))
    return ChildSpec(id=name, start=launch, restart=restart, shutdown=shutdown, backoff=backoff)


def _agent(random: Random, name: str) -> ChildSpec:
    inbox = Inbox(
        messages=random.choice((3, 20, 100, 100)),
        bytes=random.choice((2_000, 100_000, 1024 * 1024)),
        policy=random.choice(("reject", "reject", "drop_oldest", "drop_newest")),
    )
    launch = Launch(
        kind="agent",
        script="agent",
        ready="init",
        start_timeout=random.choice((0.5, 2.0, 2.0, 60.0)),
        watchdog=random.choice((None, 0.5, 2.0)),
        inbox=inbox if random.random() < 0.5 else Inbox(),
        group=random.choice((None, None, None, "many")),
    )
    return _worker(random, name, launch)


def own_child(random: Random, name: str) -> ChildSpec:
    """What an agent starts by itself."""
    return _agent(random, name)


def _program(random: Random, name: str) -> ChildSpec:
    return _worker(random, name, Launch(kind="program", script="program", ready="spawned", start_timeout=2.0))


# --- faults ---

#: kind -> (what it may befall, least and most amount). Amounts of time are milliseconds.
KINDS: Final[dict[str, tuple[str, int, int]]] = {
    "kill": ("worker", 0, 0),
    "exit": ("worker", 0, 255),
    "signal": ("worker", 0, 0),
    "stop": ("worker", 1, 4000),
    "stick": ("worker", 1, 8000),
    "busy": ("agent", 10, 6000),
    "slow": ("agent", 2, 200),
    "deaf": ("worker", 0, 0),
    "no_process": ("worker", 1, 3),
    "init_slow": ("agent", 1, 2),
    "init_fails": ("agent", 1, 12),
    "init_never": ("agent", 1, 1),
    "ignores": ("agent", 1, 1),
    "helper": ("worker", 0, 0),
    "immortal": ("worker", 1000, 15_000),
    "ghost": ("agent", 0, 0),
    "garbage": ("agent", 0, 0),
    "broker_kill": ("broker", 0, 0),
    "broker_stop": ("broker", 1, 5000),
    "broker_stick": ("broker", 1, 5000),
    "root_kill": ("root", 0, 0),
    "root_stop": ("root", 1, 3000),
    "root_slow": ("root", 10, 2000),
    "resnapshot": ("root", 0, 0),
    "repeat": ("root", 1, 20),
    "script": ("root", 5, 5000),
    "operator_stop": ("child", 0, 0),
    "operator_restart": ("child", 0, 0),
    "operator_start": ("child", 0, 0),
    "operator_delete": ("child", 0, 0),
    "breaker": ("agent", 0, 2),
}
#: What brings so much down that a run has few of them.
_RARE: Final = frozenset({"root_kill", "root_stop", "operator_delete", "immortal"})


#: The same, of worlds with durable traffic.
DURABLE_KINDS: Final[dict[str, tuple[str, int, int]]] = {
    "store_kill": ("store", 0, 0),
    "store_stop": ("store", 1, 5000),
    "power": ("root", 0, 0),
    "disk_full": ("root", 10, 5000),
    "kill": ("agent", 0, 0),
    "broker_kill": ("broker", 0, 0),
}


def draw_durable(seed: int, mode: Mode) -> Scenario:
    """The world of the same seed with a store in it, durable traffic, and what befalls them besides."""
    random = Random(f"{seed}/{mode}/durable")
    scenario = draw(seed, mode)
    scenario = replace(scenario, durable=_DURABLE / (scenario.span / SECOND) / len(scenario.agents))
    return _with_more(random, scenario, DURABLE_KINDS)


#: And of the whole node.
WHOLE_KINDS: Final[dict[str, tuple[str, int, int]]] = {
    "scheduler_kill": ("scheduler", 0, 0),
    "scheduler_stop": ("scheduler", 1, 5000),
    "health_kill": ("health", 0, 0),
    "health_stop": ("health", 1, 8000),
    "ill": ("agent", 1000, 30_000),
    "greedy": ("worker", 90, 300),
    "jump": ("root", 1, 3600),
    "kill": ("agent", 0, 0),
    "broker_kill": ("broker", 0, 0),
    "root_kill": ("root", 0, 0),
}


def draw_whole(seed: int, mode: Mode) -> Scenario:
    """The durable world of the same seed with all services in it, and what befalls those besides."""
    random = Random(f"{seed}/{mode}/whole")
    scenario = draw_durable(seed, mode)
    scenario = replace(scenario, timers=_TIMERS / (scenario.span / SECOND) / len(scenario.agents))
    watched = _watched(Random(f"{seed}/{mode}/health"), scenario.top, may_age=mode == "safety")
    return _with_more(random, replace(scenario, top=watched), WHOLE_KINDS)


def _watched(random: Random, top: SupervisorSpec, may_age: bool) -> SupervisorSpec:
    """The same tree, and whose health is looked at. Who has an age is never at rest."""

    def child(spec: ChildSpec) -> ChildSpec:
        if isinstance(spec.start, SupervisorSpec):
            return replace(spec, start=_watched(random, spec.start, may_age))
        assert isinstance(spec.start, Launch)
        limits = RestartWhen(files=FILES, age=random.choice((None, None, 20.0)) if may_age else None)
        health = _health(random, spec.start)
        chosen = random.choice(((health, None), (health, limits), (None, limits), (None, None)))
        return replace(spec, start=replace(spec.start, health=chosen[0], restart_when=chosen[1]))

    return replace(top, children=tuple(map(child, top.children)))


def _health(random: Random, launch: Launch) -> Health:
    interval = random.choice((2.0, 5.0, 10.0))
    return Health(
        check="call" if launch.kind == "agent" else TcpReady(port=1),
        interval=interval,
        timeout=min(interval, random.choice((1.0, 2.0))),
        failures=random.choice((1, 2, 3)),
        successes=random.choice((1, 2)),
        grace=random.choice((0.0, 5.0)),
        action=random.choice(("report", "restart")),
    )


def _with_more(random: Random, scenario: Scenario, kinds: dict[str, tuple[str, int, int]]) -> Scenario:
    """Some of these kinds, some of each."""
    chosen = random.sample(list(kinds), random.choice((1, 2, 3, 4)))
    more = [_fault(random, scenario, kind, kinds) for kind in chosen for _ in range(random.choice((1, 2, 4)))]
    return replace(scenario, faults=tuple(sorted((*scenario.faults, *more), key=lambda fault: fault.at)))


def _faults(random: Random, scenario: Scenario) -> tuple[Fault, ...]:
    """Up to six kinds of them, from one to twenty each."""
    kinds = random.sample(list(KINDS), random.choice((0, 1, 2, 3, 4, 6)))
    found = [
        _fault(random, scenario, kind)
        for kind in kinds
        for _ in range(random.randint(1, 2) if kind in _RARE else random.choice((1, 2, 4, 8, 16)))
    ]
    return tuple(sorted(found, key=lambda fault: fault.at))


def _fault(
    random: Random, scenario: Scenario, kind: str, kinds: dict[str, tuple[str, int, int]] = KINDS
) -> Fault:
    whom, least, most = kinds[kind]
    workers = (*scenario.agents, *scenario.programs)
    names = {"agent": scenario.agents, "worker": workers, "child": (*workers, "s0", "s1")}.get(whom, (whom,))
    amount = random.randint(least, most) if random.random() < 0.5 else int(least + (most - least) * random.random() ** 4)
    end = scenario.span if scenario.mode == "safety" else int(scenario.span * CALM)
    return Fault(random.randrange(end), kind, random.choice(names), amount)
