"""What runs an agent: one asyncio loop, the channel to root, and the order init, ready, terminate, exit.

Messages come later; this is the life of a process under its supervisor. Guarantees: `ready` is said after init() has
returned and not before; the heartbeat comes from the loop itself, so a loop that hangs falls silent; SIGTERM (or the
worker's own stop_signal) leads to terminate("shutdown") exactly once; when root is gone the process ends at once.

To root: ["ready"], ["ignore"], ["beat"], ["exit", reason].
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Final, NoReturn

from otpd.agents.arguments import ArgumentError, bind
from otpd.agents.errors import OtpdError
from otpd.ipc.frames import FrameError, pack, receive_packet, send_packet, unpack

_CONTROL_FD: Final = "OTPD_CONTROL_FD"
_JOB_FD: Final = "OTPD_JOB_FD"
_BEATS_PER_WATCHDOG: Final = 4
_REASON_LIMIT: Final = 500
_BEAT: Final = pack(["beat"])
_OUTSIDE: Final = """\
{script} is a worker of otpd and was started without it. Put it into otpd.toml and start the node:

    [agents.{name}]
    script = "{script}"

    $ otpd start
"""


class Ignore(OtpdError):
    """Raised in init(): there is nothing to run, and that is no error. The worker stays down without a restart."""


@dataclass(frozen=True, slots=True)
class Job:
    """What root tells an agent about itself: of the job document (docs/protocol.md, 1) what is needed here."""

    name: str
    generation: int
    args: dict[str, Any] = field(default_factory=dict)
    watchdog: float | None = None
    stop_signal: int = signal.SIGTERM


class Agent:
    """A worker under supervision. Override what you need; nothing here has to be called.

    Handlers and tasks share one asyncio loop. A task that ends with an exception while nobody awaits it crashes the agent.
    """

    name: str = ""
    generation: int = 0
    log: logging.Logger = logging.getLogger("otpd.agent")

    def init(self) -> Any:
        """Set up. With `args` in otpd.toml, declare them as parameters. May be async. An exception fails the start."""

    def terminate(self, reason: str) -> Any:
        """Tidy up within `shutdown` of otpd.toml. May be async. Not called after a crash in init() or a kill."""


def run(agent_class: type[Agent]) -> None:
    """Run an agent until it is asked to stop; exits the process with status 1 when it fails."""
    if not (isinstance(agent_class, type) and issubclass(agent_class, Agent)):
        raise TypeError(f"run() expects a class derived from Agent, got {agent_class!r}; write: run(MyAgent)")
    channel, job = _connect()
    life = _Life(agent_class, channel, job)
    try:
        with asyncio.Runner() as runner:
            runner.run(life.live())
    except Ignore:
        return life.say(["ignore"])
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        _fail(life, error)
    life.say(["exit", "shutdown"])
    return None


def _connect() -> tuple[socket.socket, Job]:
    """The inherited channel and the job. Started by hand: says how it is meant, status 2."""
    try:
        channel_fd, job_fd = int(os.environ[_CONTROL_FD]), int(os.environ[_JOB_FD])
        with open(job_fd, "rb") as file:
            told = unpack(file.read())
        job = Job(**{each.name: told[each.name] for each in fields(Job) if each.name in told})
        return socket.socket(fileno=channel_fd), job
    except (KeyError, ValueError, TypeError, OSError):
        _explain_outside()


def _explain_outside() -> NoReturn:
    script = os.path.relpath(sys.argv[0] or "worker.py")
    name = os.path.splitext(os.path.basename(script))[0]
    print(_OUTSIDE.format(script=script, name=name), file=sys.stderr, end="")
    sys.exit(2)


def _fail(life: _Life, error: BaseException) -> NoReturn:
    """Traceback (of the agent's own frames) to stderr, reason to root, status 1."""
    if isinstance(error, ArgumentError):
        print(error, file=sys.stderr)
    else:
        sys.excepthook(type(error), error, _from_agent(error))
    life.say(["exit", f"error({_one_line(error)})"])
    sys.exit(1)


def _from_agent(error: BaseException) -> types.TracebackType | None:
    """Without the frames that lead from run() to the agent's method."""
    trace = error.__traceback__
    own = (__file__, asyncio.runners.__file__, asyncio.base_events.__file__)
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename in own:
        trace = trace.tb_next
    error.__traceback__ = trace
    return trace


def _one_line(error: BaseException) -> str:
    kind = type(error)
    plain = kind.__module__ in ("builtins", "__main__") or isinstance(error, OtpdError)
    name = kind.__qualname__ if plain else f"{kind.__module__}.{kind.__qualname__}"
    text = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    return f"{name}: {text}"[:_REASON_LIMIT] if text else name


class _Life:
    """One incarnation, from init to exit."""

    def __init__(self, agent_class: type[Agent], channel: socket.socket, job: Job) -> None:
        self._class, self._channel, self._job = agent_class, channel, job
        self._stop = asyncio.Event()
        self._crash: BaseException | None = None

    def say(self, value: list[Any]) -> None:
        """To root; when it is gone this process is about to end anyway."""
        with contextlib.suppress(OSError):
            send_packet(self._channel, value)

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._task)
        loop.add_reader(self._channel.fileno(), self._read)
        loop.add_signal_handler(self._job.stop_signal, self._stop.set)
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        agent = self._make()
        if not await self._init(agent):
            return
        self.say(["ready"])
        self._beat()
        await self._stop.wait()
        if self._crash is None:
            await _finished(agent.terminate, "shutdown")
        else:
            await _finished(agent.terminate, f"error({_one_line(self._crash)})")
            raise self._crash

    def _task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """Tasks of an agent are linked to it: one that fails while nobody awaits it is a crash of the agent, as for
        linked processes. asyncio alone would keep silent until the task object is collected, so perhaps for ever."""
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
        task.add_done_callback(lambda done: loop.call_soon(loop.call_soon, self._ended, done))
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Two turns after its end: whoever awaits it has taken its exception by now."""
        if task.cancelled() or not getattr(task, "_log_traceback", False):
            return
        self._crash = self._crash or task.exception()
        self._stop.set()

    def _make(self) -> Agent:
        agent = self._class()
        agent.name, agent.generation = self._job.name, self._job.generation
        agent.log = _logger(agent.name)
        return agent

    async def _init(self, agent: Agent) -> bool:
        """False when the stop came first; then init() is cancelled."""
        args = bind(self._job.name, agent.init, self._job.args)
        starting = asyncio.ensure_future(_finished(agent.init, **args))
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            return False
        starting.result()
        return True

    def _beat(self) -> None:
        """From the loop, never from a thread beside it: it proves that handlers can run."""
        if self._job.watchdog:
            with contextlib.suppress(OSError):  # a root that stands still must not hold its agents up
                self._channel.send(_BEAT, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            asyncio.get_running_loop().call_later(self._job.watchdog / _BEATS_PER_WATCHDOG, self._beat)

    def _read(self) -> None:
        """Nothing is said to agents yet; the end of the channel is the end of root."""
        try:
            if receive_packet(self._channel) is None:
                os._exit(1)
        except FrameError:
            return
        except OSError:
            os._exit(1)


async def _finished(method: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a plain or async method to its end."""
    result = method(*args, **kwargs)
    if inspect.isawaitable(result):
        await result


def _logger(name: str) -> logging.Logger:
    """Lines on stderr, where otpd stamps and stores them; leaves a logging set-up of the script's own alone."""
    log = logging.getLogger(f"otpd.agent.{name}")
    if not logging.getLogger().handlers and not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
