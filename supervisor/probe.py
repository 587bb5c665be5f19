"""Readiness probes in pieces that never wait: root begins one, epoll says when to look, root asks how it went.

A numeric TCP address is tried by root itself (`TcpAttempt`). Everything that may wait, names and HTTP, runs as a process
of its own (`probe_argv`), exactly like a user's exec probe: status 0 means ready.

$ python -m otpd.supervisor.probe http http://127.0.0.1:8080/health
$ python -m otpd.supervisor.probe tcp db.internal 5432
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from typing import Final

from otpd.supervisor.spec import ExecReady, HttpReady, TcpReady

_TIMEOUT: Final = 5.0


class TcpAttempt:
    """One connection attempt. Watch `fileno()` for writability, then ask `result()`; `close()` in any case."""

    def __init__(self, ready: TcpReady) -> None:
        address = _numeric(ready.host)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._error: int = self._socket.connect_ex((str(address), ready.port))

    def fileno(self) -> int:
        return self._socket.fileno()

    def result(self) -> str | None:
        """None: connected; "" : not known yet; else why not."""
        if self._error in (errno.EINPROGRESS, errno.EAGAIN):
            self._error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or self._peer()
        if self._error == errno.ENOTCONN:
            self._error = errno.EINPROGRESS
            return ""
        return None if self._error == 0 else os.strerror(self._error)

    def _peer(self) -> int:
        try:
            self._socket.getpeername()
        except OSError as error:
            return error.errno or errno.ENOTCONN
        return 0

    def close(self) -> None:
        self._socket.close()


def is_numeric(host: str) -> bool:
    try:
        _numeric(host)
    except ValueError:
        return False
    return True


def _numeric(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)


def probe_argv(ready: TcpReady | ExecReady | HttpReady) -> tuple[str, ...]:
    """The command whose status 0 means ready."""
    python = (sys.executable, "-P", "-m", "otpd.supervisor.probe")
    match ready:
        case ExecReady(argv=argv):
            return argv
        case HttpReady(url=url):
            return (*python, "http", url)
        case TcpReady(port=port, host=host):
            return (*python, "tcp", host, str(port))


def http(url: str) -> str | None:
    """None for a status of 200 to 399, else what came instead. Redirects are not followed: they are an answer."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if parts.scheme not in kinds or not parts.hostname:
        return f"expected http://HOST[:PORT]/PATH, got {url!r}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=_TIMEOUT)
        connection.request("GET", target)
        status = connection.getresponse().status
        connection.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{url}: {error or type(error).__name__}"
    return None if 200 <= status < 400 else f"{url}: status {status}"


def tcp(host: str, port: int) -> str | None:
    try:
        socket.create_connection((host, port), _TIMEOUT).close()
    except (OSError, OverflowError) as error:
        return f"{host}:{port}: {error}"
    return None


def main(argv: Sequence[str]) -> int:
    match argv:
        case ["http", url]:
            failure = http(url)
        case ["tcp", host, port] if port.isdigit():
            failure = tcp(host, int(port))
        case _:
            print("usage: python -m otpd.supervisor.probe http URL | tcp HOST PORT", file=sys.stderr)
            return 2
    if failure is not None:
        print(failure, file=sys.stderr)
    return 0 if failure is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
