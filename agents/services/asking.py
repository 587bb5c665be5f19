"""Questions of a service to root, on the control socket, without holding up its loop."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from otpd.ipc.control import ControlError
from otpd.ipc.frames import ANSWER_LIMIT, FrameReader, pack_frame


async def ask(control: str, op: str, timeout: float = 2.0, **arguments: Any) -> Any:
    """The result. ControlError as root says; OSError: it can't be reached; TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        incoming, outgoing = await asyncio.open_unix_connection(control)
        try:
            outgoing.write(pack_frame({"op": op, **arguments}))
            answer = await _answer(incoming)
        finally:
            outgoing.close()
            with contextlib.suppress(OSError):
                await outgoing.wait_closed()
    if answer.get("ok") is False:
        raise ControlError(int(answer.get("code", 1)), str(answer.get("error", "")), str(answer.get("hint", "")))
    return answer.get("result")


async def _answer(incoming: asyncio.StreamReader) -> dict[str, Any]:
    frames = FrameReader(ANSWER_LIMIT)
    while chunk := await incoming.read(1 << 18):
        for answer in frames.feed(chunk):
            return answer if isinstance(answer, dict) else {}
    raise ConnectionResetError("root has closed the connection")
