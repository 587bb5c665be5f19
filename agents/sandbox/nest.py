"""The nest: pid 1 of a worker's namespaces. It makes slots, one for each command, and does nothing else.

A slot is an *init* (pid 1 of its own pid namespace, with its own mounts and IPC) and the process that will become the
command. Both exist before the command is known; the worker outside speaks to the init over one socket:

    init -> worker   Ready, with descriptors of the command's process and of the slot's /proc
    worker -> init   one packet, with descriptors: plan, stdin, stdout, stderr, mounts
    init -> worker   Ended (status and use of everything that ran), or Failed (which step, which record, errno)

When the command ends, its init kills and reaps all that is left, and goes; the kernel kills whatever is in the
namespace of an init that goes. When the nest goes, every slot goes. Runs by itself (`bundle`); `_nest.c` is the same in
C.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import mmap
import os
import resource
import signal
import socket
from collections.abc import Iterator
from typing import NoReturn

from otpd.agents.sandbox import family, kernel, lockdown, records
from otpd.agents.sandbox.lockdown import FREE, KEEP, PROC, SOCKET, attempt
from otpd.agents.sandbox.records import Kind, Record, Report, Step, Word

_SLOT = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
MS_NOEXEC = 8
#: What a nest says first. The number changes with everything that it and its worker must agree upon; _nest.c has it, too.
GREETING = b"nest 1"
_RUN_FDS = 250  # SCM_MAX_FD is 253
_BUILDING = frozenset(
    {Kind.NEW_ROOT, Kind.DIRECTORY, Kind.LINK, Kind.BIND, Kind.TMPFS, Kind.PROC, Kind.SEAL, Kind.PIVOT}
)  # fmt: skip
_STRICT = kernel.RESOLVE_NO_SYMLINKS | kernel.RESOLVE_NO_MAGICLINKS


def serve(control: socket.socket, proc: int, base: list[Record], *, namespaces: bool = True) -> NoReturn:
    """Makes a slot for each socket that arrives; answers with a pidfd of its init. Ends with its worker."""
    control.send(GREETING)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if namespaces:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # slots are reaped by the kernel
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not data or not fds:
                _leave()
            _make_slot(control, fds[0], proc, base, _SLOT if namespaces else 0)
        except ConnectionError:
            _leave()


def _leave() -> NoReturn:
    """The worker is gone. What a namespace would take with it is ended by hand where there is none."""
    while os.getpid() != 1 and any(family.descendants(os.getpid())):
        family.end(os.getpid())
    os._exit(0)


def _make_slot(control: socket.socket, slot: int, proc: int, base: list[Record], flags: int) -> None:
    pid = kernel.clone(flags)
    if pid == 0:
        try:
            be_init(slot, proc, base)
        except ConnectionError:
            os._exit(0)  # the worker needs it no more
        finally:
            os._exit(1)
    os.close(slot)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(control, [b"+"], [pidfd])
    os.close(pidfd)


def be_init(slot: int, proc: int, base: list[Record]) -> NoReturn:
    """The life of a slot's init. It reports what fails, and never returns."""
    for each in (signal.SIGCHLD, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    _arrange(slot, proc)
    link = lockdown.packet_socket(SOCKET)
    try:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        if os.getpid() != 1:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        unset = build(base)
        command, pid = _fork_command(base)
        _run(link, command, pid, base, unset)
    except lockdown.StepFailed as failure:
        link.send(failure.args[0].pack())
    except ConnectionError:
        raise
    except (OSError, ValueError) as error:
        number = getattr(error, "errno", 0) or errno.EPROTO
        link.send(Report(Word.FAILED, Step.PROTOCOL, 0, number).pack())
    os._exit(0)


def _arrange(slot: int, proc: int) -> None:
    """SOCKET and PROC at their places, nothing else open."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, FREE) if fd >= 0 else -1 for fd in (slot, proc)]
    os.dup2(high[0], SOCKET, inheritable=False)
    if high[1] >= 0:
        os.dup2(high[1], PROC, inheritable=False)
    kernel.close_from(KEEP if high[1] >= 0 else PROC)


# --- the root of a slot ---


def build(base: list[Record]) -> int:
    """Carry out the base plan. Bits: which SYSCTL could not be set."""
    unset = count = 0
    trees = open_sources(base)
    for index, record in enumerate(base, 1):
        if record.kind == Kind.SYSCTL:
            unset |= 0 if lockdown.write_sysctl(*records.texts(record.payload)) else 1 << count
            count += 1
        else:
            build_one(index, record, trees)
    return unset


def open_sources(plan: list[Record]) -> dict[int, int]:
    """What BIND records name, opened before anything is mounted over it: position of the record to tree."""
    found = {}
    for index, record in enumerate(plan, 1):
        if record.kind == Kind.BIND:
            attempt(
                Step.ROOT, index, lambda i=index, r=record: found.update({i: kernel.open_tree(records.texts(r.payload)[0])})
            )
    return found


def build_one(index: int, record: Record, trees: dict[int, int]) -> None:
    attempt(Step.ROOT, index, _build_one, record, trees.get(index, -1))


def _build_one(record: Record, tree: int) -> None:
    if record.kind not in _BUILDING:
        return
    match Kind(record.kind), records.texts(record.payload):
        case Kind.NEW_ROOT, [stage, options]:
            kernel.mount("tmpfs", stage, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
            os.chdir(stage)
        case Kind.DIRECTORY, [path]:
            os.makedirs(path, record.flags, exist_ok=True)
        case Kind.LINK, [path, target]:
            os.symlink(target, path)  # noqa: PTH211
        case Kind.BIND, [_, path]:
            attach(tree, path, file=bool(record.flags))
        case Kind.TMPFS, [path, options]:
            os.makedirs(path, exist_ok=True)
            kernel.mount("tmpfs", path, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
        case Kind.PROC, [path]:
            os.makedirs(path, exist_ok=True)
            kernel.mount("proc", path, "proc", kernel.MS_NOSUID | kernel.MS_NODEV | MS_NOEXEC)
        case Kind.SEAL, [path]:
            _seal(path)
        case Kind.PIVOT, _:
            kernel.pivot_here()


def _seal(path: str) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    sealed = kernel.open_tree("", at=place)
    kernel.mount_setattr(sealed, "", kernel.MOUNT_ATTR_RDONLY)
    kernel.move_mount(sealed, place)
    os.close(place)
    os.close(sealed)


def attach(tree: int, path: str, *, file: bool) -> None:
    """Mount `tree` at `path`, which is made if it is missing. Closes `tree`."""
    parent = os.path.dirname(path) if file else path
    if parent:
        os.makedirs(parent, exist_ok=True)
    if file and not os.path.lexists(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    place = kernel.openat2(kernel.AT_FDCWD, path, os.O_PATH, _STRICT)
    kernel.move_mount(tree, place)
    os.close(place)
    os.close(tree)


# --- one run ---


def _fork_command(base: list[Record]) -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept, keep = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            for end, place in ((theirs, SOCKET), (keep, KEEP)):
                os.dup2(end.fileno(), place, inheritable=False)
            for end in (ours, theirs, kept, keep):
                end.detach()
            kernel.close_from(FREE)
            lockdown.serve(base)
        finally:
            os._exit(127)  # an error must not go on as the init
    theirs.close()
    keep.close()
    kept.detach()  # open until the end of the init
    return ours, pid


def _run(link: socket.socket, command: socket.socket, pid: int, base: list[Record], unset: int) -> None:
    prepared = _heard(command)
    if prepared is None or prepared.word is Word.FAILED:
        raise lockdown.StepFailed(prepared or Report(Word.FAILED, Step.PROTOCOL, 0, errno.ESRCH))
    _rehearse(pid)
    _say_ready(link, pid, Report(Word.READY, Step.NONE, 0, 0, status=unset, pid=prepared.pid))
    data, fds, _, _ = socket.recv_fds(link, 1, _RUN_FDS)
    if not data or len(fds) < 4:
        os._exit(0)
    _attach_grants(fds[0], fds[4:])
    for record in base:
        if record.kind == Kind.READ_ONLY:
            path = os.fsdecode(record.payload[:-1])
            attempt(Step.ROOT, 0, _read_only, path)
    try:
        socket.send_fds(command, [b"+"], fds[:4])
    except ConnectionError as error:  # it was killed while it waited
        raise lockdown.failed(Step.PROTOCOL, error) from error
    for fd in fds[:4]:
        os.close(fd)
    status = _outlive(pid)
    link.send((_last_words(command) or _ended(status, pid)).pack())


def _rehearse(pid: int) -> None:
    """As the command's process does (`lockdown`), and for the same reason."""
    fd = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    os.write(fd, records.text(Kind.ARGUMENT, "sample"))
    _attach_grants(fd, [])
    os.close(fd)
    _ended(0, pid).pack()


def _say_ready(link: socket.socket, pid: int, report: Report) -> None:
    fds = [os.pidfd_open(pid)]
    try:
        fds.append(os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError:
        pass  # a view without it; whoever watches looks from outside then
    socket.send_fds(link, [report.pack()], fds)
    for fd in fds:
        os.close(fd)


def _heard(command: socket.socket) -> Report | None:
    data = command.recv(4096)
    return Report.unpack(data) if data else None


def _last_words(command: socket.socket) -> Report | None:
    """What the process said before it ended without having become the command."""
    try:
        data = command.recv(4096, socket.MSG_DONTWAIT)
    except OSError:
        return None
    return Report.unpack(data) if data else None


def _attach_grants(plan: int, trees: list[int]) -> None:
    for index, record in _plan_records(plan):
        if record.kind == Kind.MOUNT:
            which, target = records.one_mount(record.payload)
            attempt(Step.MOUNT, index, functools.partial(attach, trees[which], target, file=bool(record.flags)))
        elif record.kind == Kind.PROTECT:
            attempt(Step.PROTECT, index, _protect, *records.texts(record.payload))
        else:
            return  # they stand at the beginning


def _plan_records(fd: int) -> Iterator[tuple[int, Record]]:
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
        yield from enumerate(records.read(data), 1)


def _protect(grant: str, path: str) -> None:
    """`path` beneath `grant` becomes read-only. Each directory between is mounted on itself: what is a mount can't be moved.

    No step follows a symbolic link: commands write there.
    """
    top = kernel.openat2(kernel.AT_FDCWD, grant, os.O_PATH | os.O_DIRECTORY, _STRICT)
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        place = kernel.openat2(top, "/".join(parts[:depth]), os.O_PATH, _STRICT | kernel.RESOLVE_BENEATH)
        tree = kernel.open_tree("", at=place)
        if depth == len(parts):
            kernel.mount_setattr(tree, "", kernel.MOUNT_ATTR_RDONLY)
        kernel.move_mount(tree, place)
        os.close(place)
        os.close(tree)
    os.close(top)


def _read_only(path: str) -> None:
    kernel.mount_setattr(kernel.AT_FDCWD, path, kernel.MOUNT_ATTR_RDONLY, recursive=False)


def _outlive(pid: int) -> int:
    """The wait status of `pid`. Afterwards nothing else of the slot is alive."""
    found, status = os.waitpid(-1, 0)
    while found != pid:
        found, status = os.waitpid(-1, 0)
    try:
        while True:
            _end_all()
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass  # who has died meanwhile needs no other round
    except ChildProcessError:
        return status


def _end_all() -> None:
    """-1 is what runs in the namespace whose pid 1 we are; without one it would be half the machine."""
    if os.getpid() != 1:
        family.end(os.getpid())
        return
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _ended(status: int, pid: int) -> Report:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    times = int(used.ru_utime * 1_000_000), int(used.ru_stime * 1_000_000)
    return Report(Word.ENDED, Step.NONE, 0, 0, status, pid, *times, used.ru_maxrss)
