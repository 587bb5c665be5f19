"""The broker's side of the two lanes: one ROUTER socket each, with every option set that keeps a peer from doing harm.

What is set, and against what (the pitfalls of messaging.md 1.2): MANDATORY, so that nothing is dropped in silence (T1); no
HANDOVER, so that nobody takes over another one's routing id (T15); MAXMSGSIZE (T9); HANDSHAKE_IVL, so that a connection
that says nothing ends soon; a ZAP domain, which makes ZeroMQ refuse peers of ZMTP 1.0, who need no handshake and choose
their id (T14); umask 077 around bind (T5); LINGER 0 (T13). No high-water mark: credit bounds what is on its way, in bytes.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import zmq

from otpd.ipc import lowlevel
from otpd.ipc.lowlevel import NOBLOCK, SNDMORE
from otpd.ipc.router import Router
from otpd.ipc.wire import MAX_FRAME, Lane

#: What sun_path holds; ZeroMQ itself would say no more than "File name too long".
_PATH_LIMIT: Final = 107
#: Connections that wait to be accepted: all agents come at once when there is a new broker. The kernel cuts it to somaxconn.
_BACKLOG: Final = 4096
_HANDSHAKE_MS: Final = 2000
_OPTIONS: Final = (
    (zmq.ROUTER_MANDATORY, 1),
    (zmq.ROUTER_HANDOVER, 0),
    (zmq.MAXMSGSIZE, MAX_FRAME),
    (zmq.HANDSHAKE_IVL, _HANDSHAKE_MS),
    (zmq.LINGER, 0),
    (zmq.SNDTIMEO, 0),
    (zmq.SNDHWM, 0),
    (zmq.RCVHWM, 0),
    (zmq.BACKLOG, _BACKLOG),
)
_ZAP_DOMAIN: Final = b"otpd"


class AddressError(Exception):
    """The broker can't listen where it should; says what was expected."""


class Door:
    """One lane. `unsent` counts frames that ZeroMQ would not take: their receiver is not there, or no more (T11)."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], lane: Lane) -> None:
        self.lane = lane
        self.socket = context.socket(zmq.ROUTER)
        for option, value in _OPTIONS:
            self.socket.setsockopt(option, value)
        self.socket.setsockopt(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
        self.fd = int(self.socket.get(zmq.FD))
        self.unsent = 0
        self._swallowed = True  # the fd may say nothing though there is something
        self._stray = False

    def bind(self, endpoint: str) -> None:
        """AddressError when that is not possible. A second bind of a path would succeed and steal it (T4): hold the lock."""
        address = f"{endpoint}-{self.lane.value}"
        path = address.removeprefix("ipc://")
        if len(os.fsencode(path)) > _PATH_LIMIT:
            raise AddressError(
                f"expected a socket path of at most {_PATH_LIMIT} bytes, got {len(os.fsencode(path))}: {path}"
            )
        before = os.umask(0o077)
        try:
            self.socket.bind(address)
        except zmq.ZMQError as error:
            raise AddressError(f"can't listen on {path}: {error.strerror}") from error
        finally:
            os.umask(before)

    @property
    def more(self) -> bool:
        """Whether there is something of which the fd may not tell (see `sockets`)."""
        if self._swallowed:
            self._swallowed = lowlevel.readable(self.socket)
        return self._swallowed

    def receive(self, budget: int, router: Router, now: int) -> None:
        """Give the router what has come, at most `budget` parts: frames, with the pid of the sender for those that it does
        not know, and strays for messages of several parts, whose rest is skipped within the budget.

        After a sleep it is one part only: mostly there are no others, and what follows from that one leaves before anybody
        asks (`more`). ZeroMQ takes a message of each peer by turns, so that one that floods is only one of them.
        """
        sock, lane = self.socket, self.lane
        parts = budget if self._swallowed else 1
        self._swallowed = False
        recv, knows, take = lowlevel.recv, router.knows, router.frame
        try:
            for _ in range(parts):
                if self._stray:
                    self._stray = recv(sock, NOBLOCK, False).more
                    continue
                peer = recv(sock, NOBLOCK)
                part = recv(sock, NOBLOCK, False)  # a message is here as a whole or not at all
                if part.more:
                    self._stray = True
                    router.stray(peer, now)
                elif knows(peer):
                    take(peer, lane, part.bytes, now)
                else:
                    take(peer, lane, part.bytes, now, lowlevel.pid_of(part))
        except zmq.Again:
            return
        self._swallowed = True

    def send(self, peer: bytes, frame: bytes) -> None:
        """Give it to the peer, or count it. That a peer can't be reached never means that it is dead (T11)."""
        try:
            self._swallowed = True
            lowlevel.send(self.socket, peer, SNDMORE)
            lowlevel.send(self.socket, frame)
        except zmq.ZMQError as error:
            if not lowlevel.is_unreachable(error):
                raise
            self.unsent += 1


def remove_others(directory: str, own: str) -> None:
    """Socket files of brokers before: whoever holds the lock knows that they are dead."""
    for path in Path(directory).glob("b*.*-[sd]"):
        if path.name[:-2] != own and stat.S_ISSOCK(os.lstat(path).st_mode):
            path.unlink(missing_ok=True)
