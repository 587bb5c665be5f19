"""The system calls that a sandbox is made of and Python's `os` does not have.

Thin: no decisions, no state. A call raises OSError as the kernel says, its `filename` being the step ("open_tree
/usr"). Uses the standard library alone, so that the nest can run it in an interpreter that has nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

CLONE_NEWTIME: Final = 0x0000_0080
CLONE_NEWNS: Final = 0x0002_0000
CLONE_NEWCGROUP: Final = 0x0200_0000
CLONE_NEWUTS: Final = 0x0400_0000
CLONE_NEWIPC: Final = 0x0800_0000
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWPID: Final = 0x2000_0000
CLONE_NEWNET: Final = 0x4000_0000
_SIGCHLD: Final = 17

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 0x1, 0x2, 0x4, 0x4000, 0x80000
MNT_DETACH: Final = 2

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = 0o2000000
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x04
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_IDMAP: Final = 0x0010_0000

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

_CAPABILITY_VERSION_3: Final = 0x2008_0522
_SECCOMP_SET_MODE_FILTER: Final = 1
_SECCOMP_FILTER_FLAG_TSYNC: Final = 1
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_PATH_BENEATH: Final = 1

#: Calls without a wrapper in libc that differ by architecture; those of Linux 5.1 and later have one number everywhere.
_NUMBERS: Final = {
    "x86_64": {"clone": 56, "capset": 126, "pivot_root": 155, "unshare": 272, "seccomp": 317, "setns": 308, "sigaction": 13},
    "aarch64": {
        "clone": 220, "capset": 91, "pivot_root": 41, "unshare": 97, "seccomp": 277, "setns": 268, "sigaction": 134,
    },
}
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 436, 437, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

LIBC_SIGNALS: Final = (32, 33)
#: Bytes of the kernel's struct sigaction, or more, and of its set of signals.
_SIGACTION, _SIGNAL_SET = 64, 8

#: PyDLL: the interpreter's lock is kept over the call, because after clone() nobody would be there to give it back.
_libc: Final = ctypes.PyDLL(None, use_errno=True)


def machine() -> str:
    """The architecture, as `uname -m` says it."""
    return os.uname().machine


def supported() -> bool:
    return machine() in _NUMBERS


def _call(step: str, number: int | str, *args: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    code = _NUMBERS[machine()][number] if isinstance(number, str) else number
    ctypes.set_errno(0)
    longs = (ctypes.c_long(each) if isinstance(each, int) else each for each in args)
    result: int = _libc.syscall(ctypes.c_long(code), *longs)
    return _checked(step, result)


def _checked(step: str, result: int) -> int:
    if result >= 0:
        return result
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), step)


def clone(flags: int) -> int:
    """fork() into new namespaces: 0 in the child. For processes of one thread; no `os.register_at_fork` hook runs."""
    return _call("clone", "clone", flags | _SIGCHLD, 0, 0, 0, 0)


def default_signal(number: int) -> None:
    """Also of the two that libc uses itself and lets nobody touch, LIBC_SIGNALS: its posix_spawn() leaves them ignored."""
    _call("rt_sigaction", "sigaction", number, bytes(_SIGACTION), None, _SIGNAL_SET)


def unshare(flags: int) -> None:
    _call(f"unshare {flags:#x}", "unshare", flags)


def setns(fd: int, flags: int) -> None:
    _call(f"setns {flags:#x}", "setns", fd, flags)


def prctl(option: int, argument: int | bytes = 0, third: int = 0) -> int:
    value = argument if isinstance(argument, bytes) else ctypes.c_ulong(argument)
    result: int = _libc.prctl(option, value, ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return _checked(f"prctl {option}", result)


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = (os.fsencode(source), os.fsencode(target), os.fsencode(kind), ctypes.c_ulong(flags), os.fsencode(options))
    _checked(f"mount {kind} on {target}", _libc.mount(*arguments))


def unmount(target: str) -> None:
    """Detach: gone from the tree at once, from the kernel when nobody uses it."""
    _checked(f"umount {target}", _libc.umount2(os.fsencode(target), MNT_DETACH))


def pivot_here() -> None:
    """The current directory, a mount, becomes the root; the old root is gone."""
    _call("pivot_root", "pivot_root", b".", b".")
    unmount(".")
    os.chdir("/")


def open_tree(path: str, *, recursive: bool = True, at: int = AT_FDCWD) -> int:
    """A detached copy of what is mounted at `path`; an empty path means the descriptor `at` itself. The caller closes it."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return _call(f"open_tree {path}", _OPEN_TREE, at, os.fsencode(path), flags | (0 if path else AT_EMPTY_PATH))


def move_mount(tree: int, place: int) -> None:
    """Attach a detached mount at `place`, a descriptor: nobody can put something else there in between."""
    _call("move_mount", _MOVE_MOUNT, tree, b"", place, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def mount_setattr(at: int, path: str, on: int, off: int = 0, *, userns: int = 0, recursive: bool = True) -> None:
    """Set and clear MOUNT_ATTR flags; with `userns` (a descriptor) the ids of the mount are mapped by it."""
    attributes = struct.pack("=QQQQ", on | (MOUNT_ATTR_IDMAP if userns else 0), off, 0, userns)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    _call(f"mount_setattr {path}", _MOUNT_SETATTR, at, os.fsencode(path), flags, attributes, len(attributes))


def openat2(at: int, path: str, flags: int, resolve: int) -> int:
    """Open without following what `resolve` forbids (ELOOP, EXDEV). The caller closes it."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return _call(f"openat2 {path}", _OPENAT2, at, os.fsencode(path), how, len(how))


def close_from(first: int) -> None:
    _call("close_range", _CLOSE_RANGE, first, 0xFFFF_FFFF, 0)


def cloexec_from(first: int) -> None:
    """Mark every descriptor from `first` on as close-on-exec."""
    _call("close_range", _CLOSE_RANGE, first, 0xFFFF_FFFF, 4)


def drop_bounding_set() -> None:
    """No capability can ever be gained by exec. Ends at the first that this kernel does not know."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return


def drop_capabilities() -> None:
    """Every set of this process becomes empty."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    _call("capset", "capset", struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24))


def no_new_privileges() -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def seccomp_filter(program: bytes, *, all_threads: bool = False) -> None:
    """Install a classic BPF program (an array of struct sock_filter) for this thread, or all, and all that comes of it."""
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    flags = _SECCOMP_FILTER_FLAG_TSYNC if all_threads else 0
    thread = _call("seccomp", "seccomp", _SECCOMP_SET_MODE_FILTER, flags, head)
    if thread:
        raise OSError(errno.EBUSY, f"thread {thread} has a filter of its own", "seccomp")


def landlock_abi() -> int:
    """The version of Landlock in the kernel; 0: none."""
    try:
        return _call("landlock", _LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)
    except OSError:
        return 0


def landlock_ruleset(fs: int, net: int, scope: int) -> int:
    """A ruleset that handles these rights. What is 0 at the end is not handed over, so older kernels take it."""
    size = 24 if scope else 16 if net else 8
    return _call("landlock_create_ruleset", _LANDLOCK_CREATE, struct.pack("=QQQ", fs, net, scope)[:size], size, 0)


def landlock_allow(ruleset: int, path: str, rights: int) -> None:
    """Allow `rights` at and beneath `path`."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, place)
        _call(f"landlock_add_rule {path}", _LANDLOCK_ADD, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def landlock_restrict(ruleset: int) -> None:
    _call("landlock_restrict_self", _LANDLOCK_RESTRICT, ruleset, 0)
