"""The worker's end of the channel to its pool: what is said never blocks a run, what is heard can end it."""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final, NoReturn

from otpd.ipc.frames import close_all, pack, receive_packet, send_packet, unpack

_INLINE: Final = 64 * 1024  # of a result's output; more goes before it, in pieces
_PIECE: Final = 128 * 1024
_OUTBOX: Final = 256 * 1024  # unsent output from which on the command's pipes are not read


class Line:
    """`leave` ends this process and all it runs: it is called when the pool is gone or says so."""

    def __init__(self, channel: socket.socket, leave: Callable[[int], NoReturn]) -> None:
        self._channel = channel
        self._leave = leave
        self._outbox: deque[bytes] = deque()
        self._waiting = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    def receive(self, busy: Callable[[], int], work: Callable[[], None]) -> tuple[list[Any], list[int]]:
        """The next order, and its descriptors, which the caller closes. Waits, and does `work` when `busy` is readable."""
        while True:
            while not _readable_first(self._channel.fileno(), busy()):
                work()
            packet = receive_packet(self._channel)
            if packet is None:
                self._leave(0)
            match packet:
                case ["stop"], _:
                    self._leave(0)
                case [str(), *_] as message, fds:
                    return message, fds
            close_all(packet[1])

    def hear(self, run: int) -> str | None:
        """While `run` runs, and something is there: why the pool wants it to end, if it does."""
        try:
            self._channel.setblocking(False)
            packet = receive_packet(self._channel)
        except BlockingIOError:
            return None
        finally:
            self._channel.setblocking(True)
        if packet is None:
            self._leave(0)
        close_all(packet[1])
        match packet[0]:
            case ["cancel", number, reason] if number == run:
                return str(reason)
            case ["stop"]:
                self._leave(0)
        return None

    def say(self, *message: Any) -> None:
        """Now if the channel takes it, else when `flush` is called."""
        packet = pack(list(message))
        self._outbox.append(packet)
        self._waiting += len(packet)
        self.flush()

    def say_first(self, *message: Any) -> None:
        """As `say`, before anything happens that the pool must not repeat. Waits while it is slow: nothing runs now."""
        self.say(*message)
        self._empty()

    @property
    def full(self) -> bool:
        """So much is waiting to be sent that no more should be read."""
        return self._waiting > _OUTBOX

    def flush(self) -> None:
        while self._outbox:
            try:
                self._channel.send(self._outbox[0], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                self._leave(0)
            self._waiting -= len(self._outbox.popleft())

    def _empty(self) -> None:
        while self._outbox:
            select.select([], [self._channel], [])
            self.flush()

    def send_result(self, run: int, result: dict[str, Any]) -> None:
        """Waits while the pool is slow: nothing runs now."""
        self._empty()
        try:
            for stream in ("stdout", "stderr"):
                content = result.get(stream, b"")
                if len(content) > _INLINE:
                    for place in range(0, len(content), _PIECE):
                        send_packet(self._channel, ["piece", run, stream, content[place : place + _PIECE]])
                    result[stream] = b""
            send_packet(self._channel, ["result", run, result])
        except OSError:
            self._leave(0)


def _readable_first(channel: int, other: int) -> bool:
    """Wait for either; whether it was `channel`. Without another there is nothing to wait for here."""
    if other < 0:
        return True
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    poll.register(other, select.POLLIN)
    return any(fd == channel for fd, _ in poll.poll())


def order_of(fd: int) -> Any:
    """An order that was too large for a packet. Closes `fd`."""
    with open(fd, "rb") as file:
        return unpack(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
