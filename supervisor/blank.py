"""A process forked ahead of its job: waits without a name, is given one, and becomes a worker.

Its parent is root, not the zygote that forked it. What it says on its channel: ["spawned"] when the set-up is done and
user code begins, ["failed", why] when the set-up failed, ["traceback", text] and ["exit", reason] when user code ended with
an exception. A job with a command is exec'd: the channel then closes, unless it is an agent's.

User code finds what `python script.py` would have given it: `__main__`, sys.argv, sys.path[0], Python's
own three signal settings, a traceback that begins in the script, exit statuses, non-daemon threads
joined, exit handlers run, files flushed.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import io
import os
import signal
import socket
import sys
import threading
import time
import traceback
import types
from dataclasses import dataclass
from typing import Any, NoReturn

from otpd.ipc.frames import FrameError, pack, receive_packet, send_packet, unpack
from otpd.supervisor import launch, linux
from otpd.supervisor.launch import CHILD, GENERATION, RESERVED, Job, LaunchError
from otpd.supervisor.spares import COOKIE_SIZE, assigned
from otpd.supervisor.spec import SPEAKING

_SET_UP_FAILED = 127
_REASON_LIMIT = 500
_TRACEBACK_LIMIT = 16_000
#: By name, because it is of the other room: what a script imports is watched over, too.
_GUARD = "otpd.agents.guard"


@dataclass(frozen=True, slots=True)
class Cookie:
    """Where the initial environment of this process has room for the cookie."""

    address: int

    @staticmethod
    def locate() -> Cookie | None:
        """None when this process was not started with `spares.zygote_environment`."""
        room = f"{CHILD}={' ' * COOKIE_SIZE}\0".encode()
        block = linux.environ_block(os.getpid()) or b""
        at = 0 if block.startswith(room) else block.find(b"\0" + room) + 1
        return Cookie(linux.environ_address() + at) if at or block.startswith(room) else None

    def write(self, name: str, generation: int) -> None:
        """What /proc/PID/environ shows from now on; exactly as long as what was there. LaunchError: a name too long."""
        head = f"{CHILD}={name}\0{GENERATION}={generation}\0{RESERVED}=".encode()
        room = len(CHILD) + 1 + COOKIE_SIZE
        if len(head) > room:
            raise LaunchError(f"its name is too long: {len(os.fsencode(name))} bytes, at most {COOKIE_SIZE - 64}")
        linux.overwrite(self.address, head + b"." * (room - len(head)))


def live(channel: socket.socket, root_pid: int, cookie: Cookie) -> int:
    """The life of a blank; the exit status of what it became. Ends at once when root is gone or lets it go."""
    os.setsid()
    launch.bind_to(root_pid)
    _let_go_of_everything_but(channel)
    linux.set_title("otpd: spare")
    _rehearse(channel)
    packet = _wait(channel)
    if packet is None:
        return 0
    job, stdout_fd = assigned(packet[0][1], packet[1])
    try:
        source = _set_up(job, stdout_fd, channel, cookie)
    except LaunchError as error:
        _say(channel, ["failed", _one_line(str(error))])
        return _SET_UP_FAILED
    if job.kind in SPEAKING and job.spawn != "allow":
        importlib.import_module(_GUARD).stand(job.spawn, channel.fileno())
    _say(channel, ["spawned"])
    status = _run(job, source, channel)
    return _end_quickly(status) if job.kind in SPEAKING else status


def _let_go_of_everything_but(channel: socket.socket) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    launch.close_others({channel.fileno()})


def _rehearse(channel: socket.socket) -> None:
    """Do everything once for nothing, so that memory shared with the zygote is copied now and not when it matters."""
    job = Job(name="spare", generation=0, kind="agent", node="", root_pid=os.getppid(), command=("/",), cwd="/")
    job = launch.from_wire(unpack(pack(launch.to_wire(job))))
    env = launch.environment(job, os.environ)
    launch.refuse_nul(job, env)
    launch.set_limits(job.limits)
    launch.change_directory(job.cwd)
    os.close(launch.job_document(job))
    _replace_environment(dict(os.environ))
    exec(
        compile(b"class A:\n async def f(self, n=1): pass\n", "spare", "exec", dont_inherit=True), {"__name__": "spare"}
    )
    if _GUARD in sys.modules:
        sys.modules[_GUARD].rehearse()
    with contextlib.suppress(LaunchError):
        launch.execute(("/",), env)


def _wait(channel: socket.socket) -> tuple[Any, list[int]] | None:
    try:
        packet = receive_packet(channel)
    except (OSError, FrameError):
        return None
    match packet:
        case (["run", _], [_, *_]):
            return packet
    return None


def _say(channel: socket.socket, value: list[Any]) -> None:
    """Root may be gone; then this process ends anyway."""
    with contextlib.suppress(OSError):
        send_packet(channel, value)


def _set_up(job: Job, stdout_fd: int, channel: socket.socket, cookie: Cookie) -> bytes:
    """The script's source. LaunchError says what failed. A command is exec'd here and does not return."""
    cookie.write(job.name, job.generation)
    env = launch.environment(job, os.environ)
    launch.refuse_nul(job, env)
    launch.enter(job, stdout_fd)
    if job.kind in SPEAKING:
        env |= _agent_descriptors(job, channel)
    if job.command:
        launch.execute(job.command, env)
    _replace_environment(env)
    return _read_script(job)


def _agent_descriptors(job: Job, channel: socket.socket) -> dict[str, str]:
    """They outlive an exec where the agent is a command; what a script starts past otpd must not get them."""
    document = launch.job_document(job)
    for fd in (channel.fileno(), document) if job.command else ():
        os.set_inheritable(fd, True)
    return {launch.CONTROL_FD: str(channel.fileno()), launch.JOB_FD: str(document)}


def _replace_environment(env: dict[str, str]) -> None:
    path_before = os.environ.get("PYTHONPATH")
    for key in os.environ.keys() - env.keys():
        del os.environ[key]
    for key, value in env.items():
        if os.environ.get(key) != value:
            os.environ[key] = value
    time.tzset()
    added = env.get("PYTHONPATH")
    if added and added != path_before:
        sys.path[:0] = [os.path.abspath(part) for part in added.split(os.pathsep) if part]


def _read_script(job: Job) -> bytes:
    if job.script is None:
        raise LaunchError(f"worker {job.name}: expected a script or a command, got neither")
    try:
        with open(job.script, "rb") as file:
            return file.read()
    except OSError as error:
        raise LaunchError(f"script {job.script}: {error.strerror}") from error


def _run(job: Job, source: bytes, channel: socket.socket) -> int:
    """User code, as Python itself would run it; its exit status."""
    assert job.script is not None
    _become_python(job)
    try:
        exec(compile(source, job.script, "exec", dont_inherit=True), _main_module(job.script))
    except SystemExit as error:
        return _exit_status(error)
    except KeyboardInterrupt:
        _show(*_from_script(sys.exc_info()[1]))
        return _interrupted()
    except BaseException as error:
        _show(*_from_script(error))
        _say(channel, ["traceback", _traceback(error)])
        _say(channel, ["exit", f"error({_one_line(describe(error))})"])
        return 1
    return 0


def _become_python(job: Job) -> None:
    assert job.script is not None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    sys.argv = [job.script, *job.argv]
    if job.kind != "service":  # a module of otpd itself: its neighbours must not pass for modules of Python
        sys.path.insert(0, os.path.dirname(os.path.realpath(job.script)))
    linux.set_title(f"otpd: {job.name}")


def _main_module(script: str) -> dict[str, Any]:
    module = types.ModuleType("__main__")
    module.__file__ = script
    module.__dict__.update(__builtins__=__builtins__, __cached__=None, __annotations__={})
    sys.modules["__main__"] = module
    return module.__dict__


def _from_script(error: BaseException | None) -> tuple[type[BaseException], BaseException, types.TracebackType | None]:
    """Without the frames of this file."""
    assert error is not None
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return type(error), error, trace


def _show(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """Through sys.excepthook, which the script may have set."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    try:
        sys.excepthook(kind, error.with_traceback(trace), trace)
    except Exception:
        traceback.print_exc()


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(*_from_script(error)))
    return text.encode(errors="backslashreplace").decode()[-_TRACEBACK_LIMIT:]


def _exit_status(error: SystemExit) -> int:
    """What Python makes of sys.exit(x)."""
    match error.code:
        case None:
            return 0
        case int(code):
            return code & 0xFF
        case text:
            print(text, file=sys.stderr)
            return 1


def _end_quickly(status: int) -> NoReturn:
    """The end of an agent: all that Python's own has (threads, exit handlers, files of `__main__`) but taking the
    interpreter apart, which costs 9 ms and copies the zygote's memory: the stop of a thousand agents would feel it."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _interrupted() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    return 130


def describe(error: BaseException) -> str:
    """Type and message, as the last line of a traceback has them.

    >>> describe(ValueError("bad")), describe(KeyError())
    ('ValueError: bad', 'KeyError')
    """
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        text = str(error)
    except Exception:
        text = "<its __str__ failed>"
    return f"{name}: {text}" if text else name


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    line = line.encode(errors="backslashreplace").decode()
    return line if len(line) <= _REASON_LIMIT else line[: _REASON_LIMIT - 3] + "..."
