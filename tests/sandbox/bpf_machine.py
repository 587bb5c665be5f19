"""Runs a classic BPF program as the kernel would: what a filter says to one system call."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

from otpd.agents.sandbox import bpf, seccomp, syscalls

_INSTRUCTION = struct.Struct("=HBBI")


def decide(program: bytes, call: str | int, *arguments: int, machine: str = "x86_64", arch: int | None = None) -> str:
    """allow, kill, or the name of an error."""
    number = syscalls.numbers(machine)[call] if isinstance(call, str) else call
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, arch or syscalls.AUDIT_ARCH[machine], 0, *(each % 2**64 for each in given))
    return _name(_run(list(_INSTRUCTION.iter_unpack(program)), data))


def _run(program: Sequence[tuple[int, int, int, int]], data: bytes) -> int:
    place = accumulator = 0
    while True:
        code, yes, no, value = program[place]
        place += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, value)[0]
            case 0x54:
                accumulator &= value
            case 0x15:
                place += yes if accumulator == value else no
            case 0x35:
                place += yes if accumulator >= value else no
            case 0x45:
                place += yes if accumulator & value else no
            case 0x06:
                return value
            case other:
                raise AssertionError(f"no such instruction: {other:#x}")


def _name(verdict: int) -> str:
    if verdict == bpf.ALLOW:
        return "allow"
    if verdict == bpf.KILL_PROCESS:
        return "kill"
    return errno.errorcode[verdict & 0xFFFF]


def program(machine: str = "x86_64", **policy: bool) -> bytes:
    return seccomp.program(seccomp.Policy(**policy), machine)
