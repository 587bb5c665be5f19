"""How a child is asked over the network: `tcp` and `http`, without ever waiting for anybody but the child.

Each question is a few system calls on a socket of its own, and ends by a deadline that the caller sets. A host name is
looked up in a thread, one per name, because nobody can end a look-up that hangs; who needs the same name waits for the same.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import ipaddress
import os
import re
import select
import socket
from typing import Final
from urllib.parse import urlsplit

from otpd.agents.services.health.probes import Verdict
from otpd.agents.services.health.threads import Lookups

#: What the host lacks, not the child.
LACKING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN})
#: Bytes of a status line; an answer that has none within these is no HTTP.
_HEAD: Final = 4096
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")
#: How a verdict begins that there is none for want of something here.
LACKS: Final = "the health service lacks something"
PASSED: Final = Verdict(True)


def failed(error: BaseException) -> Verdict:
    """Whatever a check has raised says something about the child, unless the host had too little of something."""
    if isinstance(error, OSError) and error.errno in LACKING:
        return Verdict(None, f"{LACKS}: {os.strerror(error.errno or 0)}")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = " ".join(text.split())
    return Verdict(False, (words or type(error).__name__)[:300])


def tcp_at_once(host: str, port: int) -> Verdict | None:
    """What a port of this host says without any waiting; None when it must be waited for, or is not on this host.

    The kernel says that a connection is under way, although it has been made, or refused, when the call returns.
    """
    address = _numeric(host)
    if not address.startswith("127."):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as connection:
        error = connection.connect_ex((address, port))
        if error == errno.EINPROGRESS:
            if not _is_writable(connection):
                return None
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return PASSED if error == 0 else failed(OSError(error, f"{host}:{port}: {os.strerror(error)}"))


async def tcp(names: Lookups[str], host: str, port: int) -> Verdict:
    """It takes a connection."""
    with await _connected(names, host, port):
        return PASSED


async def http(names: Lookups[str], url: str) -> Verdict:
    """A status of 200 to 399. Redirects are not followed: they are an answer."""
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    request = f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: otpd\r\nConnection: close\r\n\r\n"
    loop = asyncio.get_running_loop()
    with await _connected(names, parts.hostname or "", parts.port or 80) as connection:
        await loop.sock_sendall(connection, request.encode("ascii", "replace"))
        head = b""
        while len(head) < _HEAD and b"\n" not in head:
            chunk = await loop.sock_recv(connection, _HEAD - len(head))
            if not chunk:
                break
            head += chunk
    found = _STATUS.match(head)
    if found is None:
        return Verdict(False, f"{url}: expected a status line of HTTP, got {head[:40]!r}")
    status = int(found[1])
    return PASSED if 200 <= status < 400 else Verdict(False, f"{url}: status {status}")


def address_of(host: str) -> str:
    """What a name stands for; OSError when that can't be found out. Waits."""
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])


async def _connected(names: Lookups[str], host: str, port: int) -> socket.socket:
    """OSError with the address in it."""
    address = _numeric(host) or await names.find(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address, port))
    except OSError as error:
        connection.close()
        raise OSError(error.errno, f"{host}:{port}: {os.strerror(error.errno or 0)}") from None
    except BaseException:
        connection.close()
        raise
    return connection


@functools.lru_cache(maxsize=1000)
def _numeric(host: str) -> str:
    """The address, "" for a name."""
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        return ""


def _is_writable(connection: socket.socket) -> bool:
    """Now. By poll, which knows descriptors above 1023."""
    look = select.poll()
    look.register(connection, select.POLLOUT)
    return bool(look.poll(0))
