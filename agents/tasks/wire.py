"""A line between an owner, a pool and its workers: messages out in batches, messages in, with descriptors.

Each packet of the SEQPACKET socket is a msgpack array of messages, which are arrays. The last item of a message says how
many of the packet's descriptors are its own, in order.

>>> import socket
>>> one, two = (Wire(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
>>> one.put(["run", 1]), one.put(["stop", 1]), one.flush()
(None, None, True)
>>> two.take()
[(['run', 1], []), (['stop', 1], [])]
>>> one.close(); two.take() is None
True
>>> two.close()
"""

from __future__ import annotations

import array
import errno
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from otpd.ipc.frames import close_all

#: Bytes and descriptors of one packet, unless one message alone is longer: below the default SO_SNDBUF of 212,992 bytes,
#: and below what `take` has room for.
_BATCH, _MAX_FDS = 120_000, 12
_ROOM: Final = 220_000
_SPACE: Final = socket.CMSG_SPACE(2 * _MAX_FDS * array.array("i").itemsize)
#: What a send fails with when too much is under way, and when the other end is gone.
_NO_ROOM: Final = frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
_GONE: Final = frozenset({errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED, errno.ENOTCONN, errno.EBADF})
#: Seconds until the next attempt when it is the kernel that has no room: no descriptor is ready when it has some again.
PAUSE: Final = 0.05
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Wire:
    """`put` and `flush`, `take`; none of them waits. Descriptors that are put belong to the wire from then on.

    `pause`: what to wait for after a `flush` that has not sent all. None: until the socket is writable. Else so many
    seconds: the kernel has no room for more of anybody, and a socket that is writable says nothing of that.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.pause: float | None = None
        self._pack = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape").pack
        self._out: deque[tuple[bytes, Sequence[int]]] = deque()

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def pending(self) -> bool:
        return bool(self._out)

    def put(self, message: list[Any], fds: Sequence[int] = ()) -> None:
        message.append(len(fds))
        self._out.append((self._pack(message), fds))

    def flush(self) -> bool:
        """True when all is sent, or never will be (who is gone is noticed by reading)."""
        out, self.pause = self._out, None
        while out:
            parts: list[bytes] = []
            fds, size = array.array("i"), 0
            for body, own in out:
                if parts and (size + len(body) > _BATCH or len(fds) + len(own) > _MAX_FDS):
                    break
                parts.append(body)
                size += len(body)
                fds.extend(own)
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
            try:  # as one piece: the kernel takes no more than 1024 of them (IOV_MAX)
                self.socket.sendmsg([b"".join((_head(len(parts)), *parts))], ancillary, _FLAGS)
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _NO_ROOM:
                    self.pause = PAUSE
                    return False
                if error.errno not in _GONE:
                    raise
            for _ in parts:
                out.popleft()
            close_all(fds)
        return True

    def take(self) -> list[tuple[list[Any], list[int]]] | None:
        """What one packet brought, [] when there is none now; None when the other end is gone, or wrong."""
        try:
            data, ancillary, flags, _address = self.socket.recvmsg(_ROOM, _SPACE, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        except ConnectionResetError:  # it ended with something unread: said once, and before what it has said itself
            return self.take()
        except OSError:
            return None
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        if flags & socket.MSG_CTRUNC:  # this process has no descriptor free: whose is missing can't be told
            close_all(fds)
            return None
        return _messages(data, list(fds)) if data else None

    def close(self) -> None:
        for _body, fds in self._out:
            close_all(fds)
        self._out.clear()
        self.socket.close()


def _head(n: int) -> bytes:
    """Of a msgpack array of n items."""
    return bytes((0x90 | n,)) if n < 16 else b"\xdc" + n.to_bytes(2, "big")


def _messages(data: bytes, fds: list[int]) -> list[tuple[list[Any], list[int]]] | None:
    found: list[tuple[list[Any], list[int]]] = []
    try:
        for message in msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors="surrogateescape"):
            if not fds and message[-1] == 0:
                message.pop()
                found.append((message, []))
                continue
            n = message.pop()
            found.append((message, fds[:n]))
            del fds[:n]
    except (ValueError, TypeError, AttributeError, IndexError, msgpack.UnpackException):
        close_all([*fds, *(fd for _, own in found for fd in own)])
        return None
    close_all(fds)
    return found
