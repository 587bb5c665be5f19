"""Thin typed wrappers of what Linux offers for process control and Python's standard library does not.

No decisions and no state. `sweep` and `launch` build on it. Every function says what it raises; a process that is gone
is `None` or an empty list, never an exception.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import select
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

MINIMUM_KERNEL: Final = (5, 10)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_GET_TID_ADDRESS: Final = 40

_CLONE_PIDFD: Final = 0x0000_1000
_CLONE_PARENT: Final = 0x0000_8000
_CLONE_CHILD_CLEARTID: Final = 0x0020_0000
_CLONE_CHILD_SETTID: Final = 0x0100_0000
_CLONE_INTO_CGROUP: Final = 0x2_0000_0000
_CLONE3: Final = 435  # on every architecture
_CHUNK: Final = 16 << 10
#: The kernel fills a page before it gives less than was asked for, unless there is no more.
_SURELY_ALL: Final = 2048
_PF_EXITING: Final = 0x4
_SIGSET: Final = 128  # sigset_t of libc; the kernel reads the first 64 bits
_SIGINFO: Final = 128  # struct signalfd_siginfo
_SFD_FLAGS: Final = os.O_CLOEXEC | os.O_NONBLOCK
_LINE: Final = 4096  # PIPE_BUF: a pipe that is writable takes so much at once


class UnsupportedError(Exception):
    """This machine can't run a node; says what is needed and what was found."""


class _CloneCall(NamedTuple):
    """How clone(2) is called on one architecture: its number, and where `child_tid` stands among the five arguments."""

    number: int
    child_tid: int


_CLONE_CALLS: Final = {"x86_64": _CloneCall(56, 3), "aarch64": _CloneCall(220, 4)}
_SIGACTION_CALLS: Final = {"x86_64": 13, "aarch64": 134}


def require_linux() -> None:
    """UnsupportedError unless this is Linux 5.10 or newer on an architecture whose clone(2) is known."""
    if not sys.platform.startswith("linux"):
        raise UnsupportedError(
            f"otpd needs Linux 5.10 or newer, this is {sys.platform}; run it in a Linux VM or container"
        )
    release = platform.release()
    if kernel_version(release) < MINIMUM_KERNEL:
        raise UnsupportedError(f"otpd needs Linux 5.10 or newer, this kernel is {release}; upgrade the kernel")
    clone_call()


def kernel_version(release: str) -> tuple[int, int]:
    """The first two numbers of a kernel release.

    >>> kernel_version("6.1.0-18-amd64"), kernel_version("5.10-rc1"), kernel_version("garbage")
    ((6, 1), (5, 10), (0, 0))
    """
    numbers = []
    for part in release.split(".")[:2]:
        digits = "".join(c for c in part.partition("-")[0] if c.isdigit())
        numbers.append(int(digits or 0))
    major, minor = (*numbers, 0, 0)[:2]
    return major, minor


def clone_call(machine: str | None = None) -> _CloneCall:
    """The call of this architecture; UnsupportedError where it is not known."""
    machine = machine or platform.machine()
    if machine not in _CLONE_CALLS:
        raise UnsupportedError(f"otpd runs on {' and '.join(_CLONE_CALLS)}, this machine is {machine}")
    return _CLONE_CALLS[machine]


@functools.cache
def _libc() -> ctypes.PyDLL:
    """PyDLL: the interpreter lock stays held, so a cloned child owns it."""
    return ctypes.PyDLL(None, use_errno=True)


@functools.cache
def _function(name: str, *types: Any) -> Callable[..., int]:
    function = getattr(_libc(), name)
    function.argtypes = types
    function.restype = ctypes.c_long if name == "syscall" else ctypes.c_int
    return function  # type: ignore[no-any-return]


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _prctl(option: int, argument: int, what: str) -> None:
    call = _function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
    _checked(call(option, argument, 0, 0, 0), what)


def set_pdeathsig(number: int = signal.SIGKILL) -> None:
    """Be sent `number` when the parent dies. Lost by a change of credentials; the caller checks getppid() afterwards."""
    _prctl(_PR_SET_PDEATHSIG, int(number), "prctl(PR_SET_PDEATHSIG)")


def set_child_subreaper(on: bool = True) -> None:
    """Orphaned descendants become children of this process."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(on), "prctl(PR_SET_CHILD_SUBREAPER)")


def default_libc_signals() -> None:
    """The two signals that libc uses itself: its posix_spawn() leaves them ignored, and it lets nobody change them."""
    by_default = (ctypes.c_ulong * 8)()
    call = _function("syscall", ctypes.c_long, *[ctypes.c_ulong] * 5)
    for each in (32, 33):
        _checked(call(_SIGACTION_CALLS[platform.machine()], each, ctypes.addressof(by_default), 0, 8, 0), "rt_sigaction")


def set_title(title: str) -> None:
    """What `ps` shows. The environment that /proc shows, which holds the cookie, is left as it is.

    The short name that the kernel keeps has no space: os.fork() of Python 3.12+ counts threads in /proc/self/stat by
    spaces, and with one in the name would take the process's niceness for their number, and warn.
    """
    os.environ.setdefault("SPT_NOENV", "1")
    import setproctitle

    setproctitle.setproctitle(title)
    setproctitle.setthreadtitle(title.replace(" ", ""))


@functools.cache
def _thread_id_address() -> int:
    """Where libc caches the thread id, or 0 when the kernel does not tell (CONFIG_CHECKPOINT_RESTORE)."""
    address = ctypes.c_ulong(0)
    call = _function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)
    return address.value if call(_PR_GET_TID_ADDRESS, ctypes.addressof(address), 0, 0, 0) == 0 else 0


def clone_sibling(cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork a child of the *parent* of this process: (pid, pidfd) here, (0, -1) in the child. OSError when it fails.

    The caller must have one thread only. Python's own fork hooks run on both sides, and libc's cached thread id is
    set in the child as fork(3) would do. With `cgroup_fd`, a directory, the child is born in that cgroup: to move it
    there later would wait 12 ms for a grace period of the kernel.
    """
    pidfd = ctypes.c_int(-1)
    flags = _CLONE_PARENT | _CLONE_PIDFD
    if address := _thread_id_address():
        flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID
    syscall = _function("syscall", ctypes.c_long, *[ctypes.c_ulong] * 5)
    if cgroup_fd is None:
        number, arguments, keep = _clone(flags, ctypes.addressof(pidfd), address)
    else:
        number, arguments, keep = _clone3(flags | _CLONE_INTO_CGROUP, ctypes.addressof(pidfd), address, cgroup_fd)
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = syscall(number, *arguments)
    del keep
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    return _checked(pid, "clone"), pidfd.value


def _clone(flags: int, pidfd: int, tid: int) -> tuple[int, list[int], object]:
    call = clone_call()
    arguments = [flags | signal.SIGCHLD, 0, pidfd, 0, 0]
    arguments[call.child_tid] = tid
    return call.number, arguments, None


def _clone3(flags: int, pidfd: int, tid: int, cgroup_fd: int) -> tuple[int, list[int], object]:
    """The arguments point into a structure, which must be kept until the call. The exit signal is the sibling's own."""
    fields = (flags, pidfd, tid, 0, 0, 0, 0, 0, 0, 0, cgroup_fd)
    structure = (ctypes.c_uint64 * len(fields))(*fields)
    return _CLONE3, [ctypes.addressof(structure), ctypes.sizeof(structure), 0, 0, 0], structure


def signal_fd(numbers: Iterable[int]) -> int:
    """A descriptor, non-blocking, from which `read_signals` reads those of `numbers` that are blocked and pending."""
    mask = sum(1 << (number - 1) for number in numbers).to_bytes(_SIGSET, sys.byteorder)
    return _checked(_function("signalfd", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)(-1, mask, _SFD_FLAGS), "signalfd")


def read_signals(fd: int) -> list[int]:
    """Each that has come, once however often, in order of number."""
    try:
        content = os.read(fd, 64 * _SIGINFO)
    except BlockingIOError:
        return []
    return sorted({int.from_bytes(content[at : at + 4], sys.byteorder) for at in range(0, len(content), _SIGINFO)})


def overwrite(address: int, content: bytes) -> None:
    """Write to this process's own memory. The caller answers for the address."""
    ctypes.memmove(address, content, len(content))


@dataclass(frozen=True, slots=True)
class Stat:
    """The part of /proc/PID/stat that identifies a process. `started` is in clock ticks after boot."""

    pid: int
    state: str
    ppid: int
    group: int
    session: int
    started: int
    exiting: bool  # dead, or on its way out: its memory, and so its environment, is gone or going


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    content = read_proc(f"/proc/{pid}/stat")
    if content is None:
        return None
    fields = content[content.rindex(b")") + 2 :].split(maxsplit=20)
    exiting = bool(int(fields[6]) & _PF_EXITING)
    return Stat(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]), exiting)


def environ_block(pid: int) -> bytes | None:
    """The environment that `pid` was exec'd with, NUL-separated; None when it is gone or not ours to read."""
    return read_proc(f"/proc/{pid}/environ")


def environ_address() -> int:
    """Where this process's initial environment begins in its memory."""
    content = read_proc("/proc/self/stat") or b""
    return int(content[content.rindex(b")") + 2 :].split()[47])


def read_proc(path: str) -> bytes | None:
    """A whole file; None when it is not there, not ours, or its process has just gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return b"".join(iter(lambda: os.read(fd, _CHUNK), b""))
    except OSError:
        return None
    finally:
        os.close(fd)


def read_again(fd: int) -> bytes:
    """All of a file of the kernel's that is open, as it is now. OSError."""
    content = os.pread(fd, _CHUNK, 0)
    if len(content) < _SURELY_ALL:
        return content
    while chunk := os.pread(fd, _CHUNK, len(content)):
        content += chunk
    return content


def open_own_children() -> int:
    """A descriptor from which `read_again` reads the children of the calling thread; -1 where the kernel has none."""
    try:
        return os.open("/proc/thread-self/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1


def children(pid: int) -> list[int]:
    """Direct children, zombies included. Complete for the caller's own pid; for others a moment may be missed."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    lists = [read_proc(f"/proc/{pid}/task/{task}/children") for task in tasks]
    if any(content is None for content in lists):
        return scan_children(pid)
    return [int(number) for content in lists for number in (content or b"").split()]


def scan_children(pid: int) -> list[int]:
    """The same from a walk over /proc, for kernels without CONFIG_PROC_CHILDREN."""
    found = (stat(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return [entry.pid for entry in found if entry and entry.ppid == pid]


def complain(text: str) -> None:
    """A line on stderr. Nobody may read there any more: a terminal that has closed must not end who only wants to speak,
    now or when buffers are flushed at the end, so it is written without any; and one that stands still (^S, a full pipe)
    must hold nobody up, so then it is not written."""
    line = f"{text}\n".encode(errors="backslashreplace")[:_LINE]
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, line)
