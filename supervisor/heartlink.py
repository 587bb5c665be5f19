"""Root's end of the line to heart: words both ways, and the death of heart, which ends root in order (DESIGN section 3).

heart is told apart from whoever inherits root by its pidfd; its death closes the channel, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from otpd.supervisor import heart
from otpd.supervisor.loop import READ, Loop


class NoHeart(Exception):
    """There is no heart to be watched; one line that says why."""


class HeartLink:
    """`channel` is root's end of the socket pair, `pid` heart's. `stop(now)` is called for each stop that heart passes on
    and when the line breaks, `died()` before the stop that heart's own death is. NoHeart."""

    def __init__(self, loop: Loop, channel: int, pid: int, stop: Callable[[bool], None], died: Callable[[], None]) -> None:
        self._loop, self._stop, self._on_death = loop, stop, died
        self._pidfd = _watched(pid)
        self._channel = socket.socket(fileno=channel)
        self._channel.setblocking(False)
        loop.add(self._pidfd, READ, lambda _mask: self._died())
        loop.add(self._channel.fileno(), READ, lambda _mask: self._heard())

    def tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):
            self._channel.send(word, socket.MSG_NOSIGNAL)

    def _heard(self) -> None:
        try:
            words = self._channel.recv(64)
        except OSError:
            words = b""
        if not words:
            self._loop.remove(self._channel.fileno())
            self._stop(False)
            return
        for index in range(len(words)):
            self._stop(words[index : index + 1] == heart.KILL)

    def _died(self) -> None:
        """Nobody would restart root or sweep after it."""
        self._on_death()
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self._stop(False)


def _watched(pid: int) -> int:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise NoHeart("heart died while root started") from error
    if os.getppid() != pid:
        os.close(pidfd)
        raise NoHeart("heart died while root started")
    return pidfd
