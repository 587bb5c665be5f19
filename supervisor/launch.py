"""What a new process does between its birth and the code that it is for: the child side of every launch.

Two ways of starting a worker use it: `blank` (forked ahead by the zygote) and `execspawn` (forked by root); the third,
`nativespawn`, has its own steps in C, in the same order and with the same words. Nothing here decides whether or when a
worker starts. The order of the steps is the contract: each may fail, and the failure is a LaunchError of one line that
names the thing that was wrong.

Guarantees to the user's code: working directory, umask, limits, environment and user as asked; the default signal
dispositions and an empty mask; descriptors 0 (/dev/null), 1 and 2 (one pipe) and those that are passed on purpose;
SIGKILL when root dies.
"""

from __future__ import annotations

import errno
import functools
import os
import pwd
import resource
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NoReturn

from otpd.ipc.frames import pack
from otpd.supervisor import linux
from otpd.supervisor.spec import Kind, Launch, Limits, SpawnPolicy

#: The cookie: in the environment of every process of a node.
NODE: Final = "OTPD_NODE"
CHILD: Final = "OTPD_CHILD"
GENERATION: Final = "OTPD_GENERATION"
#: Path of the node's control socket, for programs that ask it something.
CONTROL: Final = "OTPD_CONTROL"
#: Descriptors of an agent: the channel to root, and a file with what `Agent` needs to know.
CONTROL_FD: Final = "OTPD_CONTROL_FD"
JOB_FD: Final = "OTPD_JOB_FD"
#: What is left of the memory that the zygote reserves for the cookie.
RESERVED: Final = "OTPD_RESERVED"
#: Keeps setproctitle in descendants from overwriting the cookie.
KEEP_ENVIRON: Final = "SPT_NOENV"

_LIMITS: Final = {
    "memory": resource.RLIMIT_AS,
    "files": resource.RLIMIT_NOFILE,
    "cpu": resource.RLIMIT_CPU,
    "processes": resource.RLIMIT_NPROC,
    "core": resource.RLIMIT_CORE,
}
_MAX_FD: Final = 1 << 30
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class LaunchError(Exception):
    """A process could not be set up; one line that names what was wrong."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one incarnation proves itself with (docs/protocol.md, 1). Secret: never in argv, environment or a log."""

    life: int
    identity: bytes = field(repr=False)
    token: bytes = field(repr=False)
    broker: tuple[str, str] | None  # epoch, endpoint
    runtime: str  # the runtime directory


def fresh_secrets() -> tuple[bytes, bytes]:
    """(identity, token) that nobody else has had. ZeroMQ keeps identities that begin with 0 to itself."""
    random = os.urandom(48)
    return (random[:16] if random[0] else b"\1" + random[1:16]), random[16:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One incarnation of a worker, as it is told to the process that becomes it."""

    name: str
    generation: int
    kind: Kind
    node: str
    root_pid: int
    script: str | None = None
    command: tuple[str, ...] | None = None
    argv: tuple[str, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    user: str | None = None
    umask: int | None = None
    limits: Limits = field(default_factory=Limits)
    stop_signal: int = signal.SIGTERM
    watchdog: float | None = None
    spawn: SpawnPolicy = "allow"
    cgroup: str | None = None  # directory of its own cgroup
    notify: str | None = None  # path of the node's sd_notify socket
    credentials: Credentials | None = None  # of those that speak


def job_of(
    launch: Launch,
    name: str,
    generation: int,
    node: str,
    root_pid: int,
    cgroup: str | None = None,
    notify: str | None = None,
    credentials: Credentials | None = None,
) -> Job:
    """The job of one incarnation of `launch`."""
    return Job(
        name=name,
        generation=generation,
        kind=launch.kind,
        node=node,
        root_pid=root_pid,
        script=launch.script,
        command=launch.command,
        argv=launch.argv,
        args=launch.args,
        env=launch.env,
        cwd=launch.cwd,
        user=launch.user,
        umask=launch.umask,
        limits=launch.limits,
        stop_signal=int(launch.stop_signal),
        watchdog=launch.watchdog,
        spawn=launch.spawn,
        cgroup=cgroup,
        notify=notify,
        credentials=credentials,
    )


_JOB_FIELDS: Final = tuple(each.name for each in fields(Job))
_LIMIT_FIELDS: Final = tuple(each.name for each in fields(Limits))
_CREDENTIALS: Final = tuple(each.name for each in fields(Credentials))


def to_wire(job: Job) -> dict[str, Any]:
    """A plain map for msgpack; `from_wire` is its inverse."""
    wire: dict[str, Any] = {name: getattr(job, name) for name in _JOB_FIELDS}
    wire["limits"] = {name: getattr(job.limits, name) for name in _LIMIT_FIELDS}
    wire["credentials"] = None if job.credentials is None else _credentials_to_wire(job.credentials)
    return wire


def _credentials_to_wire(own: Credentials) -> dict[str, Any]:
    return {name: getattr(own, name) for name in _CREDENTIALS}


def from_wire(data: Mapping[str, Any]) -> Job:
    command = data.get("command")
    return Job(
        **{
            **data,
            "command": None if command is None else tuple(command),
            "argv": tuple(data.get("argv", ())),
            "limits": Limits(**data.get("limits", {})),
            "credentials": _credentials_from_wire(data.get("credentials")),
        }
    )


def _credentials_from_wire(data: dict[str, Any] | None) -> Credentials | None:
    if data is None:
        return None
    broker = data["broker"]
    return Credentials(**{**data, "broker": None if broker is None else (broker[0], broker[1])})


def job_document(job: Job) -> int:
    """A file descriptor (close-on-exec, in memory) from which an agent reads what it is; msgpack."""
    document = {key: getattr(job, key) for key in ("name", "generation", "args", "watchdog", "stop_signal", "spawn")}
    if job.credentials is not None:
        document |= _credentials_to_wire(job.credentials)
    fd = os.memfd_create("otpd-job", os.MFD_CLOEXEC)
    os.write(fd, pack(document))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def environment(job: Job, base: Mapping[str, str]) -> dict[str, str]:
    """The complete environment of `job`: `base` (root's own), what the job adds, and the cookie."""
    env = {key: value for key, value in base.items() if key not in (CONTROL_FD, JOB_FD, RESERVED, "NOTIFY_SOCKET")}
    env[KEEP_ENVIRON] = "1"
    if job.user is not None:
        env |= _identity(job.user)
    env |= job.env
    if job.notify is not None:
        env["NOTIFY_SOCKET"] = job.notify
    return env | {NODE: job.node, CHILD: job.name, GENERATION: str(job.generation)}


def _identity(user: str) -> dict[str, str]:
    """What login sets; an unknown user is reported by the step that changes to it."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def refuse_nul(job: Job, env: Mapping[str, str]) -> None:
    """LaunchError for a string that no exec can carry."""
    strings = (*(job.command or ()), *job.argv, job.cwd, *env.keys(), *env.values())
    if "\0" not in "".join(strings):
        return
    for key, value in env.items():
        if "\0" in key + value:
            raise LaunchError(f"variable {key!r} has a NUL byte, which no environment can carry")
    raise LaunchError(f"argument with a NUL byte: {next(each for each in strings if chr(0) in each)!r}")


# --- the steps, in their order ---


def enter(job: Job, stdout_fd: int) -> None:
    """Everything but the environment, for a process that already leads its session. LaunchError says what failed."""
    if job.cgroup is not None:
        join_cgroup(job.cgroup)
    if job.umask is not None:
        os.umask(job.umask)
    set_limits(job.limits)
    change_directory(job.cwd)
    redirect(stdout_fd)
    if job.user is not None:
        change_user(job.user)
    bind_to(job.root_pid)


def join_cgroup(directory: str) -> None:
    try:
        with open(os.path.join(directory, "cgroup.procs"), "wb", buffering=0) as file:
            file.write(b"0")
    except OSError as error:
        raise LaunchError(f"cgroup {directory}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Limit:
    """What setrlimit gets for one of the limits of a job."""

    name: str
    kind: int
    soft: int
    hard: int

    def refused(self, why: object) -> str:
        allowed = resource.getrlimit(self.kind)[1]
        return f"limit {self.name} = {self.soft}: {why}; the hard limit here is {allowed}"


def limits_of(limits: Limits) -> tuple[Limit, ...]:
    """Those that are asked for."""
    asked = [
        _limit(name, kind, value) for name, kind in _LIMITS.items() if (value := getattr(limits, name)) is not None
    ]
    if limits.files is None and limits.files_soft is not None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        asked.append(Limit("files", resource.RLIMIT_NOFILE, limits.files_soft, hard))
    return tuple(asked)


def _limit(name: str, kind: int, value: int) -> Limit:
    """Soft and hard alike; for cpu one second more, so that SIGXCPU comes before SIGKILL."""
    hard = value + 1 if kind == resource.RLIMIT_CPU else value
    allowed = resource.getrlimit(kind)[1]
    if allowed != resource.RLIM_INFINITY:
        hard = min(hard, allowed) if value <= allowed else hard
    return Limit(name, kind, value, hard)


def set_limits(limits: Limits) -> None:
    for limit in limits_of(limits):
        try:
            resource.setrlimit(limit.kind, (limit.soft, limit.hard))
        except (OSError, ValueError) as error:
            raise LaunchError(limit.refused(error)) from error


def change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise LaunchError(cwd_refused(path, error.errno)) from error


def cwd_refused(path: str, number: int | None) -> str:
    return f"cwd {path}: {os.strerror(number or 0)}"


def redirect(stdout_fd: int) -> None:
    """0 reads nothing, 1 and 2 are the same pipe."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(stdout_fd, 1)
    os.dup2(stdout_fd, 2)
    for fd in {null, stdout_fd} - {0, 1, 2}:
        os.close(fd)


def change_user(user: str) -> None:
    """Groups, group, user. LaunchError when it is unknown or this process may not."""
    ids = ids_of(user)
    if ids is None:
        return
    try:
        os.setgroups(ids.groups)
        os.setgid(ids.gid)
        os.setuid(ids.uid)
    except OSError as error:
        raise LaunchError(user_refused(user, error.errno)) from error


@dataclass(frozen=True, slots=True)
class Ids:
    """Who a process is to the kernel."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def ids_of(user: str) -> Ids | None:
    """None for the user that this process is already. LaunchError for one that nobody knows."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise LaunchError(f"user {user}: unknown; `getent passwd` lists the users of this machine") from error
    if os.getuid() == os.geteuid() == entry.pw_uid:
        return None
    return Ids(entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(user, entry.pw_gid)))


def user_refused(user: str, number: int | None) -> str:
    why = os.strerror(number or 0)
    return f"user {user}: {why}; only root may change to another user, this is uid {os.getuid()}"


def bind_to(root_pid: int) -> None:
    """Die with root; at once when it is dead already."""
    linux.set_pdeathsig()
    if os.getppid() != root_pid:
        os._exit(1)


def default_signals() -> None:
    """Every disposition the default, nothing blocked."""
    for number in _catchable():
        if signal.getsignal(number) != signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


@functools.cache
def _catchable() -> tuple[int, ...]:
    return tuple(sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on but `keep`."""
    first = 3
    for fd in sorted(fd for fd in keep if fd >= 3):
        if first < fd:
            os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, _MAX_FD)


def execute(command: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Become `command`, looked up in the PATH of `env`. LaunchError when that fails."""
    failure: OSError | None = None
    for path in candidates(command[0], env):
        try:
            os.execve(path, command, env)
        except OSError as error:
            failure = failure if error.errno in _NOT_HERE and failure else error
            if error.errno not in (*_NOT_HERE, errno.EACCES):
                break
        except ValueError as error:
            raise LaunchError(f"command {command[0]}: {error}") from error
    raise LaunchError(explain(command, env, failure))


_NOT_HERE: Final = (errno.ENOENT, errno.ENOTDIR)


def candidates(name: str, env: Mapping[str, str]) -> list[str]:
    """The paths to try: `name` itself when it has a slash, else one for each directory of PATH."""
    if "/" in name or not name:
        return [name]
    return [os.path.join(directory or ".", name) for directory in env.get("PATH", _DEFAULT_PATH).split(":")]


def explain(
    command: tuple[str, ...],
    env: Mapping[str, str],
    error: OSError | None,
    cwd: str | None = None,
    uid: int | None = None,
) -> str:
    """Why exec failed, in one line. `cwd` and `uid`: of the process that tried, where it was not this one."""
    name = command[0]
    path = error.filename if error and error.filename else name
    place = os.path.join(cwd or "", path)
    match error.errno if error else errno.ENOENT:
        case errno.ENOENT | errno.ENOTDIR:
            return f"command {name}: {_missing(name, path, place, env, cwd)}"
        case errno.EACCES:
            return f"command {name}: permission denied: {_denied(path, place, uid)}"
        case errno.ENOEXEC:
            return f"command {name}: {path} is neither a binary nor a script of this machine; it may lack its #! line"
        case errno.E2BIG:
            size = sum(len(os.fsencode(part)) + 1 for part in (*command, *env, *env.values()))
            return (
                f"command {name}: arguments and environment are too long together ({size} bytes), or one of them alone"
            )
        case number:
            return f"command {name}: {os.strerror(number or 0)}"


def _denied(path: str, place: str, uid: int | None) -> str:
    try:
        executable = os.stat(place).st_mode & 0o111
    except OSError:
        executable = 1
    if executable:
        uid = os.geteuid() if uid is None else uid
        return f"uid {uid} may not execute {path} or not enter a directory on the way"
    return f"{path} is not executable; chmod +x {path}"


def _missing(name: str, path: str, place: str, env: Mapping[str, str], cwd: str | None) -> str:
    interpreter = _interpreter(place)
    if interpreter is not None:
        return f"bad interpreter: {path} begins with #!{interpreter}, which does not exist"
    if "/" in name:
        return f"no such file (cwd is {cwd or os.getcwd()})"
    return f"not found in PATH ({env.get('PATH', _DEFAULT_PATH)})"


def _interpreter(path: str) -> str | None:
    """Never waits, not even for the writer of a pipe."""
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            first = file.readline(256)
    except OSError:
        return None
    return os.fsdecode(first[2:].strip()) if first.startswith(b"#!") else None
