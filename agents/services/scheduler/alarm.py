"""Wakes the service at a time of the wall clock, and whenever somebody sets that clock.

A timerfd of CLOCK_REALTIME with TFD_TIMER_CANCEL_ON_SET: the kernel knows of both, so that nothing is polled and no slot
waits for a clock that has leapt over it. Through libc, because Python has it from 3.13 on.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from typing import Final

_CLOCK_REALTIME: Final = 0
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_ABSTIME, _CANCEL_ON_SET = 1, 2
_NS: Final = 1_000_000_000
#: Nothing is due: the alarm still tells when the clock is set (the year 2200).
_NEVER: Final = 7_258_118_400 * _NS


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


class _Setting(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class WallAlarm:
    """`ring` is called on `loop`. OSError when the kernel gives none."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._loop, self._ring = loop, ring
        self._fd = self._checked(self._libc.timerfd_create(_CLOCK_REALTIME, _FLAGS))
        self._at: int | None = None
        loop.add_reader(self._fd, self._rung)
        self.set(None)

    def set(self, at: int | None) -> None:
        """To ns since 1970; None: only when the clock is set."""
        at = _NEVER if at is None else min(max(at, 1), _NEVER)
        if at == self._at:
            return
        self._at = at
        setting = _Setting(_Timespec(0, 0), _Timespec(at // _NS, at % _NS))
        self._checked(self._libc.timerfd_settime(self._fd, _ABSTIME | _CANCEL_ON_SET, ctypes.byref(setting), None))

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _rung(self) -> None:
        """ECANCELED: the clock was set, and the timer is void until it is armed anew."""
        with contextlib.suppress(OSError):
            os.read(self._fd, 8)
        self._at = None
        self._ring()

    @staticmethod
    def _checked(result: int) -> int:
        if result < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd: {os.strerror(code)}")
        return result
