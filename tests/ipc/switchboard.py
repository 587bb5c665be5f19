"""A router with root and agents around it, for tests: a clock that the test moves, agents that say what the test says.

>>> board = Switchboard(); a, b = board.agents("a", "b")
>>> a.cast("b", b"hello"); b.casts()
[('a', b'hello')]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from otpd.ipc.router import Router, Send, Tell
from otpd.ipc.wire import Flag, Kind, Lane, commands, join, keyed, messages, parse, split_key, system

MS = 1_000_000
SECOND = 1000 * MS
LIFE = 3
EPOCH = "b3.1"
#: Of the SDK: messages, bytes.
WINDOW = (256, 256 * 1024)


def inc_of(generation: int) -> int:
    return LIFE << 32 | generation


@dataclass(frozen=True)
class Message:
    """One that came on the data lane. `call`: its number; None: a cast."""

    source: str
    call: int | None
    deadline: int
    body: bytes


class Switchboard:
    def __init__(self, snapshot: bool = True) -> None:
        self.router, self.now = Router(EPOCH), 1000 * SECOND
        self.told: list[list[Any]] = []  # to root
        self.strangers: dict[bytes, list[list[Any]]] = {}  # what was said to who is no agent of ours
        self._agents: dict[bytes, Agent] = {}
        self._pid = 100
        if snapshot:
            self.snapshot()

    # --- time ---

    def wait(self, duration: int) -> None:
        """Let time pass, tick by tick."""
        end = self.now + duration
        while (due := self.router.tick(self.now)) is not None and due <= end:
            self.now = max(due, self.now)
        self.now = end
        self.router.tick(self.now)
        self.flush()

    def flush(self) -> None:
        for effect in self.router.flush():
            if isinstance(effect, Tell):
                self.told.append(effect.packet)
            elif effect.peer in self._agents:
                self._agents[effect.peer].take(effect)
            else:
                self.strangers.setdefault(effect.peer, []).extend(commands(effect.frame))

    # --- root ---

    def root(self, *packet: Any) -> None:
        self.router.root(list(packet), self.now)
        self.flush()

    def snapshot(self, *packets: list[Any]) -> None:
        for packet in (["snapshot", EPOCH], *packets, ["snapshot_end"]):
            self.router.root(packet, self.now)
        self.flush()

    def row(self, agent: Agent, state: str = "ready", **more: Any) -> None:
        self.root(*row_of(agent, state, **more))

    def name(self, name: str, state: str, generation: int = 0, **more: Any) -> None:
        """A row of a name without a process."""
        self.root("row", {"name": name, "kind": "agent", "inc": inc_of(generation), "state": state, **more})

    def death(self, agent: Agent, reason: str = "killed") -> None:
        self.root("death", agent.name, agent.inc, reason)

    def terminated(self) -> list[list[Any]]:
        return [packet[1:] for packet in self.told if packet[0] == "terminate"]

    def events(self, kind: str) -> list[list[Any]]:
        return [packet[2:] for packet in self.told if packet[:2] == ["event", kind]]

    # --- agents ---

    def born(self, name: str, generation: int = 1) -> Agent:
        """A process that nobody has heard of yet."""
        self._pid += 1
        agent = Agent(self, name, inc_of(generation), self._pid)
        self._agents[agent.identity] = agent
        return agent

    def agent(
        self, name: str, generation: int = 1, state: str = "ready", window: tuple[int, int] = WINDOW, **row: Any
    ) -> Agent:
        """One that is announced and connected, with the credit of the SDK unless another is given."""
        agent = self.born(name, generation)
        self.row(agent, state, **row)
        agent.hello()
        agent.window = window
        if window[0]:
            agent.credit()
        return agent

    def agents(self, *names: str) -> tuple[Agent, ...]:
        return tuple(self.agent(name) for name in names)

    def reborn(self, agent: Agent, reason: str = "killed") -> Agent:
        """Its death is told, and its next incarnation is ready and connected."""
        self.death(agent, reason)
        return self.agent(agent.name, (agent.inc & 0xFFFF_FFFF) + 1)


def row_of(agent: Agent, state: str = "ready", **more: Any) -> list[Any]:
    row = {"name": agent.name, "kind": "agent", "inc": agent.inc, "pid": agent.pid, "state": state}
    return ["row", row | {"identity": agent.identity, "token": agent.token} | more]


class Agent:
    """One incarnation. It handles nothing by itself: `credit` says what it has handled."""

    def __init__(self, board: Switchboard, name: str, inc: int, pid: int) -> None:
        self._board, self.name, self.inc, self.pid = board, name, inc, pid
        self.identity = f"{name}:{inc & 0xFFFF}".encode().ljust(16, b".")
        self.token = b"token of " + self.identity
        self.said: list[list[Any]] = []  # commands, of both lanes
        self.received: list[Message] = []
        self.replies: list[tuple[int, int, bytes]] = []  # (request, status, body)
        self.published: list[tuple[str, str, bytes]] = []  # (source, topic, body)
        self.order: list[Any] = []  # of all that came, commands and messages
        self.frames: list[Send] = []
        self.granted, self.window = (0, 0), WINDOW
        self._sources: dict[int, str] = {0: "broker"}
        self._handles: dict[tuple[str, str, str], int] = {}
        self._number = 0
        self._handled = [0, 0]

    # --- from the broker ---

    def take(self, effect: Send) -> None:
        self.frames.append(effect)
        head = parse(effect.frame)
        if head.kind is Kind.SYSTEM:
            for command in commands(effect.frame):
                self._hear(command)
            return
        for number, mark, body in messages(effect.frame):
            self._receive(head.kind, self._sources[head.peer], number, mark, body)

    def _hear(self, command: list[Any]) -> None:
        if command[0] == "name":
            self._sources[command[1]] = command[2]
            return
        if command[0] == "credit":
            self.granted = (command[1], command[2])
        elif command[0] == "welcome":
            self.granted = tuple(command[1]["credit"])
        self.said.append(command)
        self.order.append(command)

    def _receive(self, kind: Kind, source: str, number: int, mark: int, body: bytes | memoryview) -> None:
        if kind is Kind.REPLY:
            self.replies.append((number, mark, bytes(body)))
            return
        self._handled[0] += 1
        self._handled[1] += 16 + len(body)
        if kind is Kind.EVENT:
            topic, data = split_key(body)
            self.published.append((source, topic, bytes(data)))
            self.order.append(self.published[-1])
        else:
            message = Message(source, number if kind is Kind.CALL else None, mark, bytes(body))
            self.received.append(message)
            self.order.append(message)

    # --- what came ---

    def heard(self, *verbs: str) -> list[list[Any]]:
        """The commands with these verbs."""
        return [command for command in self.said if command[0] in verbs]

    def casts(self) -> list[tuple[str, bytes]]:
        return [(message.source, message.body) for message in self.received if message.call is None]

    def calls(self) -> list[tuple[int, bytes]]:
        return [(message.call, message.body) for message in self.received if message.call is not None]

    @property
    def stale(self) -> bool:
        return bool(self.heard("stale"))

    # --- to the broker ---

    def send(self, lane: Lane, frame: bytes) -> None:
        self._board.router.frame(self.identity, lane, frame, self._board.now, self.pid)
        self._board.flush()

    def say(self, *command: Any) -> None:
        self.send(Lane.SYSTEM, system(list(command)))

    def say_data(self, *command: Any) -> None:
        self.send(Lane.DATA, system(list(command)))

    def hello(self, *lanes: Lane, **more: Any) -> None:
        for lane in lanes or (Lane.SYSTEM, Lane.DATA):
            hello = {"v": 1, "name": self.name, "inc": self.inc, "token": self.token, "lane": lane.value}
            self.send(lane, system(["hello", hello | (more if lane is Lane.SYSTEM else {})]))

    def credit(self) -> None:
        """All that was received is handled."""
        self.say("credit", self._handled[0] + self.window[0], self._handled[1] + self.window[1])

    def handle(self, name: str, kind: str = "name", policy: str = "") -> int:
        """Bound, at its first use."""
        address = (kind, name, policy)
        if address not in self._handles:
            self._handles[address] = len(self._handles) + 1
            self.say_data("bind", self._handles[address], kind, name, policy)
        return self._handles[address]

    @property
    def next_number(self) -> int:
        return self._number + 1

    def number(self) -> int:
        self._number += 1
        return self._number

    def cast(
        self, to: str, *bodies: bytes, kind: str = "name", policy: str = "", key: str = "", confirm: bool = False
    ) -> None:
        """One frame."""
        flags = (Flag.KEYED if key else 0) | (Flag.CONFIRM if confirm else 0)
        handle = self.handle(to, kind, policy)
        batch = [(self.number(), 0, keyed(key, body) if key else body) for body in bodies]
        self.send(Lane.DATA, join(Kind.CAST, handle, batch, flags))

    def call(
        self, to: str, body: bytes = b"?", timeout: int = 5 * SECOND, kind: str = "name", policy: str = "", key: str = ""
    ) -> int:
        """The request id. `timeout` 0: none."""
        request, handle = self.number(), self.handle(to, kind, policy)
        deadline = self._board.now + timeout if timeout else 0
        message = (request, deadline, keyed(key, body) if key else body)
        self.send(Lane.DATA, join(Kind.CALL, handle, [message], Flag.KEYED if key else 0))
        return request

    def reply(self, body: bytes = b"!", status: int = 0, call: int | None = None) -> None:
        """To the last call."""
        number = self.calls()[-1][0] if call is None else call
        lane = Lane.SYSTEM if len(body) <= 65536 else Lane.DATA
        self.send(lane, join(Kind.REPLY, 0, [(number, status, body)]))

    def publish(self, topic: str, *bodies: bytes) -> None:
        self.send(Lane.DATA, join(Kind.EVENT, 0, [(self.number(), 0, keyed(topic, body)) for body in bodies], Flag.KEYED))

    def failed(self) -> list[tuple[int, str, str]]:
        """(request, code, executed) of each call that failed."""
        return [(command[1], command[2], command[3]) for command in self.heard("failed")]

    def ask(self, what: str, *values: Any) -> Any:
        """The answer, or (code,) of a refusal, or None while there is none."""
        ref = self.number()
        self.say("ask", ref, what, *values)
        return self.answer(ref)

    def answer(self, ref: int) -> Any:
        answers: Iterable[list[Any]] = self.heard("answer", "refused")
        return next((each[2] if each[0] == "answer" else (each[2],) for each in answers if each[1] == ref), None)
