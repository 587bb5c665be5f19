"""The process of an agent: the channel to root, signals, heartbeat, the line to the broker, and the exit.

`host` is what lives in it. Guarantees: `ready` is said after init() has returned and not before, and never waits for a
broker; the heartbeat comes from the loop itself, so a loop that hangs falls silent; SIGTERM (or the worker's own
stop_signal) leads to terminate(reason) exactly once; when root is gone, or a newer incarnation has taken over, the process
ends at once; the end never waits for a broker longer than its linger.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from otpd.agents import forked, guard, raised
from otpd.agents.agent import Agent, Ignore
from otpd.agents.arguments import ArgumentError
from otpd.agents.channel import Channel, Job, inherited
from otpd.agents.conversation import Conversation
from otpd.agents.errors import stale
from otpd.agents.host import Host
from otpd.agents.line import Line
from otpd.agents.watching import Watching
from otpd.ipc.endpoint import Endpoint
from otpd.ipc.happenings import Fenced

#: Seconds that init() has before the line is opened beside it: to be up is not to wait for libzmq, but an init() that waits
#: may be waiting for the broker.
_UNTIL_OPEN: Final = 0.002
_BEATS_PER_WATCHDOG: Final = 4
_CLEAN: Final = ("normal", "shutdown")
_OUTSIDE: Final = """\
{script} is a worker of otpd and was started without it. Put it into otpd.toml and start the node:

    [agents.{name}]
    script = "{script}"

    $ otpd start
"""


class _Stopped(Exception):
    """The agent has stopped itself for a reason that is an error."""


def run(agent_class: type[Agent]) -> None:
    """Run an agent until it is asked to stop; exits the process with status 1 when it fails."""
    if not (isinstance(agent_class, type) and issubclass(agent_class, Agent)):
        raise TypeError(f"run() expects a class derived from Agent, got {agent_class!r}; write: run(MyAgent)")
    try:
        channel, job = inherited()
    except LookupError:
        _explain_outside()
    Life(agent_class, channel, job).run()


def _explain_outside() -> NoReturn:
    script = os.path.relpath(sys.argv[0] or "worker.py")
    name = os.path.splitext(os.path.basename(script))[0]
    print(_OUTSIDE.format(script=script, name=name), file=sys.stderr, end="")
    sys.exit(2)


class Life:
    """One incarnation, from init to exit."""

    def __init__(self, agent_class: type[Agent], channel: socket.socket, job: Job) -> None:
        self._class, self._job = agent_class, job
        self._guard = guard.stand(job.spawn, channel.fileno())
        self._channel = Channel(channel, self._hear)
        self._stop_reason = "shutdown"
        self._pid = os.getpid()

    def run(self) -> None:
        selector = Watching()
        try:
            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
                try:
                    reason = runner.run(self._live(selector))
                except BaseException as error:
                    self._only_here(error)
                    raise
        except Ignore:
            return self._channel.say("ignore")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._fail(error)
        self._channel.say("exit", reason)
        return None

    def _only_here(self, error: BaseException) -> None:
        if os.getpid() != self._pid:
            forked.leave(error)

    def _fail(self, error: BaseException) -> NoReturn:
        """Traceback (of the agent's own frames) to stderr, reason to root, status 1."""
        if isinstance(error, ArgumentError | _Stopped):
            print(error, file=sys.stderr)
        else:
            trace = raised.from_agent(error)
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            self._channel.say("traceback", raised.as_values(error)[2])
        reason = str(error) if isinstance(error, _Stopped) else raised.one_line(error)
        self._channel.say("exit", reason if reason.startswith("error(") else f"error({reason})")
        sys.exit(1)

    async def _live(self, selector: Watching) -> str:
        loop = asyncio.get_running_loop()
        job = self._job
        conversation = Conversation(Endpoint(job.name, job.inc, job.token))
        conversation.hears[Fenced] = self._fenced
        conversation.reach = self._channel.reach
        conversation.summon = self._channel.summon
        host = Host(self._class, job.generation, conversation, self._channel, logger(job.name))
        loop.set_task_factory(host.task_factory)
        for number in {job.stop_signal, signal.SIGTERM}:
            loop.add_signal_handler(number, self._asked_to_stop, host)
        line = self._line = Line(conversation, job.identity, selector)
        line.broker(*(job.broker or (None, None)))
        self._channel.listen()
        if self._guard is not None:
            self._guard.attach(loop)
        loop.call_later(_UNTIL_OPEN, line.open)
        try:
            reason = await self._through(host)
            await line.drain()
            return reason
        finally:
            line.close(process_ends=True)

    async def _through(self, host: Host) -> str:
        if await host.init(self._job.args):
            if host.mailbox.tells_health:
                self._channel.say("health")
            self._channel.say("ready")
            self._line.open()
            self._beat()
            reason = await host.live()
        else:
            reason = host.reason
        if reason not in _CLEAN and not reason.startswith(("linked(", "shutdown(")):
            raise _Stopped(reason)
        return reason

    def _beat(self) -> None:
        """From the loop, never from a thread beside it: it proves that handlers can run."""
        if self._job.watchdog:
            self._channel.beat()
            asyncio.get_running_loop().call_later(self._job.watchdog / _BEATS_PER_WATCHDOG, self._beat)

    def _hear(self, packet: list[Any] | None) -> None:
        match packet:
            case None:
                os._exit(1)  # root is gone
            case ["broker", epoch, endpoint]:
                self._line.broker(epoch, endpoint)
            case ["stopping", str(reason)]:
                self._stop_reason = reason

    def _asked_to_stop(self, host: Host) -> None:
        """Root has said why on the channel, right before the signal; which of the two is seen first is chance."""
        self._channel.read()
        host.stop(self._stop_reason)

    def _fenced(self, fenced: Fenced) -> None:
        """Another incarnation has the name, or this one is refused: it must not do anything any more, not even terminate
        (A2, K8)."""
        print(stale(self._job.name, fenced.why), file=sys.stderr, flush=True)
        self._channel.say("exit", "stale")
        os._exit(1)


def logger(name: str) -> logging.Logger:
    """Lines on stderr, where otpd stamps and stores them; leaves a logging set-up of the script's own alone."""
    log = logging.getLogger(f"otpd.agent.{name}")
    if not logging.getLogger().handlers and not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return log
