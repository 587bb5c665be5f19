"""The process of a task worker: one task after the other, each to its own end. Started by its pool, never by a person.

It knows its pool by an address and a secret in its environment. It decides nothing: when it is told to stop it is ended
from outside. What a function prints goes to the logs under the name of the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import os
import resource
import socket
import sys
import traceback
from typing import Any, Final

from otpd.agents import guard
from otpd.agents.errors import NotData
from otpd.agents.tasks.functions import Library, Named
from otpd.agents.tasks.payload import MSGPACK, PICKLE, Payload, decode, encode
from otpd.agents.tasks.running import RUNNING, Running
from otpd.agents.tasks.wire import Wire
from otpd.ipc.frames import pack

#: The pool's address and the secret of this worker.
ADDRESS: Final = "OTPD_POOL"
_PAGE: Final = resource.getpagesize()
_HERE: Final = __file__
_TASKS: Final = guard.Whose("tasks", "let the agent do it that gives the task: ", lambda said: pack([[*said, 0]]))


def main() -> None:
    sys.path[0] = os.getcwd()  # the directory of the configuration, not that of this file
    address, secret = os.environ.pop(ADDRESS).split(" ")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    sock.connect(b"\0" + bytes.fromhex(address))
    wire = Wire(sock)
    wire.put(["hello", secret])
    wire.flush()
    Worker(wire).run()


class Worker:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._library = Library()
        self._measures = False
        self._guard: guard.Guard | None = None

    def run(self) -> None:
        """Until the pool is gone."""
        while (messages := self._wire.take()) is not None:
            for message, fds in messages:
                match message:
                    case ["settings", dict(settings)]:
                        self._settle(settings)
                    case ["run", int(task), function, owner, codec, body, sizes]:
                        self._serve(task, function, owner, Payload(codec, body, sizes, fds))

    def _settle(self, settings: dict[str, Any]) -> None:
        self._measures = settings["measures"]
        self._guard = guard.stand(settings["spawn"], self._wire.fileno(), _TASKS)
        try:
            for name in settings["preload"]:
                importlib.import_module(name)
        except BaseException as error:
            self._say(["failed", f"can't preload {name}: {type(error).__name__}: {error}"])
            sys.exit(1)
        self._say(["ready"])

    def _serve(self, task: int, function: Any, owner: list[Any], sent: Payload) -> None:
        codec = sent.codec
        try:
            ok, answer = True, encode(self._result(function, owner, sent), codec, "result")
        except BaseException as error:
            ok, answer = False, failure(error, codec)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if self._guard is not None:
            self._guard.tell_counts()
        memory = _resident() if self._measures else 0
        self._say(["done", task, ok, memory, answer.codec, answer.body, list(answer.sizes)], answer.fds)

    def _result(self, function: Any, owner: list[Any], sent: Payload) -> Any:
        if isinstance(function, bytes):  # pickled together with its arguments
            call, args, kwargs = decode(sent, "task")
            name = getattr(call, "__qualname__", "?")
        else:
            named = Named(*function)
            try:
                call = self._library.find(named)
            finally:
                args, kwargs = decode(sent, "arguments")
            name = str(named)
        token = RUNNING.set(Running(name, *owner))
        try:
            value = call(*args, **kwargs)
            return asyncio.run(value) if inspect.iscoroutine(value) else value
        finally:
            RUNNING.reset(token)

    def _say(self, message: list[Any], fds: Any = ()) -> None:
        self._wire.put(message, fds)
        while not self._wire.flush():  # the socket is a blocking one; its flags are not: wait for room
            import select

            select.select([], [self._wire] if self._wire.pause is None else [], [], self._wire.pause)


def failure(error: BaseException, codec: int) -> Payload:
    """[type, text, traceback]; in a pool that pickles with the exception itself, if that can be pickled."""
    kind = type(error).__name__
    own = error.__traceback__
    while own is not None and own.tb_frame.f_code.co_filename == _HERE:
        own = own.tb_next
    trace = "".join(traceback.format_exception(type(error), error, own))
    try:
        text = str(error)
    except Exception:
        text = "(its text can't be shown)"
    if codec == PICKLE:
        with contextlib.suppress(NotData):
            return encode([kind, text, trace, error], PICKLE)
    return encode([kind, text, trace, None], MSGPACK)


def _resident() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE


if __name__ == "__main__":
    main()
