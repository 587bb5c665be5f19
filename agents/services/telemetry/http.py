"""GET /metrics on a TCP socket, for Prometheus: one answer per connection, and nothing that a stranger could make grow.

It listens where the configuration says; that this is loopback is checked there (`supervisor.sections`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Bytes of a request with its headers, seconds until it must be complete, and how many at a time.
_REQUEST: Final = 8192
_DEADLINE: Final = 5.0
_AT_A_TIME: Final = 16


def address(listen: str) -> tuple[str, int]:
    """
    >>> address("127.0.0.1:9464"), address("[::1]:9464")
    (('127.0.0.1', 9464), ('::1', 9464))
    """
    host, _, port = listen.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)


class Exporter:
    """`page` makes the text. Answers 200, 404 (another path), 405 (another method), 400 (no request), 503 (too many)."""

    def __init__(self, page: Callable[[], Awaitable[str]]) -> None:
        self._page = page
        self._serving = 0
        self._server: asyncio.Server | None = None

    async def listen(self, host: str, port: int) -> int:
        """OSError: the address is taken or is none of this machine. Gives the port: with 0 any that is free."""
        self._server = await asyncio.start_server(self._serve, host, port, limit=_REQUEST)
        return int(self._server.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Nobody is waited for: who is being answered has five seconds at most, and the process ends before."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        self._serving += 1
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(_DEADLINE):
                    outgoing.write(await self._answer(incoming))
                    await outgoing.drain()
        finally:
            self._serving -= 1
            outgoing.close()

    async def _answer(self, incoming: asyncio.StreamReader) -> bytes:
        if self._serving > _AT_A_TIME:
            return _response(503, "too many at a time\n")
        try:
            head = await incoming.readuntil(b"\r\n\r\n")
            method, path, _ = head.split(b"\r\n", 1)[0].split(b" ", 2)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return _response(400, "expected: GET /metrics HTTP/1.1\n")
        if method not in (b"GET", b"HEAD"):
            return _response(405, "expected GET\n")
        if path.split(b"?")[0] not in (b"/metrics", b"/"):
            return _response(404, "expected /metrics\n")
        return _response(200, await self._page(), body=method == b"GET")


_WORDS: Final = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable",
}  # fmt: skip


def _response(status: int, text: str, body: bool = True) -> bytes:
    data = text.encode()
    head = (
        f"HTTP/1.1 {status} {_WORDS[status]}\r\nContent-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (data if body else b"")
