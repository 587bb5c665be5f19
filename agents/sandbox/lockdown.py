"""The command's own process, from its fork to the exec: it gives away, step by step, what a command must not have.

Forked ahead of its run (`prepare`), then told what to run (`run`). Nothing here trusts what comes after exec; nothing
here is needed after it. Runs inside the sandbox, in the interpreter of the nest; `_nest.c` does the same steps in the
same order.
"""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from otpd.agents.sandbox import kernel, records
from otpd.agents.sandbox.records import Kind, Record, Report, Step, Word

#: Where the process keeps its socket, /proc of the nest while it needs it, and what outlives it. 0 to 2 are the command's.
SOCKET, PROC, KEEP, FREE = 3, 4, 5, 6
#: The order in which the records of a run are carried out: rights go last, so that each step still may do its work.
_ORDER = (Kind.DIRECTORY_OF_WORK, Kind.FILE, Kind.LIMIT, Kind.LANDLOCK, Kind.FILTER)


class StepFailed(Exception):
    """Args: Report."""


def failed(step: Step, error: OSError, index: int = 0) -> StepFailed:
    return StepFailed(Report(Word.FAILED, step, index, error.errno or errno.EIO))


def attempt(step: Step, index: int, call: Callable[..., object], *args: object) -> None:
    try:
        call(*args)
    except OSError as error:
        raise failed(step, error, index) from error


def packet_socket(fd: int) -> socket.socket:
    """The socket at a descriptor, without asking the kernel what it is."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)


def prepare(base: list[Record]) -> int:
    """Own session, own user namespace without a way to another one. Bits: which USER_SYSCTL could not be set."""
    os.setsid()
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else it may not write to its own /proc/self; nobody is there to make use of it
    fresh_signals()
    unset = 0
    for record in base:
        if record.kind == Kind.IDENTITY:
            attempt(Step.NAMESPACE, 0, _own_user_namespace, records.one_number(record.payload))
        elif record.kind == Kind.NICE:
            os.nice(records.one_number(record.payload))
        elif record.kind == Kind.OUT_OF_MEMORY:
            attempt(Step.LIMIT, 0, write_at, PROC, "self/oom_score_adj", str(records.one_number(record.payload)))
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    for position, record in enumerate(each for each in base if each.kind == Kind.USER_SYSCTL):
        path, value = records.texts(record.payload)
        unset |= 0 if write_sysctl(path, value) else 1 << position
    try:
        kernel.drop_bounding_set()
    except OSError as error:
        if error.errno != errno.EPERM:
            raise failed(Step.PRIVILEGES, error) from error
    return unset


def _own_user_namespace(identity: int) -> None:
    outside = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER)
    uid, gid = identity >> 32, identity & 0xFFFF_FFFF
    write_at(PROC, "self/setgroups", "deny")
    write_at(PROC, "self/uid_map", f"{uid} {outside[0]} 1")
    write_at(PROC, "self/gid_map", f"{gid} {outside[1]} 1")


def write_sysctl(path: str, value: str) -> bool:
    try:
        write_at(PROC, f"sys/{path}", value)
    except OSError:
        return False
    return True


def write_at(directory: int, path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def serve(base: list[Record]) -> NoReturn:
    """The life of the process: prepare, wait for the run, become the command. Every failure is reported on SOCKET."""
    link = packet_socket(SOCKET)
    try:
        unset = prepare(base)
        _rehearse()
        link.send(Report(Word.READY, Step.NONE, 0, 0, pid=unset).pack())
        _, fds, _, _ = socket.recv_fds(link, 1, 4)
        if len(fds) == 4:
            _become(fds, any(record.kind == Kind.PRIVATE_MOUNTS for record in base))
    except StepFailed as failure:
        link.send(failure.args[0].pack())
    except (OSError, ValueError) as error:
        link.send(Report(Word.FAILED, Step.PROTOCOL, 0, getattr(error, "errno", 0) or errno.EPROTO).pack())
    os._exit(127)


def _become(fds: list[int], private_mounts: bool) -> None:
    plan = _read_plan(fds[0])
    for target, fd in enumerate(fds[1:]):
        os.dup2(fd, target, inheritable=True)
    if private_mounts:
        attempt(Step.NAMESPACE, 0, _own_mounts)
    kernel.close_from(PROC)
    os.umask(0o022)
    attempt(Step.PRIVILEGES, 0, kernel.drop_capabilities)
    attempt(Step.PRIVILEGES, 0, kernel.no_new_privileges)
    for kind in _ORDER:
        for index, record in plan:
            if record.kind == kind:
                _carry_out(index, record, plan)
    _start(plan)


def _own_mounts() -> None:
    """Mounts of its own, in which nothing of the slot's can be undone.

    Their namespace is kept by a descriptor on its way through a socket that nobody reads, so that it is taken apart when the
    init ends and not, while somebody waits, when the command does.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    try:
        mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return  # without a /proc it takes longer
    socket.send_fds(packet_socket(KEEP), [b"+"], [mounts])


def _read_plan(fd: int) -> list[tuple[int, Record]]:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        return list(enumerate(records.read(data), 1))


def fresh_signals() -> None:
    """Nothing is ignored or blocked, whatever the interpreter that starts the command likes."""
    for number in range(1, signal.NSIG):
        if number in kernel.LIBC_SIGNALS:
            kernel.default_signal(number)
        elif number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _carry_out(index: int, record: Record, plan: list[tuple[int, Record]]) -> None:
    match record.kind:
        case Kind.DIRECTORY_OF_WORK:
            attempt(Step.DIRECTORY, index, os.chdir, os.fsdecode(record.payload[:-1]))
        case Kind.FILE:
            path, content = records.one_file(record.payload)
            attempt(Step.FILE, index, write_file, path, content, record.flags)
        case Kind.LIMIT:
            attempt(Step.LIMIT, index, _limit, *records.one_limit(record.payload))
        case Kind.LANDLOCK:
            attempt(Step.LANDLOCK, index, _landlock, record, plan)
        case Kind.FILTER:
            attempt(Step.SECCOMP, index, kernel.seccomp_filter, record.payload)


def write_file(path: str, content: bytes, mode: int) -> None:
    if os.path.dirname(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(fd, "wb") as file:
        file.write(content)


def _limit(which: int, soft: int, hard: int) -> None:
    """A limit is lowered, never raised over what the host allows itself."""
    ceiling = resource.getrlimit(which)[1]
    if ceiling != resource.RLIM_INFINITY:
        soft, hard = min(soft, ceiling), min(hard, ceiling)
    resource.setrlimit(which, (soft, hard))


def _landlock(record: Record, plan: list[tuple[int, Record]]) -> None:
    ruleset = kernel.landlock_ruleset(*records.one_landlock(record.payload))
    for _, each in plan:
        if each.kind == Kind.ALLOW:
            rights, path = records.one_allow(each.payload)
            try:
                kernel.landlock_allow(ruleset, path, rights)
            except FileNotFoundError:
                continue  # what is not there can't be reached either
    kernel.landlock_restrict(ruleset)
    os.close(ruleset)


def _start(plan: list[tuple[int, Record]]) -> NoReturn:
    """Becomes the command, or says why not."""
    arguments = [record.payload[:-1] for _, record in plan if record.kind == Kind.ARGUMENT]
    variables = [record.payload[:-1] for _, record in plan if record.kind == Kind.VARIABLE]
    for _, record in plan:
        if record.kind == Kind.CODE:
            _run_code(record.payload, arguments, variables)
    raise StepFailed(_try_programs(plan, arguments, _environment(variables)))


def _try_programs(plan: list[tuple[int, Record]], arguments: list[bytes], environment: dict[bytes, bytes]) -> Report:
    """Does not return when one of the paths can be executed. EACCES wins over ENOENT, as in a shell."""
    problem, place = errno.ENOENT, 0
    for index, record in plan:
        if record.kind != Kind.PROGRAM:
            continue
        try:
            os.execve(record.payload[:-1], arguments, environment)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                problem, place = error.errno or errno.EIO, index
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
                break
    return Report(Word.FAILED, Step.EXEC, place, problem)


def _rehearse() -> None:
    """Do once what a run will do, without effect: the memory that it writes to is copied now, while nobody waits.

    A forked interpreter shares its memory until it touches it, and it touches what it only reads.
    """
    sample = [
        records.text(Kind.DIRECTORY_OF_WORK, "."),
        records.limit(resource.RLIMIT_CORE, 0, 0),
        records.text(Kind.ARGUMENT, "sample"),
        records.text(Kind.VARIABLE, "sample=1"),
        records.text(Kind.PROGRAM, "/no/such/program"),
    ]
    fd = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    os.write(fd, b"".join(sample))
    plan = _read_plan(fd)
    os.close(fd)
    for kind in _ORDER:
        for index, record in plan:
            if record.kind == kind:
                _carry_out(index, record, plan)
    _try_programs(plan, [b"sample"], _environment([b"sample=1"]))
    if kernel.landlock_abi():
        ruleset = kernel.landlock_ruleset(1, 0, 0)
        kernel.landlock_allow(ruleset, "/", 1)
        os.close(ruleset)


def _environment(variables: list[bytes]) -> dict[bytes, bytes]:
    return {name: value for name, _, value in (variable.partition(b"=") for variable in variables)}


def _run_code(code: bytes, arguments: list[bytes], variables: list[bytes]) -> NoReturn:
    """Run Python source in this interpreter, which has run nothing else before."""
    from otpd.agents.sandbox import snippet

    os.close(SOCKET)
    os.environ.clear()
    os.environb.update(_environment(variables))
    sys.argv[:] = [os.fsdecode(each) for each in arguments]
    snippet.run(code)
