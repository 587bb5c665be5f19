"""The kernel's part of `spawn = "deny"`: a seccomp filter under which a process makes threads, but no processes.

`guard` is the part that explains. This one holds for whatever does not go through Python, such as ctypes; it can't be taken
off, and holds for all threads. Refused calls fail with EPERM. clone3 says ENOSYS, because a filter can't see the flags
that it is given; libc then falls back to clone.
"""

from __future__ import annotations

import errno
from typing import Final

from otpd.agents.sandbox import bpf, kernel, syscalls
from otpd.agents.sandbox.bpf import ALLOW, ERRNO, Block, Op, any_bit, argument, equal, load, verdict

_REFUSED: Final = ("fork", "vfork", "execve", "execveat")
_CLONE_THREAD: Final = 0x0001_0000
_EPERM: Final = ERRNO | errno.EPERM


class Unsupported(Exception):
    """There is no filter for this architecture."""


def install() -> None:
    """For all threads of this process, for ever. OSError says which step the kernel has refused; Unsupported."""
    code = program(kernel.machine())
    kernel.no_new_privileges()
    kernel.seccomp_filter(code, all_threads=True)


def program(machine: str) -> bytes:
    """The filter, as an array of struct sock_filter. Unsupported."""
    if machine not in syscalls.AUDIT_ARCH:
        raise Unsupported(f"expected one of {', '.join(syscalls.AUDIT_ARCH)}, got {machine}")
    known = syscalls.numbers(machine)
    blocks = [_always(known[name], _EPERM) for name in _REFUSED if name in known]
    blocks += [_always(known["clone3"], ERRNO | errno.ENOSYS), _unless_thread(known["clone"])]
    return bpf.assemble(_head(machine), blocks, verdict(ALLOW))


def _head(machine: str) -> list[Op]:
    """Calls by the numbers of another architecture are refused, whatever they are."""
    x32 = [bpf.at_least(syscalls.X32_BIT, "strange")] if machine == "x86_64" else []
    own = syscalls.AUDIT_ARCH[machine]
    return [
        load(bpf.ARCHITECTURE), equal(own, "", "strange"), load(bpf.NUMBER), *x32, equal(0, "end", "end"),
        verdict(_EPERM, "strange"),
    ]  # fmt: skip


def _always(number: int, answer: int) -> Block:
    return Block(number, [equal(number, "", "end"), verdict(answer)])


def _unless_thread(number: int) -> Block:
    checks = [equal(number, "", "end"), argument(0), any_bit(_CLONE_THREAD, "thread", "")]
    return Block(number, [*checks, verdict(_EPERM), verdict(ALLOW, "thread")])
