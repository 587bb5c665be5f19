"""Which system calls a command may make.

A list of what is denied, because programs need hundreds of calls and none of them is missed by the rest: what changes
the machine, reaches other processes, makes namespaces, or has a history of holes in the kernel. Three things make it
hold over time: a call that is newer than the policy does not exist (ENOSYS), another architecture's calls end the
process, and a denied call that programs know how to do without says ENOSYS rather than EPERM.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from otpd.agents.sandbox import bpf, kernel, syscalls
from otpd.agents.sandbox.bpf import ALLOW, ERRNO, KILL_PROCESS, Block, Op, any_bit, argument, equal, mask, verdict

VERSION: Final = 2

_DENIED: Final = tuple(
    """
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime create_module delete_module fanotify_init fanotify_mark
    finit_module fsconfig fsmount fsopen fspick get_kernel_syms init_module ioperm iopl kcmp kexec_file_load kexec_load
    keyctl lookup_dcookie lsm_set_self_attr mbind memfd_secret migrate_pages modify_ldt mount mount_setattr move_mount
    move_pages name_to_handle_at nfsservctl open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd
    pivot_root process_madvise query_module quotactl quotactl_fd reboot request_key set_mempolicy
    set_mempolicy_home_node setdomainname sethostname setns settimeofday swapoff swapon sysfs _sysctl syslog umount2
    uselib userfaultfd ustat vhangup file_setattr
    """.split()  # noqa: SIM905
)
_TRACING: Final = ("ptrace", "process_vm_readv", "process_vm_writev")
#: Programs and libc fall back to something else.
_MISSING: Final = (
    "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "clone3", "openat2", "statmount", "listmount",
    "lsm_get_self_attr", "lsm_list_modules",
)  # fmt: skip
_IPC: Final = ("shmget", "semget", "msgget", "mq_open")

_NAMESPACES: Final = (
    kernel.CLONE_NEWNS | kernel.CLONE_NEWCGROUP | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
)  # fmt: skip
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_MAY_CREATE: Final = 0o100 | 0o20000000  # O_CREAT, and the bit of O_TMPFILE that is not O_DIRECTORY

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_STREAM, _DATAGRAM = 1, 2
#: IP, ICMP (ping without privileges), TCP, UDP, ICMPv6.
_PROTOCOLS: Final = (0, 1, 6, 17, 58)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
#: FS_IOC_RESVSP, FS_IOC_RESVSP64, FS_IOC_ZERO_RANGE: fallocate() by another name.
_RESERVE: Final = (0x40305828, 0x4030582A, 0x40305839)
_PUNCH_HOLE: Final = 3  # with FALLOC_FL_KEEP_SIZE, without which there is none
_F_SETLEASE, _F_NOTIFY = 1024, 1026
_LOCK_UN: Final = 8
_REAL_TIME: Final = (1, 2, 6)  # SCHED_FIFO, SCHED_RR, SCHED_DEADLINE
#: PER_LINUX, PER_LINUX32 (of `setarch`), both with UNAME26, and the question "which?".
_PERSONALITIES: Final = (0, 8, 0x20000, 0x20008, 0xFFFF_FFFF)
_NO_RANDOMIZE: Final = 0x0040000


@dataclass(frozen=True, slots=True)
class Policy:
    """What differs from one sandbox to the next."""

    debug: bool = False  # ptrace and its relatives among the command's own processes
    unix_sockets: bool = False
    memfd: bool = True  # False: nothing else would count such memory
    locks: bool = True  # False: flock() is refused, because it would hold files that others outside use
    special_files: bool = True  # False: nothing else would keep FIFOs and sockets out of granted directories
    ipc: bool = True  # False: nothing else bounds System V and POSIX IPC, or keeps it inside
    own_pids: bool = True  # False: the command sees other processes and must be kept from touching them
    internet: bool = True  # False: no network, and no network namespace to be alone in


def program(policy: Policy, machine: str) -> bytes:
    """The filter, as an array of struct sock_filter. KeyError for an architecture without a table."""
    known = syscalls.numbers(machine)
    answers = {**_answers(policy), **_rules(policy)}
    blocks = [_block(known[name], checks) for name, checks in answers.items() if name in known]
    return bpf.assemble(_head(machine), blocks, verdict(ALLOW))


def _head(machine: str) -> list[Op]:
    x32 = [bpf.at_least(syscalls.X32_BIT, "kill")] if machine == "x86_64" else []
    return [
        bpf.load(bpf.ARCHITECTURE),
        equal(syscalls.AUDIT_ARCH[machine], "", "kill"),
        bpf.load(bpf.NUMBER),
        *x32,
        bpf.at_least(syscalls.LAST + 1, "unknown", "end"),
        verdict(ERRNO | errno.ENOSYS, "unknown"),
        verdict(KILL_PROCESS, "kill"),
    ]


def _answers(policy: Policy) -> dict[str, list[Op]]:
    """The calls that are answered without a look at their arguments."""
    denied = [*_DENIED, *(() if policy.debug else _TRACING), *(() if policy.ipc else _IPC)]
    missing = [*_MISSING, *(() if policy.memfd else ("memfd_create",))]
    return {
        **{name: [verdict(ERRNO | errno.EPERM, "deny")] for name in denied},
        **{name: [verdict(ERRNO | errno.ENOSYS, "deny")] for name in missing},
    }


def _block(number: int, checks: list[Op]) -> Block:
    """`checks` jump to "deny" or "allow"; at their end the call is allowed. What "deny" says is EPERM unless they say it."""
    refused = next((op.value for op in checks if op.place == "deny"), ERRNO | errno.EPERM)
    body = [op for op in checks if op.place != "deny"]
    if not body:
        return Block(number, [equal(number, "", "end"), verdict(refused)])
    return Block(number, [equal(number, "", "end"), *body, verdict(ALLOW, "allow"), verdict(refused, "deny")])


def _rules(policy: Policy) -> dict[str, list[Op]]:
    rules = {
        "clone": [argument(0), any_bit(_NAMESPACES, "deny")],
        "unshare": [argument(0), any_bit(_NAMESPACES | kernel.CLONE_NEWTIME, "deny")],
        "socket": _socket(policy),
        "socketpair": [argument(0), equal(_AF_UNIX, "allow", "deny")],
        "ioctl": [argument(1), *(equal(each, "deny") for each in (_TIOCSTI, _TIOCLINUX, *_RESERVE))],
        # A disk is full of what was reserved before any watch has looked; libc writes zeros instead.
        "fallocate": [argument(1), equal(_PUNCH_HOLE, "allow", "deny"), verdict(ERRNO | errno.EOPNOTSUPP, "deny")],
        "prlimit64": [argument(0), equal(0, "allow", "deny")],  # its init has the same uid
        "personality": [argument(0), *_only(_PERSONALITIES + ((_NO_RANDOMIZE,) if policy.debug else ()))],
        "sched_setscheduler": _no_real_time(),
        "fcntl": [argument(1), equal(_F_SETLEASE, "deny"), equal(_F_NOTIFY, "deny")],
        **_modes(policy),
    }
    if not policy.locks:
        rules["flock"] = [argument(1), any_bit(_LOCK_UN, "allow", "deny"), verdict(ERRNO | errno.EOPNOTSUPP, "deny")]
    return rules if policy.own_pids else rules | _among_strangers()


def _no_real_time() -> list[Op]:
    return [argument(1), mask(0xFFFF), *(equal(each, "deny") for each in _REAL_TIME)]


def _only(values: Sequence[int]) -> list[Op]:
    return [*(equal(each, "allow") for each in values[:-1]), equal(values[-1], "allow", "deny")]


def _socket(policy: Policy) -> list[Op]:
    refused = verdict(ERRNO | errno.EAFNOSUPPORT, "deny")
    unix = equal(_AF_UNIX, "allow" if policy.unix_sockets else "deny")
    if not policy.internet:
        return [argument(0), unix, equal(_AF_NETLINK, "", "deny"), argument(2), equal(0, "allow", "deny"), refused]
    return [
        argument(0),
        unix,
        equal(_AF_INET, "internet"),
        equal(_AF_INET6, "internet"),
        equal(_AF_NETLINK, "", "deny"),
        argument(2),
        equal(0, "allow", "deny"),  # NETLINK_ROUTE: to list one's own interfaces
        argument(1, "internet"),
        mask(0xF),
        equal(_STREAM, "protocol"),
        equal(_DATAGRAM, "protocol", "deny"),
        argument(2, "protocol"),
        *_only(_PROTOCOLS),
        refused,
    ]


def _modes(policy: Policy) -> dict[str, list[Op]]:
    """No set-user-id file, no device. A file that is made in a granted directory is a file of the host."""
    kinds = [stat.S_IFCHR, stat.S_IFBLK, *(() if policy.special_files else (stat.S_IFIFO, stat.S_IFSOCK))]

    def opens(flags: int) -> list[Op]:
        """The mode counts only where something may be made; else the register holds whatever was there."""
        return [argument(flags), any_bit(_MAY_CREATE, "", "allow"), argument(flags + 1), any_bit(_SET_ID, "deny")]

    def makes(mode: int) -> list[Op]:
        return [
            argument(mode),
            any_bit(_SET_ID, "deny"),
            mask(stat.S_IFMT(0xFFFF)),
            *(equal(kind, "deny") for kind in kinds),
        ]

    def changes(mode: int) -> list[Op]:
        return [argument(mode), any_bit(_SET_ID, "deny")]

    return {
        "chmod": changes(1), "fchmod": changes(1), "fchmodat": changes(2), "fchmodat2": changes(2), "creat": changes(1),
        "open": opens(1), "openat": opens(2), "mknod": makes(1), "mknodat": makes(2),
    }  # fmt: skip


def _among_strangers() -> dict[str, list[Op]]:
    """Without a pid namespace: limits and priorities of oneself only (0)."""
    first = [argument(0), equal(0, "allow", "deny")]
    own = [argument(0), equal(0, "", "deny"), argument(1), equal(0, "allow", "deny")]  # PRIO_PROCESS, self
    own_io = [argument(0), equal(1, "", "deny"), argument(1), equal(0, "allow", "deny")]  # IOPRIO_WHO_PROCESS, self
    return {
        "sched_setparam": first, "sched_setattr": first, "sched_setaffinity": first,
        "sched_setscheduler": [argument(0), equal(0, "", "deny"), *_no_real_time()],
        "setpriority": own, "ioprio_set": own_io,
    }  # fmt: skip
