"""What a simulated agent does of its own accord: random verbs at random times, as its seed and the scenario say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otpd.ipc.endpoint import Address
from tests.simulation.clock import SECOND
from tests.simulation.messages import Answer, Recipe
from tests.simulation.scenario import GROUPS, PER_AGENT

if TYPE_CHECKING:
    from tests.simulation.agent import SimulatedAgent

POLICIES: Final = ("any", "all", "round_robin", "least_loaded", "hash")
#: A call to all has no single outcome: the SDK asks for the members and calls each.
SINGLE: Final = ("any", "round_robin", "least_loaded", "hash")
TOPICS: Final = ("orders.eu.new", "orders.us.new", "orders.eu.gone", "stock", "otpd.group.g1")
PATTERNS: Final = ("orders.*.new", "orders.**", "stock", "**", "otpd.group.*", "otpd.name.**", "orders.eu.new")
KEYS: Final = ("k1", "k2", "k3")
UNKNOWN: Final = "nobody"
#: Bytes of a body: mostly small, sometimes over a batch (64 KiB) or over the whole window (256 KiB). What is over the limit
#: (16 MiB) the endpoint refuses, and no simulation is needed to see it.
SIZES: Final = (8, 8, 8, 8, 64, 64, 1024, 1024, 20_000, 70_000, 300_000, 1_100_000)


class Workload:
    """Of one incarnation, from when it is ready until it ends."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self._agent, self._world = agent, agent.world
        self._random = agent.random
        self._monitors: list[int] = []
        self._subscriptions: list[int] = []
        self._verbs: dict[str, Callable[[], None]] = {
            "call": self._call, "calls": self._calls, "cast": self._cast, "confirmed": self._confirmed, "burst": self._burst,
            "publish": self._publish, "cancel": self._cancel, "monitor": self._monitor, "demonitor": self._demonitor,
            "link": self._link, "unlink": self._unlink, "trap": self._trap, "subscribe": self._subscribe,
            "unsubscribe": self._unsubscribe, "join": self._join, "leave": self._leave, "ask": self._ask,
            "key": self._key, "lock": self._lock, "exit": self._exit,
            "start_child": lambda: agent.own.start(agent.random), "stop_child": lambda: agent.own.stop(agent.random),
        }  # fmt: skip
        weights = agent.world.scenario.verbs
        self._kin = 0.1 if weights.get("start_child") else 0.0  # share of what is said to somebody's own child
        self._names = [name for name in self._verbs if weights.get(name)]
        self._weights = [weights[name] for name in self._names]

    def begin(self) -> None:
        if self._world.scenario.traps(self._agent.name):
            self._trap(True)
        for group in GROUPS:
            if self._world.scenario.is_member(self._agent.name, group):
                self._agent.endpoint.join(group)
                self._told("join", group)
        self._agent.work()
        self._later()
        for part in self._agent.parts:
            part.begin()

    def _later(self) -> None:
        pause = self._random.expovariate(self._world.scenario.rate)
        self._agent.process.after(int(pause * SECOND), self._act)

    def _act(self) -> None:
        agent = self._agent
        if agent.phase != "ready" or self._world.resting:
            return
        if agent.endpoint.room:
            (name,) = self._random.choices(self._names, self._weights)
            self._verbs[name]()
        else:
            self._world.sometimes["an agent waits for room"] += 1
        if agent.process.alive:
            agent.work()
            self._later()

    # --- messages ---

    def _recipe(self) -> Recipe:
        random, scenario = self._random, self._world.scenario
        takes = int(random.expovariate(1.0) * scenario.handler)
        answer = Answer.VALUE
        if random.random() < scenario.odd_answers:
            answer = random.choice((Answer.REJECT, Answer.REJECT, Answer.RAISE))
        onward = self._other() if random.random() < scenario.nesting else None
        return Recipe(takes, answer, onward)

    def _other(self) -> str:
        if self._random.random() < 0.02:
            return UNKNOWN
        name = self._random.choice(self._world.scenario.agents)
        return f"{name}-{self._random.randrange(PER_AGENT)}" if self._random.random() < self._kin else name

    def _address(self, policies: tuple[str, ...] = POLICIES) -> Address:
        random = self._random
        kind = random.random()
        if kind < 0.75:
            return Address(self._other())
        if kind < 0.95:
            policy = random.choice(policies)
            key = f"key{random.randrange(20)}" if policy == "hash" else None
            return Address(random.choice(GROUPS), "group", policy, key)
        return Address(random.choice(KEYS), "key")

    def _size(self) -> int:
        if self._random.random() < self._world.scenario.large:
            return self._random.choice(SIZES)
        return 8 + self._random.randrange(64)

    def _call(self) -> None:
        patience = int(self._world.scenario.patience * self._random.uniform(0.02, 1.0))
        self._agent.call(self._address(SINGLE), self._recipe(), self._world.clock.now + patience, self._size())

    def _calls(self) -> None:
        """Several at once to one receiver, as a server does for its clients: what opens a breaker, and crowds before one."""
        to, recipe, patience = self._address(SINGLE), self._recipe(), self._world.scenario.patience
        for _ in range(self._random.randrange(2, 9)):
            self._agent.call(to, recipe, self._world.clock.now + int(patience * self._random.uniform(0.02, 1.0)))

    def _cast(self) -> None:
        self._agent.cast(self._address(), self._recipe(), self._size())

    def _confirmed(self) -> None:
        self._agent.cast(self._address(), self._recipe(), self._size(), confirm=True)

    def _burst(self) -> None:
        """Many to one receiver: what fills a window, an inbox, a buffer, with messages or with bytes."""
        to, recipe = self._address(), Recipe(int(self._world.scenario.handler))
        size = self._random.choice((8, 2_000, 20_000)) if self._world.scenario.large else 8
        for _ in range(min(self._random.randrange(10, 300), 1_000_000 // size)):
            self._agent.cast(to, recipe, size)

    def _publish(self) -> None:
        for _ in range(self._random.choice((1, 1, 1, 40))):
            self._agent.publish(self._random.choice(TOPICS[:4]), Recipe(int(self._world.scenario.handler)), self._size())

    def _cancel(self) -> None:
        """Of its own accord; a call that a handler waits for is that handler's, what the store is told is the SDK's."""
        handling = self._agent.handling
        onward = None if handling is None else handling.onward
        own = [request for request, call in self._agent.calls.items() if request != onward and call.payload is None]
        if own:
            self._agent.give_up(self._agent.calls[self._random.choice(own)])

    # --- deaths ---

    def _monitor(self) -> None:
        follow, name = self._random.random() < 0.3, self._other()
        ref = self._agent.endpoint.monitor(name, follow)
        self._monitors.append(ref)
        self._told("monitor", ref, name, follow)

    def _demonitor(self) -> None:
        if self._monitors:
            ref = self._monitors.pop(self._random.randrange(len(self._monitors)))
            self._agent.endpoint.demonitor(ref)
            self._told("demonitor", ref)

    def _link(self) -> None:
        name = self._other()
        if name != self._agent.name:
            self._agent.endpoint.link(name)
            self._told("link", name)

    def _unlink(self) -> None:
        name = self._other()
        self._agent.endpoint.unlink(name)
        self._told("unlink", name)

    def _trap(self, on: bool | None = None) -> None:
        value = self._random.random() < 0.5 if on is None else on
        self._agent.endpoint.trap(value)
        self._told("trap", value)

    def _exit(self) -> None:
        reason, code = self._random.choice((("normal", 0), ("error(3)", 3), ("shutdown", 0)))
        if code:
            self._agent.process.exit(code)
        else:
            self._agent.end(reason, code)

    # --- groups, topics, keys ---

    def _subscribe(self) -> None:
        pattern = self._random.choice(PATTERNS)
        ref = self._agent.endpoint.subscribe(pattern)
        self._subscriptions.append(ref)
        self._told("subscribe", ref, pattern)

    def _unsubscribe(self) -> None:
        if self._subscriptions:
            ref = self._subscriptions.pop(self._random.randrange(len(self._subscriptions)))
            self._agent.endpoint.unsubscribe(ref)
            self._told("unsubscribe", ref)

    def _join(self) -> None:
        group = self._random.choice(GROUPS)
        self._agent.endpoint.join(group)
        self._told("join", group)

    def _leave(self) -> None:
        group = self._random.choice(GROUPS)
        self._agent.endpoint.leave(group)
        self._told("leave", group)

    def _ask(self) -> None:
        what = self._random.choice(
            (("whereis", self._other()), ("members", self._random.choice(GROUPS)), ("lookup", self._random.choice(KEYS)),
             ("keys",), ("letters",))
        )  # fmt: skip
        self._asked(*what)

    def _key(self) -> None:
        key = self._random.choice(KEYS)
        what = self._random.choice(("register", "register", "update", "unregister"))
        self._asked(*((what, key) if what == "unregister" else (what, key, self._random.randrange(1000))))

    def _lock(self) -> None:
        self._asked(self._random.choice(("lock", "unlock")), self._random.choice(KEYS))

    def _asked(self, *what: object) -> None:
        ref = self._agent.endpoint.ask(*what)
        self._told("ask", ref, *what)

    def _told(self, name: str, *arguments: object) -> None:
        self._world.watch.verb(self._agent, name, *arguments)
