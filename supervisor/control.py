"""The control socket's server: accepts, authenticates, cuts requests out of bytes, writes answers. Knows no operation.

It can't be made to block, to grow without bound or to take root down (T45-T48): uid checked by SO_PEERCRED, requests of
at most 1 MiB that must be complete 10 s after the connection was made, at most 512 connections (the oldest one that asks
nothing makes room), one request of a connection at a time and none before its last answer was read, answers of a slow
reader bounded, EMFILE pauses accepting for a second. Requests together have a share of each turn; the rest of the loop
goes on between them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otpd.ipc.frames import ANSWER_LIMIT, REQUEST_LIMIT, FrameError, FrameReader, pack_frame
from otpd.supervisor import linux
from otpd.supervisor.loop import READ, WRITE, Loop, Timer

MAX_CONNECTIONS = 512
REQUEST_DEADLINE = 10.0
#: Bytes that a follower (`events -f`) may lag behind before it is cut off.
FOLLOWER_LIMIT = 4 * 1024 * 1024
_CREDENTIALS = struct.Struct("3i")
_CHUNK = 1 << 16
_LINGER = 1.0
#: Seconds of processor time in a turn of the loop after which no other request is begun in it: a root that had to wait for
#: a core goes on in the order in which all came.
SHARE = 0.02

#: Gets the connection and a request with a str under "op"; answers now or later through the connection.
Dispatch = Callable[["Connection", dict[str, Any]], None]


class OperationError(Exception):
    """An answer that is an error: exit code, what happened, what to do next."""

    def __init__(self, code: int, error: str, hint: str = "") -> None:
        super().__init__(error)
        self.code, self.error, self.hint = code, error, hint


class Connection:
    """One client. One request at a time; any number of answers to it."""

    def __init__(self, server: ControlServer, sock: socket.socket, pid: int) -> None:
        self._server, self._socket = server, sock
        self.pid = pid  # of the client, as the kernel tells it
        self._reader = FrameReader(REQUEST_LIMIT)
        self._out = bytearray()
        self._deadline: Timer | None = server.loop.after(REQUEST_DEADLINE, self.close)
        self._closing = False
        self.busy = False
        self.on_close: Callable[[], None] | None = None
        server.loop.add(sock.fileno(), READ, self._ready)

    @property
    def open(self) -> bool:
        return self._socket.fileno() >= 0

    def answer(self, result: Any) -> None:
        """The only answer to this request."""
        self._finish({"ok": True, "result": result})

    def fail(self, error: OperationError) -> None:
        self._finish({"ok": False, "code": error.code, "error": error.error, "hint": error.hint, "done": True})

    def hand(self, fd: int) -> None:
        """The only answer to this request, with a descriptor. It needs a reader that keeps up."""
        frame = pack_frame({"ok": True, "result": None})
        try:
            if self._out or not self.open:
                raise BlockingIOError
            socket.send_fds(self._socket, [frame], [fd], socket.MSG_NOSIGNAL)
            self.busy = False
        except OSError:
            self.close()

    def part(self, value: dict[str, Any]) -> None:
        """One of many answers; a reader that lags too far behind is cut off."""
        self._send(value)
        if len(self._out) > FOLLOWER_LIMIT:
            self.close()

    def parts(self, values: list[dict[str, Any]]) -> None:
        """As many of the last of them as leave half of a reader's room free."""
        frames: deque[bytes] = deque()
        size = 0
        for frame in map(pack_frame, reversed(values)):
            size += len(frame)
            if size > FOLLOWER_LIMIT // 2:
                break
            frames.appendleft(frame)
        if self.open:
            self._out += b"".join(frames)
            self._flush()

    def end(self, value: dict[str, Any]) -> None:
        """The last of many answers."""
        self._finish({**value, "done": True})

    def close(self) -> None:
        if not self.open:
            return
        self._cancel_deadline()
        self._server.forget(self)
        self._server.loop.remove(self._socket.fileno())
        self._socket.close()
        if self.on_close is not None:
            self.on_close()

    def refuse(self, error: OperationError) -> None:
        """Answer once, then close. What the client still sends is read and thrown away for a second: closing with unread
        bytes would reset the connection and take the answer with it."""
        self._closing = True
        self._cancel_deadline()
        self._server.loop.after(_LINGER, self.close)
        self.fail(error)

    def _ready(self, mask: int) -> None:
        if mask & WRITE:
            self._flush()
        if self.open and mask & ~WRITE:
            self._read()

    def _read(self) -> None:
        try:
            chunk = self._socket.recv(_CHUNK)
            values = [] if self._closing else self._reader.feed(chunk)
        except BlockingIOError:
            return
        except FrameError as error:
            self.refuse(OperationError(2, f"not a request: {error}", "speak the protocol of otpd.ipc.control"))
            return
        except OSError:
            chunk, values = b"", []
        if not chunk:
            self.close()
        if values:
            self._request(values[0])
        if len(values) > 1 and self.open and not self._closing:
            self._refuse_second()

    def _request(self, value: Any) -> None:
        if not self.open or self._closing:
            return
        if not isinstance(value, dict) or not isinstance(value.get("op"), str):
            self.refuse(OperationError(2, f"expected a map with the text 'op', got {type(value).__name__}"))
        elif self.busy or self._out:
            self._refuse_second()
        else:
            self.busy = True
            self._cancel_deadline()
            self._server.serve(self, value)

    def _refuse_second(self) -> None:
        self.refuse(OperationError(2, "expected one request at a time, got a second before the first was answered"))

    def _finish(self, value: dict[str, Any]) -> None:
        self.busy = False
        self._send(value)

    def _send(self, value: dict[str, Any]) -> None:
        if not self.open:
            return
        frame = pack_frame(value)
        if len(frame) > ANSWER_LIMIT:
            frame = pack_frame({"ok": False, "code": 70, "error": "the answer is too long", "hint": "", "done": True})
        self._out += frame
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[: self._socket.send(self._out[: 1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if not self._out and self._closing:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        self._server.loop.modify(self._socket.fileno(), READ | WRITE if self._out else READ)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class ControlServer:
    """Listens on `path` (0600, in a 0700 directory that the caller made)."""

    def __init__(self, loop: Loop, path: Path, dispatch: Dispatch) -> None:
        self.loop, self._path, self._dispatch = loop, path, dispatch
        self._connections: dict[Connection, None] = {}
        self._listener: socket.socket | None = None
        self._waiting: deque[tuple[Connection, dict[str, Any]]] = deque()  # requests, for the next turn
        self._turn, self._spent = 0.0, 0.0  # in that turn of the loop: seconds for requests

    def listen(self) -> None:
        """Replaces a stale socket file; the caller holds the node's lock, so nobody listens there."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(self._path))
        finally:
            os.umask(before)
        listener.listen(512)
        self._listener = listener
        self.loop.add(listener.fileno(), READ, lambda _mask: self._accept())

    def present(self) -> bool:
        """Is the socket still in its place? (A cleaner of /tmp or /run may have removed it.)"""
        return self._listener is not None and os.path.exists(self._path)

    def relisten(self) -> None:
        """Make the socket again after somebody removed it; open connections go on."""
        self._close_listener()
        self.listen()

    def close(self) -> None:
        self._close_listener()
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    @property
    def unwritten(self) -> bool:
        """Answers that are not yet in the kernel."""
        return any(connection._out for connection in self._connections)

    def forget(self, connection: Connection) -> None:
        self._connections.pop(connection, None)

    def serve(self, connection: Connection, request: dict[str, Any]) -> None:
        """Now, or in its turn after those that wait."""
        if self._turn != self.loop.now:
            self._turn, self._spent = self.loop.now, 0.0
        if not self._waiting and self._spent < SHARE:
            self._serve(connection, request)
            return
        self._waiting.append((connection, request))
        if len(self._waiting) == 1:
            self.loop.after(0.0, self._work_off)

    def _work_off(self) -> None:
        self._turn, self._spent = self.loop.now, 0.0
        while self._waiting and self._spent < SHARE:
            connection, request = self._waiting.popleft()
            if connection.open:
                self._serve(connection, request)
        if self._waiting:
            self.loop.after(0.0, self._work_off)

    def _serve(self, connection: Connection, request: dict[str, Any]) -> None:
        """A request's mistake is the request's, never root's."""
        began = time.thread_time()
        try:
            self._dispatch(connection, request)
        except OperationError as error:
            connection.fail(error)
        except Exception as error:
            linux.complain(traceback.format_exc())
            connection.fail(OperationError(70, f"'{request['op']}' failed: {type(error).__name__}: {error}"))
        finally:
            self._spent += time.thread_time() - began

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(64):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._pause()
                return
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if len(self._connections) >= MAX_CONNECTIONS:
            idle = next((c for c in self._connections if not c.busy), None)
            if idle is None:
                _turn_away(sock)
                return
            idle.close()
        connection = Connection(self, sock, pid)
        self._connections[connection] = None
        if uid not in (0, os.getuid()):
            connection.refuse(
                OperationError(5, f"this node belongs to uid {os.getuid()}, you are uid {uid}", "use sudo -u")
            )

    def _pause(self) -> None:
        """Out of descriptors: leave the backlog alone for a second instead of spinning on it (test 35)."""
        assert self._listener is not None
        listener = self._listener
        self.loop.remove(listener.fileno())
        self.loop.after(1.0, lambda: self._resume(listener))

    def _resume(self, listener: socket.socket) -> None:
        if self._listener is listener:
            self.loop.add(listener.fileno(), READ, lambda _mask: self._accept())

    def _close_listener(self) -> None:
        if self._listener is not None:
            self.loop.remove(self._listener.fileno())
            self._listener.close()
            self._listener = None


def _turn_away(sock: socket.socket) -> None:
    """Nothing that waits here costs less than this: one packet into the socket's own buffer, then the end."""
    why = f"{MAX_CONNECTIONS} clients are being served already"
    hint = "end some of: otpd events -f, otpd tree -w, otpd top"
    with sock, contextlib.suppress(OSError):
        sock.send(pack_frame({"ok": False, "code": 1, "error": why, "hint": hint, "done": True}))
