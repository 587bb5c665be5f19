"""The broker's end of its channel to root: packets in, packets out, never a wait.

What root can't take at the moment is kept in order up to a bound; what is over that is dropped and counted, because root's
event log is not worth a broker's memory. Only the end of an incarnation (`terminate`) is never dropped.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Any, Final

from otpd.ipc.frames import FrameError, receive_packet, send_packet

#: Packets that may wait for root.
_BOUND: Final = 10_000
#: Packets that are read in one go: frames must not wait for a long snapshot.
_BUDGET: Final = 256
_BEAT: Final = ["beat"]


class RootGone(Exception):
    """The channel has ended, and with it the reason to run."""


class RootLink:
    """`dropped` counts packets that root never got."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self._waiting: deque[list[Any]] = deque()
        self.dropped = 0

    def fileno(self) -> int:
        return self._channel.fileno()

    @property
    def blocked(self) -> bool:
        """Whether there is something to send when root has room again."""
        return bool(self._waiting)

    def receive(self) -> list[Any]:
        """What root has said, at most 256 packets. RootGone at the end; what is no packet is ignored."""
        packets: list[Any] = []
        while len(packets) < _BUDGET:
            try:
                received = receive_packet(self._channel)
            except BlockingIOError:
                break
            except FrameError:
                continue
            except OSError as error:
                raise RootGone from error
            if received is None:
                raise RootGone
            packets.append(received[0])
        return packets

    def send(self, packet: list[Any]) -> None:
        if not self._waiting and self._try(packet):
            return
        if len(self._waiting) < _BOUND or packet[0] == "terminate":
            self._waiting.append(packet)
        else:
            self.dropped += 1

    def beat(self) -> None:
        """Nothing is lost when root does not hear one because it reads nothing."""
        if not self._waiting:
            self._try(_BEAT)

    def flush(self) -> None:
        """Root has room: what waits, in order."""
        while self._waiting and self._try(self._waiting[0]):
            self._waiting.popleft()

    def _try(self, packet: list[Any]) -> bool:
        try:
            send_packet(self._channel, packet)
        except BlockingIOError:
            return False
        except OSError as error:
            raise RootGone from error
        return True
