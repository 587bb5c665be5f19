"""Runs an agent in a test: without processes, without a broker beside it, and with a clock that jumps.

The agent is the real one, in the running asyncio loop; the router in memory is the broker's own, and the test plays the
rest of the node: it calls the agent, stands in for its peers, ends them, and looks at what the agent said.

>>> import asyncio
>>> from otpd.agents import Agent, call, cast
>>> class Shop(Agent):
...     async def init(self, discount: float = 0.0):
...         self.discount = discount
...     @call
...     async def quote(self, sku: str) -> float:
...         price = await self.call("prices", "get", sku=sku)
...         await asyncio.sleep(3600)
...         await self.publish("shop.quoted", sku=sku)
...         return price * (1 - self.discount)
>>> async def test():
...     shop = run(Shop, discount=0.5)
...     shop.peer("prices", lambda method, args: {"A": 10.0}[args["sku"]])
...     async with shop:
...         print(await shop.call("quote", timeout=None, sku="A"), "after", round(shop.elapsed), "s")
...         print(shop.published, shop.calls)
>>> asyncio.run(test())
5.0 after 3600 s
[('shop.quoted', {'sku': 'A'})] [('prices', 'get', {'sku': 'A'})]

Guarantees: schedules and timers are those of the real scheduler, on this clock: sleep in the test for as long as they need.
`cast`, `publish` and `down` return when the agent has handled what they caused. `asyncio.sleep`, timeouts and
deadlines cost no real time; `time.sleep` and the wall clock are as ever. A crash of the agent that the test has not seen
(by `ended`, or as a RemoteError) is raised at the end of the block, so that no test passes beside one.

Not for what processes are about (restarts, kills, signals): start a node for that.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from otpd.agents import raised
from otpd.agents.agent import Agent
from otpd.agents.commands import COMMANDS
from otpd.agents.conversation import Conversation
from otpd.agents.data import decode
from otpd.agents.errors import ChildError, Reject, RemoteError
from otpd.agents.host import Host
from otpd.agents.tasks.local import LocalPools
from otpd.agents.testing_clock import Clock
from otpd.agents.testing_commands import Commands, Outcome
from otpd.agents.testing_node import Node
from otpd.agents.testing_scheduler import SCHEDULER, Scheduler
from otpd.agents.testing_store import STORE, RecordingSubmissions, Store
from otpd.agents.verbs import TIMEOUT, Verbs
from otpd.agents.waiting import Waiting
from otpd.ipc.endpoint import Address
from otpd.ipc.happenings import Delivered
from otpd.ipc.wire import Status

A = TypeVar("A", bound=Agent)
#: What a peer answers: gets method and arguments. May be async; Reject is an answer, another exception a RemoteError.
Answers: TypeAlias = Callable[[str, dict[str, Any]], Any]


def run(agent_class: type[A], name: str | None = None, /, **args: Any) -> Running[A]:
    """An agent to be run by `async with`; `args` reach its init(). Its name is that of its class in lower case."""
    return Running(agent_class, name or agent_class.__name__.lower(), args)


class Running(Generic[A]):
    """One agent in its small node. What it said is in `calls` and `casts` (name, method, arguments), `published` (topic,
    data), `monitors` and `links` (names), `children` (tables that it gave to start_child), `notes` (kind, name, data)."""

    def __init__(self, agent_class: type[A], name: str, args: Mapping[str, Any]) -> None:
        self.name = name
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.casts: list[tuple[str, str, dict[str, Any]]] = []
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.monitors: list[str] = []
        self.links: list[str] = []
        self.children: dict[str, dict[str, Any]] = {}
        self.caller: Callable[[dict[str, Any], int, int], None] | None = None
        self.child_ended: Callable[[str, str], None] = lambda _name, _reason: None
        self._class, self._args = agent_class, args
        self.peers: dict[str, Peer] = {}
        self.notes: list[tuple[str, str, dict[str, Any]]] = []
        self._clock = Clock(self._turn, self._due, self._threads)
        self._node = Node(self._clock.now, self._terminate)
        self._store = Store(self, self)
        self._scheduler = Scheduler(self, self, self._clock.now)
        self._host: Host | None = None
        self._crash_is_seen = False

    @property
    def instance(self) -> A:
        """The agent itself, to look at its attributes."""
        return self._hosted().agent  # type: ignore[return-value]

    @property
    def elapsed(self) -> float:
        """Seconds of the jumping clock since the agent was started."""
        return self._clock.elapsed

    # --- begin and end ---

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._clock.put_on(loop)
        self._factory = loop.get_task_factory()
        try:
            await self._start(loop)
        except BaseException:
            self._put_back(loop)
            raise
        return self

    async def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._tester = _Tester(self._conversation("@test", "client"))
        for peer in self.peers.values():
            peer.begin()
        endpoint, generation = self._node.endpoint(self.name)
        conversation = _Recording(endpoint, self._clock.now)
        conversation.record, conversation.flush = self, self._flush
        conversation.submissions = RecordingSubmissions(conversation, self._store, self._cast_durably)
        log = logging.getLogger(f"otpd.agent.{self.name}")
        host = self._host = Host(self._class, generation, conversation, self, log)
        self.pools = LocalPools(conversation.reach, self.name, host.crash)
        conversation.__dict__["pools"] = self.pools
        self._node.join(conversation, "starting")
        loop.set_task_factory(host.task_factory)
        self._ready = loop.create_future()
        self._life = asyncio.ensure_future(self._live(host))
        await asyncio.wait((self._life, self._ready), return_when=asyncio.FIRST_COMPLETED)
        if self._life.done():
            self._life.result()

    async def _live(self, host: Host) -> str:
        reason = "shutdown"
        try:
            if await host.init(self._args):
                self._node.ready(self.name)
                self._ready.set_result(None)
                reason = await host.live()
            else:
                reason = host.reason
        except BaseException as error:
            reason = f"error({raised.one_line(error)})"
            raise
        finally:
            self._turn()
            host.conversation.close_pools()
            self._node.died(self.name, reason)
            self._node.gone(self.name)
        return reason

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._hosted().stop("shutdown")
        await asyncio.wait((self._life,))
        await self._scheduler.end()
        await self._store.end()
        self._put_back(asyncio.get_running_loop())
        crash = self._life.exception()
        if crash is not None and not self._crash_is_seen and error is None:
            raise crash

    def _put_back(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_task_factory(self._factory)
        self._clock.take_off(loop)

    async def stop(self, reason: str = "shutdown") -> str:
        """Ask it to stop, as its supervisor would; the exit reason."""
        self._hosted().stop(reason)
        return await self.ended()

    async def ended(self) -> str:
        """Wait for its end; the exit reason, "error(...)" after a crash."""
        await asyncio.wait((self._life,))
        self._crash_is_seen = True
        error = self._life.exception()
        return self._life.result() if error is None else f"error({raised.one_line(error)})"

    # --- what others do ---

    async def call(self, method: str, /, timeout: float | None = TIMEOUT, **args: Any) -> Any:
        """Call the agent from outside."""
        try:
            return await self._tester.call(self.name, method, timeout, **args)
        except RemoteError:
            self._crash_is_seen = True
            raise

    async def cast(self, method: str, /, **args: Any) -> None:
        """Cast to the agent; over when it was handled."""
        await self._tester.cast(self.name, method, **args)
        await self.settle()

    async def publish(self, topic: str, /, **data: Any) -> None:
        """Publish an event; over when the agent has handled it, if it is subscribed."""
        await self._tester.publish(topic, **data)
        await self.settle()

    def peer(self, name: str, answers: Answers | None = None) -> Peer:
        """Another agent, played by the test: `answers(method, arguments)` gives what its calls return."""
        if name in self.peers or name == self.name:
            raise ValueError(f"peer {name}: there is one of this name already; use another name")
        peer = self.peers[name] = Peer(self._node, self._conversation, name, answers)
        if self._host is not None:
            peer.begin()
            self._turn()  # it is there, for who sends to it now
        return peer

    def commands(self, outcome: Outcome) -> Commands:
        """The commands that the agent orders: `outcome(argv, options)` says what comes of each, nothing is run. What it has
        ordered is in what this returns."""
        played = Commands(outcome)
        self.peer(COMMANDS, played.answer)
        return played

    async def down(self, name: str, reason: str = "killed") -> None:
        """A peer dies; over when the agent has handled what follows."""
        self._peer(name).end(reason)
        await asyncio.sleep(_GRACE)
        await self.settle()

    async def up(self, name: str) -> None:
        """A peer that died is there again, as its next incarnation."""
        self._peer(name).begin()
        await self.settle()

    async def new_broker(self) -> None:
        """The broker dies, and there is another one at once."""
        self._node.new_broker()
        await self.settle()

    async def settle(self) -> None:
        """Until the agent has handled all that is on its way."""
        moved = True
        while moved and not self._life.done():
            await asyncio.sleep(0)
            idle = asyncio.ensure_future(self._hosted().mailbox.until_idle())
            await asyncio.wait((idle, self._life), return_when=asyncio.FIRST_COMPLETED)
            idle.cancel()
            moved = self._turn()
            await self._store.settle()
            moved = self._turn() or moved

    def _peer(self, name: str) -> Peer:
        if name not in self.peers:
            there = ", ".join(self.peers) or "none"
            raise ValueError(f"no peer named {name!r} (there are: {there}); make it first: agent.peer({name!r})")
        return self.peers[name]

    # --- the rest of the node ---

    def counts(self, counts: dict[str, int]) -> None:
        """In the place of root."""

    def note(self, kind: str, name: str, data: dict[str, Any]) -> bool:
        """In the place of root: what a service wants noted is in `notes`."""
        self.notes.append((kind, name, data))
        return True

    async def child(self, what: str, *arguments: Any) -> Any:
        """In the place of root."""
        match what, *arguments:
            case "start", {"name": str(name)} as table:
                self.children[name] = table
                return {"name": name, "generation": 1}
            case "stop", str(name) if name in self.children:
                del self.children[name]
                return None
            case "which", *_:
                return [{"name": name} for name in self.children]
        raise ChildError(f"{what} child: expected a table with a name, or the name of a child, got {arguments!r}")

    def _terminate(self, name: str, reason: str) -> None:
        if name == self.name:
            self._hosted().stop(reason)
        else:
            self._peer(name).end(reason)

    def _conversation(self, name: str, kind: str = "agent") -> Conversation:
        endpoint, _ = self._node.endpoint(name)
        conversation = Conversation(endpoint, self._clock.now)
        conversation.submissions = RecordingSubmissions(conversation, self._store, _nothing)
        self._node.join(conversation, kind=kind)
        return conversation

    def join_store(self) -> tuple[Conversation, int]:
        endpoint, generation = self._node.endpoint(STORE.name)
        conversation = Conversation(endpoint, self._clock.now)
        self._node.join(conversation, "starting", kind="service")
        return conversation, generation

    def store_ready(self) -> None:
        self._node.ready(STORE.name)

    def join_service(self, name: str) -> tuple[Conversation, int]:
        endpoint, generation = self._node.endpoint(name)
        conversation = Conversation(endpoint, self._clock.now)
        self._node.join(conversation, "starting", kind="service")
        return conversation, generation

    def service_ready(self, name: str) -> None:
        self._node.ready(name)

    def _cast_durably(self, to: str, method: str, args: dict[str, Any]) -> None:
        self.casts.append((to, method, args))

    def _turn(self) -> bool:
        return self._node.turn()

    def _flush(self) -> None:
        self._node.turn()

    def _due(self) -> int | None:
        return self._node.due()

    def _threads(self) -> bool:
        host = self._host
        return host is not None and host.mailbox.worker.running > host.sync.waiting

    def _hosted(self) -> Host:
        if self._host is None:
            raise RuntimeError(f"{self.name} is not running yet: async with testing.run(...) as agent")
        return self._host


#: Seconds until the router tells a death: what the dead one wrote before may still be on its way.
_GRACE = 0.05


def _nothing(*_: Any) -> None:
    pass


class _Tester(Verbs):
    """The test, as a client of the node."""

    def __init__(self, conversation: Conversation) -> None:
        self._otpd = conversation


class _Recording(Conversation):
    """Notes what an agent says."""

    record: Running[Any]

    async def call(
        self, to: Address, method: str, args: Mapping[str, Any], timeout: float | None, inherit: bool = True
    ) -> Any:
        if to == STORE:
            self.record._store.begin()
        elif to.name == SCHEDULER and SCHEDULER not in self.record.peers:
            self.record._scheduler.begin()
        else:
            self.record.calls.append((to.name, method, dict(args)))
        return await super().call(to, method, args, timeout, inherit)

    def put_cast(
        self, to: Address, method: str, args: Mapping[str, Any], body: bytes, confirm: Waiting | None = None
    ) -> int:
        if to != STORE:
            self.record.casts.append((to.name, method, dict(args)))
        return super().put_cast(to, method, args, body, confirm)

    def put_event(self, topic: str, data: Mapping[str, Any]) -> None:
        self.record.published.append((topic, dict(data)))
        super().put_event(topic, data)

    def monitor(self, name: str, follow: bool) -> int:
        if name != SCHEDULER:
            self.record.monitors.append(name)
        return super().monitor(name, follow)

    def link(self, name: str) -> None:
        self.record.links.append(name)
        super().link(name)


class Peer(Verbs):
    """An agent that the test plays. It has the verbs, and notes what it got in `calls` and `casts` (method, arguments)."""

    def __init__(
        self, node: Node, connect: Callable[[str], Conversation], name: str, answers: Answers | None
    ) -> None:
        self.name, self._answers = name, answers
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.casts: list[tuple[str, dict[str, Any]]] = []
        self._node, self._connect = node, connect
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        self._otpd = self._connect(self.name)
        self._otpd.hears[Delivered] = self._delivered

    def end(self, reason: str) -> None:
        self._node.died(self.name, reason)

    def _delivered(self, message: Delivered) -> None:
        method, args = decode(message.body)
        (self.casts if message.call is None else self.calls).append((method, args))
        self._otpd.endpoint.handled(1, len(message.body))
        if message.call is not None:
            task = asyncio.ensure_future(self._answer(message.call, method, args))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, call: int, method: str, args: dict[str, Any]) -> None:
        try:
            status, value = Status.OK, await self._value(method, args)
        except Reject as error:
            status, value = Status.REJECTED, ["Reject", error.message, error.data]
        except Exception as error:
            status, value = Status.RAISED, raised.as_values(error)
        self._otpd.endpoint.reply(call, status, self._otpd.encoder.encode(value, f"the answer of {self.name}.{method}"))

    async def _value(self, method: str, args: dict[str, Any]) -> Any:
        if self._answers is None:
            raise NotImplementedError(f"no answers; write: agent.peer({self.name!r}, lambda method, args: ...)")
        value = self._answers(method, args)
        return await value if inspect.isawaitable(value) else value
