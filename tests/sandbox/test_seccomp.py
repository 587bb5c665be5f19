"""What the filter says to calls, on a machine that runs it as the kernel does."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import socket
import stat

import pytest

from otpd.agents.sandbox import bpf, kernel, seccomp, syscalls
from tests.sandbox.bpf_machine import decide, program

MACHINES = ["x86_64", "aarch64"]
PLAIN = program()


@pytest.mark.parametrize("machine", MACHINES)
def test_every_policy_assembles(machine: str) -> None:
    names = [field.name for field in dataclasses.fields(seccomp.Policy)]
    for true, false in [*itertools.product(names, [None]), *itertools.product([None], names), (None, None)]:
        made = program(machine, **{name: (name == true if true else name != false) for name in names})
        assert decide(made, 0 if machine == "x86_64" else 63, machine=machine) == "allow"  # read
        assert len(made) // 8 < 4096  # BPF_MAXINSNS


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("call", ["bpf", "mount", "setns", "ptrace", "keyctl", "userfaultfd", "perf_event_open", "reboot"])
def test_what_changes_the_machine_or_reaches_others_is_denied(machine: str, call: str) -> None:
    assert decide(program(machine), call, machine=machine) == "EPERM"


@pytest.mark.parametrize("call", ["clone3", "io_uring_setup", "openat2", "statmount"])
def test_what_programs_do_without_does_not_exist(call: str) -> None:
    assert decide(PLAIN, call) == "ENOSYS"


@pytest.mark.parametrize("number", [syscalls.LAST + 1, 600, 0x3FFF_FFFF])
def test_calls_newer_than_the_policy_do_not_exist(number: int) -> None:
    assert decide(PLAIN, number) == "ENOSYS"


def test_the_last_known_call_is_not_new() -> None:
    assert decide(PLAIN, 468) == "allow"  # file_getattr


def test_another_architecture_ends_the_process() -> None:
    assert decide(PLAIN, 20, arch=0x4000_0003) == "kill"  # i386


def test_calls_of_x32_end_the_process() -> None:
    assert decide(PLAIN, syscalls.X32_BIT | 39) == "kill"


@pytest.mark.parametrize("flag", [kernel.CLONE_NEWUSER, kernel.CLONE_NEWNS, kernel.CLONE_NEWNET, kernel.CLONE_NEWCGROUP])
def test_no_namespace_by_clone_or_unshare(flag: int) -> None:
    assert (decide(PLAIN, "clone", flag | 17), decide(PLAIN, "unshare", flag)) == ("EPERM", "EPERM")


def test_threads_and_processes_are_allowed() -> None:
    assert (decide(PLAIN, "clone", 0x3D0F00), decide(PLAIN, "clone", 17), decide(PLAIN, "unshare", 0x400)) == ("allow",) * 3


def test_only_arguments_low_half_counts_as_for_the_kernel() -> None:
    assert decide(PLAIN, "ioctl", 0, 0xFFFF_FFFF_0000_5412) == "EPERM"


@pytest.mark.parametrize(
    ("family", "kind", "protocol", "said"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0, "allow"),
        (socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 17, "allow"),
        (socket.AF_INET, socket.SOCK_RAW, 1, "EAFNOSUPPORT"),
        (socket.AF_INET, socket.SOCK_STREAM, 262, "EAFNOSUPPORT"),  # MPTCP
        (socket.AF_UNIX, socket.SOCK_STREAM, 0, "EAFNOSUPPORT"),
        (socket.AF_NETLINK, socket.SOCK_RAW, 0, "allow"),  # NETLINK_ROUTE
        (socket.AF_NETLINK, socket.SOCK_RAW, 15, "EAFNOSUPPORT"),
        (socket.AF_PACKET, socket.SOCK_RAW, 3, "EAFNOSUPPORT"),
        (38, 5, 0, "EAFNOSUPPORT"),  # AF_ALG
        (40, socket.SOCK_STREAM, 0, "EAFNOSUPPORT"),  # AF_VSOCK
    ],
)
def test_sockets_are_for_ip_alone(family: int, kind: int, protocol: int, said: str) -> None:
    assert decide(PLAIN, "socket", family, kind, protocol) == said


def test_unix_sockets_where_the_profile_says_so() -> None:
    assert decide(program(unix_sockets=True), "socket", socket.AF_UNIX, socket.SOCK_STREAM) == "allow"


def test_pairs_of_unix_sockets_are_always_allowed() -> None:
    assert (decide(PLAIN, "socketpair", socket.AF_UNIX, 1), decide(PLAIN, "socketpair", 38, 1)) == ("allow", "EPERM")


def test_without_a_network_of_its_own_there_is_no_internet() -> None:
    made = program(internet=False)
    answers = (decide(made, "socket", socket.AF_INET, 1), decide(made, "socket", socket.AF_NETLINK, 3, 0))
    assert answers == ("EAFNOSUPPORT", "allow")


@pytest.mark.parametrize("bits", [stat.S_ISUID, stat.S_ISGID, stat.S_ISUID | stat.S_ISGID])
@pytest.mark.parametrize(
    ("call", "before"),
    [("chmod", 1), ("fchmod", 1), ("fchmodat", 2), ("fchmodat2", 2), ("creat", 1), ("mknod", 1), ("mknodat", 2)],
)
def test_no_set_user_id_by_any_call(call: str, before: int, bits: int) -> None:
    assert decide(PLAIN, call, *[0] * before, bits | 0o755) == "EPERM"
    assert decide(PLAIN, call, *[0] * before, 0o1755) == "allow"


def test_the_mode_of_open_counts_only_where_it_makes_something() -> None:
    create, temporary, garbage = 0o100, 0o20200000, 0o6755
    answers = (
        decide(PLAIN, "openat", 0, 0, create, garbage), decide(PLAIN, "openat", 0, 0, temporary, garbage),
        decide(PLAIN, "openat", 0, 0, 0, garbage), decide(PLAIN, "openat", 0, 0, create, 0o644),
        decide(PLAIN, "open", 0, create, garbage), decide(PLAIN, "openat", 0, 0, 0o200000, garbage),  # O_DIRECTORY
    )  # fmt: skip
    assert answers == ("EPERM", "EPERM", "allow", "allow", "EPERM", "allow")


def test_devices_never_and_fifos_where_nothing_else_keeps_them_out() -> None:
    strict = program(special_files=False)
    answers = [decide(each, "mknod", 0, kind | 0o600) for each in (PLAIN, strict) for kind in (stat.S_IFCHR, stat.S_IFIFO)]
    assert answers == ["EPERM", "allow", "EPERM", "EPERM"]


def test_debuggers_where_the_profile_says_so() -> None:
    made = program(debug=True)
    answers = (decide(made, "ptrace"), decide(made, "personality", 0x0040000), decide(PLAIN, "personality", 0x0040000))
    assert answers == ("allow", "allow", "EPERM")


def test_locks_that_would_hold_files_of_others() -> None:
    made = program(locks=False)
    assert [decide(made, "flock", 0, kind) for kind in (1, 2, 2 | 4, 8)] == ["ENOTSUP"] * 3 + ["allow"]


@pytest.mark.parametrize("command", [1024, 1026])
def test_no_lease_and_no_notification_on_files_of_others(command: int) -> None:
    assert (decide(PLAIN, "fcntl", 0, command), decide(PLAIN, "fcntl", 0, 6)) == ("EPERM", "allow")


def test_no_real_time() -> None:
    fifo_that_is_reset_on_fork = 1 | 0x4000_0000
    assert decide(PLAIN, "sched_setscheduler", 0, fifo_that_is_reset_on_fork) == "EPERM"
    assert decide(PLAIN, "sched_setscheduler", 0, 3) == "allow"  # SCHED_BATCH


def test_among_strangers_only_oneself_is_touched() -> None:
    made = program(own_pids=False)
    answers = (
        decide(made, "prlimit64", 0), decide(made, "prlimit64", 7), decide(made, "setpriority", 0, 0),
        decide(made, "setpriority", 2, 0), decide(made, "sched_setaffinity", 7), decide(made, "ioprio_set", 1, 0),
    )  # fmt: skip
    assert answers == ("allow", "EPERM", "allow", "EPERM", "EPERM", "allow")


def test_memory_files_and_ipc_where_nothing_counts_them() -> None:
    made = program(memfd=False, ipc=False)
    assert [decide(made, call) for call in ("memfd_create", "shmget", "mq_open")] == ["ENOSYS", "EPERM", "EPERM"]
    assert [decide(PLAIN, call) for call in ("memfd_create", "shmget", "mq_open")] == ["allow"] * 3


def test_a_jump_that_is_too_far_is_an_error() -> None:
    far = bpf.Block(1, [bpf.equal(1, "", "end"), *[bpf.verdict(bpf.ALLOW)] * 300])
    with pytest.raises(ValueError, match="0 to 255"):
        bpf.assemble([], [far, bpf.Block(2, far.ops), bpf.Block(3, far.ops)], bpf.verdict(bpf.ERRNO | errno.EPERM))


def test_an_unknown_architecture_has_no_table() -> None:
    with pytest.raises(KeyError):
        program("riscv64")
