"""A command worker: one process that runs one command after the other, each in a slot of its own.

    python -m otpd.agents.sandbox.worker --channel FD

FD is one end of a SOCK_SEQPACKET socketpair, one msgpack array per packet (`docs/sandbox.md`, "The channel"). Whoever
holds the other end is its pool; when that closes, or this process dies in whatever way, everything that runs here is
gone: the nest dies with its parent, and all else lives in the nest's namespace.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import socket
import sys
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from otpd.agents.sandbox import kernel, outcome, plans
from otpd.agents.sandbox.backend import Backend, Granted
from otpd.agents.sandbox.backends import claim_slot_uid, make
from otpd.agents.sandbox.carry import Carry, SlotStuck, Stream
from otpd.agents.sandbox.course import Course
from otpd.agents.sandbox.disk import DiskWatch
from otpd.agents.sandbox.errors import SandboxError, SetupFailed
from otpd.agents.sandbox.line import Line, order_of
from otpd.agents.sandbox.nesting import memory
from otpd.agents.sandbox.output import Capped
from otpd.agents.sandbox.profile import Profile, Settings
from otpd.agents.sandbox.slot import Slot
from otpd.ipc.frames import close_all, receive_packet, send_packet, unpack

_PROFILES_KEPT: Final = 64
_ATTEMPTS: Final = 3
#: Exit statuses: a slot that can't be killed; a nest that is dead.
STUCK, LOST = 70, 71


class Worker:
    """Serves one channel with one backend."""

    def __init__(self, channel: socket.socket, backend: Backend) -> None:
        self._backend = backend
        self._line = Line(channel, functools.partial(leave, backend))
        self._prepared: OrderedDict[bytes, plans.Prepared] = OrderedDict()
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def serve(self) -> NoReturn:
        """Until the pool is gone."""
        while True:
            message, fds = self._line.receive(self._backend.coming, self._complete)
            match message:
                case ["run", run, options]:
                    self._run(run, options, fds)
            close_all(fds)

    def _complete(self) -> None:
        """The next slot is about to be ready: have it before it is asked for."""
        try:
            self._backend.complete()
        except ConnectionError:
            leave(self._backend, LOST)
        except (SetupFailed, OSError):
            return  # the next run tries again, and tells

    def _run(self, run: int, options: dict[str, Any], fds: list[int]) -> None:
        """`fds`: what the options say is there, in this order: the order itself if it is large, standard input."""
        began = time.monotonic()
        try:
            order = plans.Order.from_wire(order_of(fds.pop(0)) if options["order"] is None else options["order"])
            result = self._carry_out(Job(run, options, order, fds[0] if options["stdin"] else self._null, began))
        except SandboxError as error:
            status = "setup_failed" if isinstance(error, SetupFailed) else "refused"
            result = {"status": status, "error": error.to_dict()}
        except OSError as error:
            result = _setup_failed(f"{error.filename or 'the worker'}: {error.strerror}.")
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            result = _setup_failed(f"the order can't be carried out: {type(error).__name__}: {error}.")
        self._line.send_result(run, result)
        self._backend.after()
        try:
            self._backend.prepare_next()
        except ConnectionError:
            leave(self._backend, LOST)

    def _prepare(self, packed: bytes) -> plans.Prepared:
        found = self._prepared.get(packed)
        if found is None:
            profile = Profile.from_dict(unpack(packed))
            found = plans.prepare(profile, self._backend.capability, self._backend.place)
            self._prepared[packed] = found
        self._prepared.move_to_end(packed)
        if len(self._prepared) > _PROFILES_KEPT:
            self._prepared.popitem(last=False)
        return found

    def _carry_out(self, job: Job) -> dict[str, Any]:
        prepared = self._prepare(job.options["profile"])
        granted = self._backend.grant(prepared.profile)
        streams, ends = _pipes(prepared.profile.limits.output)
        slot = None
        try:
            slot = self._start(prepared, job, granted, (job.stdin, *ends))
            close_all(ends)
            ends.clear()
            return self._accompany(job, prepared, slot, streams)
        finally:
            if slot is not None:
                slot.close()
            for stream in streams:
                stream.close()
            close_all(ends)
            granted.close()
            granted.remove_placeholders()

    def _start(self, prepared: plans.Prepared, job: Job, granted: Granted, streams: tuple[int, ...]) -> Slot:
        """In the next slot that is alive. SetupFailed, OSError. A lost nest ends the worker: nothing has begun yet.

        From the word `starting` on the pool gives the run to no other worker, so it is said before the slot is told to go:
        whoever is killed in between has carried out the command at most once. A slot that could not be told has not begun,
        and the pool has the run back."""
        try:
            slot = self._living_slot(prepared, granted)
        except ConnectionError:
            leave(self._backend, LOST)
        plan = memory(plans.run_plan(prepared, job.order, granted.mounts))
        try:
            self._line.say_first("starting", job.run)
            slot.start(plan, streams, granted.trees)
            self._line.say("started", job.run)
            return slot
        except ConnectionError:
            slot.close()
            self._line.say_first("returned", job.run)
            leave(self._backend, LOST)
        finally:
            os.close(plan)

    def _living_slot(self, prepared: plans.Prepared, granted: Granted) -> Slot:
        """The kernel may have killed the one that waits, for want of memory."""
        for _ in range(_ATTEMPTS):
            slot = self._backend.take(prepared.profile, granted)
            if slot.alive():
                return slot
            slot.close()
        raise SetupFailed("slots die before they are used.", layer="nest", fix="look for what kills them (dmesg)")

    def _accompany(self, job: Job, prepared: plans.Prepared, slot: Slot, streams: tuple[Stream, ...]) -> dict[str, Any]:
        """To the end of the run; its result."""
        profile, started = prepared.profile, time.monotonic()
        course = Course(profile.limits, profile.grace, profile.on_output_limit, started)
        carry = Carry(
            job.run, slot, course, streams, self._line, job.options["stream"], self._backend.measure,
            self._backend.prepare_next, DiskWatch(profile.rw) if profile.rw else None,
        )  # fmt: skip
        try:
            report = carry.finish()
        except SlotStuck:
            leave(self._backend, STUCK)
        oom_killed = self._backend.leaf is not None and self._backend.leaf.killed_since_limit()
        ended = outcome.outcome(report, course, outcome.Seen(_name(job.order), oom_killed, profile.limits.cpu))
        times = {"setup_s": started - job.began, "wall_s": carry.finished - started}
        return {**ended, **times, **_use(report, course), **_said(streams), **_force(prepared)}


@dataclass(frozen=True, slots=True)
class Job:
    """A run as it came over the channel. Whoever made it closes `stdin`."""

    run: int
    options: dict[str, Any]
    order: plans.Order
    stdin: int
    began: float


def _setup_failed(text: str) -> dict[str, Any]:
    return {"status": "setup_failed", "error": SetupFailed(text, layer="worker").to_dict()}


def leave(backend: Backend, status: int) -> NoReturn:
    """Ends everything, then this process."""
    backend.close()
    os._exit(status)


def _pipes(cap: int) -> tuple[tuple[Stream, ...], list[int]]:
    """For standard output and error: our ends, and those of the command."""
    streams, ends = [], []
    for name in ("stdout", "stderr"):
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(ours, False)
        streams.append(Stream(name, ours, Capped(cap)))
        ends.append(theirs)
    return tuple(streams), ends


def _name(order: plans.Order) -> str:
    return os.fsdecode(order.argv[0]) if order.code is None else "exec_python"


def _use(report: Any, course: Course) -> dict[str, Any]:
    use: dict[str, Any] = {"peak_procs": course.peak_tasks}
    if report is not None:
        use |= {"cpu_s": (report.user_us + report.system_us) / 1e6, "max_rss": report.peak_kib * 1024}
    return use


def _said(streams: tuple[Stream, ...]) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for stream in streams:
        said[stream.name] = stream.kept.content()
        said[f"{stream.name}_bytes"] = stream.kept.total
        said[f"{stream.name}_truncated"] = stream.kept.truncated
        stream.close()
    return said


def _force(prepared: plans.Prepared) -> dict[str, Any]:
    return {"limits": prepared.honoured.limits, "isolation": prepared.honoured.isolation}


def begin(channel: socket.socket) -> Worker:
    """Hear which backend and settings, build it, and say what it gives. Does not return when it can't be built."""
    packet = receive_packet(channel)
    if packet is None:
        os._exit(0)
    match packet[0]:
        case ["begin", options]:
            pass
        case other:
            raise SystemExit(f'expected ["begin", {{...}}] on the channel, got {other!r}')
    try:
        slot_uid, _claim = claim_slot_uid(options["slot_uids"])
        backend = make(options["backend"], Settings.from_dict(options["settings"]), slot_uid, options["launcher"])
        backend.start()
    except ConnectionError:  # somebody has killed what was being built: the pool tries again
        os._exit(LOST)
    except (SandboxError, OSError) as failed:
        error = (
            failed
            if isinstance(failed, SandboxError)
            else SetupFailed(f"{failed.filename or 'a worker'}: {failed.strerror}.")
        )
        with contextlib.suppress(OSError):
            send_packet(channel, ["unavailable", error.to_dict()])
        os._exit(3)
    signal.signal(signal.SIGTERM, lambda *_: leave(backend, 0))
    send_packet(channel, ["ready", backend.capability.to_dict()])
    return Worker(channel, backend)


def main(arguments: list[str]) -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m otpd.agents.sandbox.worker", description=__doc__)
    parser.add_argument("--channel", type=int, required=True, metavar="FD", help="end of a SOCK_SEQPACKET socketpair")
    given = parser.parse_args(arguments)
    os.set_inheritable(given.channel, False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    begin(socket.socket(fileno=given.channel)).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
