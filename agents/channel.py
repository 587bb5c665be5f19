"""The channel to root: the job, the words of root, and what is asked of it (docs/protocol.md, 1)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final

from otpd.agents.current import inherited_deadline
from otpd.agents.errors import CallTimeout, ChildError, Refused
from otpd.ipc.frames import FrameError, close_all, pack, receive_packet, send_packet, unpack

_CONTROL_FD: Final = "OTPD_CONTROL_FD"
_JOB_FD: Final = "OTPD_JOB_FD"
_BEAT: Final = pack(["beat"])


@dataclass(frozen=True, slots=True)
class Job:
    """What root tells an agent about itself; what is not known here is passed over."""

    name: str
    generation: int
    life: int = 0
    args: dict[str, Any] = field(default_factory=dict)
    watchdog: float | None = None
    stop_signal: int = signal.SIGTERM
    identity: bytes = b""
    token: bytes = field(default=b"", repr=False)
    broker: list[Any] | None = None
    spawn: str = "allow"

    @property
    def inc(self) -> int:
        return self.life << 32 | self.generation


def inherited() -> tuple[socket.socket, Job]:
    """The channel and the job that this process was started with. LookupError when otpd has not started it."""
    try:
        channel_fd, job_fd = int(os.environ[_CONTROL_FD]), int(os.environ[_JOB_FD])
        with open(job_fd, "rb") as file:
            told = unpack(file.read())
        job = Job(**{each.name: told[each.name] for each in fields(Job) if each.name in told})
        for variable in (_CONTROL_FD, _JOB_FD):
            del os.environ[variable]  # numbers that mean something else in whatever this process starts
        os.set_inheritable(channel_fd, False)
        return socket.socket(fileno=channel_fd), job
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise LookupError("not started by otpd") from error


class Channel:
    """`hear` gets each packet that is no answer; None when root is gone."""

    def __init__(self, channel: socket.socket, hear: Callable[[list[Any] | None], None]) -> None:
        self._channel, self._hear = channel, hear
        self._pid = os.getpid()
        self._ref = 0
        self._asked: dict[int, asyncio.Future[Any]] = {}
        #: Of a service that is reached by others: who that is, a socket to it and its pidfd, both its own from then on.
        self.caller: Callable[[dict[str, Any], int, int], None] | None = None
        self.child_ended: Callable[[str, str], None] = _nothing  # name and reason, before `stop` of it is answered

    def listen(self) -> None:
        """On the running loop."""
        asyncio.get_running_loop().add_reader(self._channel.fileno(), self._read_one)

    def say(self, *packet: Any) -> None:
        """When root is gone this process is about to end anyway."""
        with contextlib.suppress(OSError):
            send_packet(self._channel, list(packet))

    def beat(self) -> None:
        """A root that stands still must not hold its agents up."""
        self._offer(_BEAT)

    def note(self, kind: str, name: str, data: dict[str, Any]) -> bool:
        """For the event log, of a service; False: not taken."""
        return self._offer(pack(["event", kind, name, data]))

    def counts(self, counts: dict[str, int]) -> None:
        """For the picture of the tree, of a service; a root that stands still is told the next time."""
        self._offer(pack(["counts", counts]))

    def _offer(self, packet: bytes) -> bool:
        try:
            self._channel.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    async def child(self, what: str, *arguments: Any) -> Any:
        """Ask root about children of this agent; as long as it takes, or as the call that is being handled has left."""
        self._ref += 1
        ref, deadline = self._ref, inherited_deadline()
        answer = self._asked[ref] = asyncio.get_running_loop().create_future()
        self._ask(["child", ref, what, *arguments])
        try:
            async with asyncio.timeout_at(deadline / 1e9 if deadline else None):
                ok, value = await answer
        except TimeoutError:
            raise CallTimeout(f"{what} child: root did not answer within the deadline; look: otpd tree", "maybe") from None
        finally:
            self._asked.pop(ref, None)
        if not ok:
            raise ChildError(str(value))
        return value

    async def reach(self, name: str) -> socket.socket:
        """A line to a pool or service of this node, which is started if it has to be. Refused says why there is none."""
        return socket.socket(fileno=await self._reached(name))

    async def summon(self, name: str) -> None:
        """As `reach`, without a line: when it returns, it is there."""
        await self._reached(name, False)

    async def _reached(self, name: str, *line: bool) -> Any:
        self._ref += 1
        ref, deadline = self._ref, inherited_deadline()
        answer = self._asked[ref] = asyncio.get_running_loop().create_future()
        self._ask(["reach", ref, name, *line])
        try:
            async with asyncio.timeout_at(deadline / 1e9 if deadline else None):
                ok, value = await answer
        except TimeoutError:
            raise CallTimeout(f"reach {name}: root did not answer within the deadline; look: otpd tree", "no") from None
        finally:
            self._asked.pop(ref, None)
        if not ok:
            raise Refused(f"reach {name}: {value}")
        return value

    def _ask(self, packet: list[Any]) -> None:
        if os.getpid() != self._pid:
            raise ChildError("this process was forked from the agent and has no children there; ask in the agent itself")
        try:
            send_packet(self._channel, packet)
        except (TypeError, ValueError, OverflowError) as error:
            raise ChildError(f"expected a table as in otpd.toml with a name, got {packet[3:]!r}: {error}") from None
        except OSError as error:
            raise ChildError(f"root could not be asked: {error.strerror}; is the table larger than 200 kB?") from None

    def read(self) -> None:
        """All that has come."""
        while select.select([self._channel], [], [], 0)[0]:
            self._read_one()

    def _read_one(self) -> None:
        try:
            found = receive_packet(self._channel)
        except FrameError:
            return
        except OSError:
            found = None
        packet, fds = (None, []) if found is None else found
        match packet:
            case ["reach", int(ref), bool(ok), value]:
                answer = self._asked.get(ref)
                if answer is not None and not answer.done():
                    answer.set_result((ok, fds.pop() if fds else value))
            case ["caller", dict(who)] if self.caller is not None and len(fds) == 2:
                self.caller(who, fds.pop(0), fds.pop(0))
            case ["ended", str(name), str(reason)]:
                self.child_ended(name, reason)
            case ["child", int(ref), bool(ok), value]:
                answer = self._asked.get(ref)
                if answer is not None and not answer.done():
                    answer.set_result((ok, value))
            case None | [str(), *_]:
                self._hear(packet)
        close_all(fds)


def _nothing(*_: Any) -> None:
    pass
