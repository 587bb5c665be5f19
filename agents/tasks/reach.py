"""A line to a pool for a program that is no agent: operation `reach` of the control socket, answered with a descriptor."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

from otpd.agents.errors import CallTimeout, NodeNotRunning, OtpdError, Refused
from otpd.ipc.frames import FrameError, FrameReader, close_all, pack_frame

#: Seconds for root's answer: a little longer than root waits for the pool.
TIMEOUT: Final = 20.0
_LIMIT: Final = 65_536


def request(pool: str) -> bytes:
    return pack_frame({"op": "reach", "name": pool})


def answer_of(data: bytes, fds: list[int], pool: str) -> socket.socket:
    """The line, or the OtpdError that says why there is none."""
    try:
        answers: list[Any] = FrameReader(_LIMIT).feed(data)
        answer = answers[0] if answers else {}
    except FrameError:
        answer = {}
    if answer.get("ok") and fds:
        return socket.socket(fileno=fds.pop(0))
    close_all(fds)
    if not data:
        raise NodeNotRunning(f"reach {pool}: the node has ended; start it with: otpd start")
    raise Refused(f"reach {pool}: {answer.get('error', 'the node gave no line')}; {answer.get('hint', 'look: otpd tasks')}")


async def reach(control: str, pool: str) -> socket.socket:
    """On the running loop. NodeNotRunning, Refused, CallTimeout."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(TIMEOUT):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.setblocking(False)
                await loop.sock_connect(connection, control)
                await loop.sock_sendall(connection, request(pool))
                data, fds = await _received(loop, connection)
                return answer_of(data, fds, pool)
    except TimeoutError:
        raise CallTimeout(f"reach {pool}: the node did not answer within {TIMEOUT:g} s", "no") from None
    except OSError as error:
        raise _gone(pool, error) from None


async def _received(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> tuple[bytes, list[int]]:
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
    return _take(connection)


def reach_blocking(control: str, pool: str) -> socket.socket:
    """As `reach`, for a thread."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(control)
            connection.sendall(request(pool))
            data, fds = _take(connection)
            return answer_of(data, fds, pool)
    except TimeoutError:
        raise CallTimeout(f"reach {pool}: the node did not answer within {TIMEOUT:g} s", "no") from None
    except OSError as error:
        raise _gone(pool, error) from None


def _take(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, fds, _flags, _address = socket.recv_fds(connection, _LIMIT, 1, socket.MSG_CMSG_CLOEXEC)
    return data, fds


def _gone(pool: str, error: OSError) -> OtpdError:
    return NodeNotRunning(f"reach {pool}: the node can't be asked: {error.strerror or error}; look with: otpd status")
