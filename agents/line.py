"""The sockets to the broker, and the moment at which they are served: right before the loop would block.

`conversation` decides what is said; this moves frames. One place does it all, `turn`: send what is to be sent, take what
has come. It is called by the selector of the loop, before it blocks and when a socket has something. So messages leave when
there is nothing else to do (or, by `flush`, when a batch is full), and never by a delay.

A new epoch gets fresh sockets: nothing is sent again on old ones. Nothing here blocks, but `close` for its linger. ZeroMQ
is imported with the first broker.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Final

from otpd.agents import raised
from otpd.agents.conversation import Conversation
from otpd.agents.watching import Watching

if TYPE_CHECKING:
    from otpd.ipc.sockets import Lanes
    from otpd.ipc.wire import Lane

#: Frames that are taken at a time, so that timers and heartbeat live under any flood.
BUDGET: Final = 64
#: Seconds that libzmq gets to end, with the 200 ms in which what was said last may leave (T35).
_END: Final = 0.7
#: Seconds in which the broker may still take what has waited for it, at an end in order (T13).
_DRAIN: Final = 0.2
_LOOK: Final = 0.005
#: Seconds until sockets that could not be opened are tried again: the first time, and at most.
_RETRY: Final = 0.2
_RETRY_MAX: Final = 5.0


class Line:
    """`identity`: the routing id of this incarnation. Once open it follows the brokers that it is told of."""

    def __init__(self, conversation: Conversation, identity: bytes, selector: Watching) -> None:
        self._conversation, self._identity, self._selector = conversation, identity, selector
        self._broker: tuple[str, str] | None = None
        self._lanes: Lanes | None = None
        self._is_open = self._is_closed = False
        self._again: asyncio.TimerHandle | None = None

    # --- brokers ---

    def broker(self, epoch: str | None, endpoint: str | None) -> None:
        """There is another broker, or (None) none."""
        broker = (epoch, endpoint) if epoch and endpoint else None
        if broker == self._broker:
            return
        self._broker = broker
        if self._is_open:
            self._connect()

    def open(self) -> None:
        """Costs a thread and some 100 us, so not before the agent's own code has begun."""
        if not self._is_open and not self._is_closed:
            self._is_open = True
            self._conversation.flush = self.flush
            self._selector.turn = self.turn
            self._connect()

    def _connect(self) -> None:
        """What the old sockets still hold is heard first."""
        while self._take():
            pass
        self._drop(drain=False)
        self._conversation.endpoint.lost(self._conversation.clock())
        self._give_up()
        if self._broker is not None:
            self._reach(*self._broker, _RETRY)
        self._conversation.work_off()

    def _reach(self, epoch: str, endpoint: str, pause: float) -> None:
        """Tried again until there is another broker: what is missing (descriptors, mostly) may come back."""
        try:
            from otpd.ipc.sockets import Lanes

            lanes = Lanes(endpoint, self._identity)
        except Exception as error:
            if pause == _RETRY:
                text = "no sockets to the broker: %s; tried again by itself, are too many files open (ulimit -n)?"
                self._conversation.complain("brokers not reached", text, raised.one_line(error))
            longer = min(2 * pause, _RETRY_MAX)
            self._again = self._conversation.loop.call_later(pause, self._reach, epoch, endpoint, longer)
            return
        self._lanes = lanes
        self._selector.watch(lanes.fds)
        self._conversation.endpoint.connected(epoch, self._conversation.clock())

    def _give_up(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _drop(self, drain: bool) -> None:
        """libzmq is not trusted to return from the end of its context: what it does not do in time ends with the process."""
        lanes, self._lanes = self._lanes, None
        if lanes is not None:
            self._selector.forget(lanes.fds)
            ending = threading.Thread(target=lanes.close, args=(drain,), name="otpd line", daemon=True)
            ending.start()
            ending.join(_END if drain else 0)

    # --- frames ---

    def turn(self, readable: list[int]) -> bool:
        """Send and take. True when the loop should look for callbacks, and then come here again, before it blocks: what was
        taken may be credit for what waits to be sent."""
        lanes, conversation = self._lanes, self._conversation
        if lanes is None:
            return False
        if readable:  # nothing was said since the turn before the sleep
            self._hear(lanes.awake(readable))
            took = True
        else:
            self.flush()
            took = lanes.more and self._take()
        if not conversation.endpoint.happened:
            return conversation.make_room() or took
        conversation.work_off()
        return True

    def flush(self) -> None:
        """Send what may be sent now."""
        if self._lanes is not None:
            frames = self._conversation.endpoint.outgoing()
            if frames:
                self._lanes.send(frames)

    def _take(self) -> bool:
        """Whether there was anything, and so may be more."""
        lanes = self._lanes
        if lanes is None:
            return False
        frames = lanes.receive(BUDGET)
        self._hear(frames)
        return bool(frames)

    def _hear(self, frames: list[tuple[Lane, bytes]]) -> None:
        received, now = self._conversation.endpoint.received, self._conversation.clock()
        for lane, frame in frames:
            received(lane, frame, now)

    # --- the end ---

    async def drain(self) -> None:
        """At an end in order: until the broker has taken what waits for it, or its time is over. Not without a broker."""
        self.flush()
        end = self._conversation.clock() + _DRAIN * 1e9
        while self._lanes is not None and self._conversation.endpoint.unsent and self._conversation.clock() < end:
            await asyncio.sleep(_LOOK)

    def close(self, bye: bool = False, process_ends: bool = False) -> None:
        """What was said last gets a moment to leave; returns also if libzmq should not (T35). `bye`: it leaves in order.
        Sockets that have nothing to send may be left to the end of the process."""
        endpoint = self._conversation.endpoint
        self.flush()
        lost = endpoint.give_up()
        if lost:
            text = "%d messages were not taken by the broker before the end, and are lost"
            self._conversation.complain("messages lost at the end", text, lost)
        if bye:
            endpoint.bye()
            self.flush()
        self._give_up()
        self._is_open, self._is_closed = False, True
        self._selector.turn = None
        self._conversation.flush = _nothing
        if process_ends and self._lanes is not None and self._lanes.is_drained:
            self._selector.forget(self._lanes.fds)
            self._lanes.leave()
        else:
            self._drop(drain=True)


def _nothing(*_: Any) -> None:
    pass
