"""What the filter of `spawn = "deny"` says to calls, on a machine that runs it as the kernel does."""

from __future__ import annotations

import pytest

from otpd.agents import noexec
from otpd.agents.sandbox import syscalls
from tests.sandbox.bpf_machine import decide

MACHINES = ["x86_64", "aarch64"]
SIGCHLD, VFORK, VM, SIGHAND, THREAD = 17, 0x4000, 0x100, 0x800, 0x10000


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", ["fork", "vfork", "execve", "execveat"])
def test_processes_and_programs_are_refused(machine: str, call: str) -> None:
    if call in syscalls.numbers(machine):
        assert decide(noexec.program(machine), call, machine=machine) == "EPERM"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (SIGCHLD, "EPERM"),
        (VM | VFORK | SIGCHLD, "EPERM"),  # posix_spawn
        (VM | SIGHAND | THREAD, "allow"),
        (THREAD | 1 << 40, "allow"),
    ],
)
def test_clone_makes_threads_only(machine: str, flags: int, said: str) -> None:
    assert decide(noexec.program(machine), "clone", flags, machine=machine) == said


@pytest.mark.parametrize("machine", MACHINES)
def test_clone3_is_missing_so_that_libc_falls_back_and_all_else_is_left_alone(machine: str) -> None:
    program = noexec.program(machine)
    assert decide(program, "clone3", machine=machine) == "ENOSYS"
    spoken = {*noexec._REFUSED, "clone", "clone3"}
    others = {name for name in syscalls.numbers(machine) if name not in spoken}
    assert {decide(program, name, machine=machine) for name in others} == {"allow"}
    assert {decide(program, number, machine=machine) for number in (0, 1, syscalls.LAST + 100)} == {"allow"}


def test_the_calls_of_another_architecture_are_refused() -> None:
    program = noexec.program("x86_64")
    assert decide(program, 11, arch=0x4000_0003) == "EPERM"  # execve of i386
    assert decide(program, syscalls.X32_BIT | 520) == "EPERM"  # execve of x32
    assert decide(noexec.program("aarch64"), 11, machine="aarch64", arch=0x4000_0028) == "EPERM"  # of 32-bit ARM


def test_an_architecture_without_a_table_is_named() -> None:
    with pytest.raises(noexec.Unsupported, match="expected one of x86_64, aarch64, got riscv64"):
        noexec.program("riscv64")
