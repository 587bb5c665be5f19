"""A child that is killed (SIGKILL) just before its nth system call that changes what is on a disk, for every n.

The child is a fork of who asks, which must have one thread; its own threads are counted together. What makes it stop is the
kernel (ptrace), so that nothing in the code that is tested knows of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import signal
import struct
from collections.abc import Callable, Iterator
from typing import Final

_TRACEME, _SYSCALL, _SETOPTIONS, _INFO = 0, 24, 0x4200, 0x420E
#: System calls are told from signals; threads are traced, too; who is traced dies with who traces.
_OPTIONS: Final = 0x1 | 0x8 | 0x100000
_STOPPED_AT_CALL: Final = signal.SIGTRAP | 0x80
_WALL: Final = 0x40000000
#: The head of struct ptrace_syscall_info, the number of the call and the first of its arguments.
_ENTRY: Final = struct.Struct("=BxxxIQQQ4Q")
_AT_ENTRY: Final = 1
#: write, pwrite64, ftruncate, rename, renameat, renameat2, unlink, unlinkat, mkdir, mkdirat, fsync, fdatasync, sendfile,
#: fallocate: as far as there are any.
_CHANGING: Final = {
    "x86_64": {1, 18, 77, 82, 264, 316, 87, 263, 83, 258, 74, 75, 40, 285},
    "aarch64": {64, 68, 46, 38, 276, 35, 34, 82, 83, 71, 47},
}
_OPENAT: Final = {"x86_64": 257, "aarch64": 56}
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def killed_at(point: int, work: Callable[[], None]) -> bool:
    """Whether it was: False when `work` ended before. What that raises is an error here. PermissionError where nobody may
    be traced."""
    child = os.fork()
    if child == 0:
        _be_traced(work)
    if not os.WIFSTOPPED(os.waitpid(child, _WALL)[1]):
        raise PermissionError("ptrace: this process may trace nobody")
    _ptrace(_SETOPTIONS, child, 0, _OPTIONS)
    _ptrace(_SYSCALL, child)
    return _lead(child, point)


def points(work: Callable[[], None], begin: Callable[[], None], stride: int = 1) -> Iterator[int]:
    """Each point at which it was killed, in turn, until a life was long enough; `begin` before each, to begin alike."""
    for point in itertools.count(stride, stride):
        begin()
        if not killed_at(point, work):
            return
        yield point


def _be_traced(work: Callable[[], None]) -> None:
    status = 1
    with contextlib.suppress(BaseException):
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        status = 0
    os._exit(status)


def _lead(child: int, point: int) -> bool:
    """From stop to stop, any thread, until it has ended."""
    seen, killed = 0, False
    while True:
        pid, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if pid != child:
                continue
            if killed or os.waitstatus_to_exitcode(status) == 0:
                return killed
            raise AssertionError(f"what was to be killed at its call {point} has failed by itself: {status:#x}")
        sent = os.WSTOPSIG(status)
        if sent == _STOPPED_AT_CALL and not killed and _changes(pid):
            seen += 1
            if seen == point:
                killed = True
                os.kill(child, signal.SIGKILL)
        kept = sent if sent not in (_STOPPED_AT_CALL, signal.SIGTRAP, signal.SIGSTOP) else 0
        with contextlib.suppress(ProcessLookupError):  # it is dead already
            _ptrace(_SYSCALL, pid, 0, kept)


def _changes(pid: int) -> bool:
    """Whether it stands before such a call; files that are only read are not opened to be made."""
    room = ctypes.create_string_buffer(_ENTRY.size)
    with contextlib.suppress(ProcessLookupError):
        _ptrace(_INFO, pid, _ENTRY.size, ctypes.addressof(room))
        op, _, _, _, number, *arguments = _ENTRY.unpack(room.raw)
        machine = os.uname().machine
        made = number == _OPENAT[machine] and arguments[2] & os.O_CREAT
        return bool(op == _AT_ENTRY and (made or number in _CHANGING[machine]))
    return False


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)}")
