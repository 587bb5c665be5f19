"""From a profile to the run plan: what is the same for all its commands is made once, the rest is added for each."""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from otpd.agents.sandbox import kernel, landlock, records, seccomp
from otpd.agents.sandbox.capability import Capability, Honoured, honour
from otpd.agents.sandbox.profile import MIB, Limits, Profile
from otpd.agents.sandbox.records import Kind

PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_DATA_FLOOR: Final = 1024 * MIB  # RLIMIT_DATA counts 8 MiB for the stack of each thread, used or not


@dataclass(frozen=True, slots=True)
class Order:
    """One command, as a worker gets it. `code`: Python source instead of a command; `argv` is then its sys.argv."""

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes] = field(default_factory=dict)
    cwd: bytes = b""
    files: dict[bytes, bytes] = field(default_factory=dict)
    code: bytes | None = None

    def to_wire(self) -> list[Any]:
        return [list(self.argv), self.env, self.cwd, self.files, self.code]

    @staticmethod
    def from_wire(given: list[Any]) -> Order:
        argv, env, cwd, files, code = given
        return Order(tuple(argv), env, cwd, files, code)


@dataclass(frozen=True, slots=True)
class Place:
    """What a backend's sandbox looks like from inside."""

    env: dict[str, str]
    cwd: str
    scratch: tuple[str, ...]
    readable: tuple[landlock.Rule, ...] = ()  # without a view of its own: all that may be read
    devices: tuple[landlock.Rule, ...] = ()
    more_tasks: int | None = (
        0  # of the sandbox itself that count against `pids`; None: the backend sets that limit for each run
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A profile on a backend."""

    profile: Profile
    honoured: Honoured
    fixed: bytes
    env: dict[bytes, bytes]
    cwd: bytes


def prepare(profile: Profile, capability: Capability, place: Place) -> Prepared:
    """NotEnforceable when this backend can't give what the profile asks for."""
    honoured = honour(profile, capability)
    env = {**place.env, **profile.env}
    fixed = [
        *_limits(profile.limits, place.more_tasks),
        *_landlock(profile, capability, place),
        records.raw(Kind.FILTER, seccomp.program(policy(profile, capability), kernel.machine())),
    ]
    encoded = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
    cwd = place.cwd if profile.workspace or not profile.rw or not os.path.isdir(profile.rw[0]) else profile.rw[0]
    return Prepared(profile, honoured, b"".join(fixed), encoded, os.fsencode(cwd))


def policy(profile: Profile, capability: Capability) -> seccomp.Policy:
    """What other layers don't do here, system calls must."""
    own_pids, own_net = "pidns" in capability.layers, "netns" in capability.layers
    memory = capability.limits.get("memory")
    return seccomp.Policy(
        debug=profile.debug and own_pids,
        unix_sockets=profile.unix_sockets,
        memfd=memory is not None and memory.enforced == "hard",
        locks=not profile.ro,
        special_files="landlock" in capability.layers,
        ipc="ipc" in capability.layers,
        own_pids=own_pids,
        internet=own_net or profile.net == "host",
    )


def _limits(limits: Limits, more_tasks: int | None) -> Iterator[bytes]:
    if more_tasks is not None:
        yield task_limit(limits.pids + more_tasks)
    seconds = math.ceil(limits.cpu)
    data = max(_DATA_FLOOR, 4 * limits.memory)
    for which, soft, hard in (
        (resource.RLIMIT_FSIZE, limits.file_size, limits.file_size),
        (resource.RLIMIT_NOFILE, limits.files, limits.files),
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_DATA, data, data),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 8 * MIB, 8 * MIB),
        (resource.RLIMIT_MSGQUEUE, MIB, MIB),
        (resource.RLIMIT_SIGPENDING, 1024, 1024),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
    ):
        yield records.limit(which, soft, hard)


def task_limit(tasks: int) -> bytes:
    return records.limit(resource.RLIMIT_NPROC, tasks, tasks)


def _landlock(profile: Profile, capability: Capability, place: Place) -> Iterator[bytes]:
    abi = int(capability.layers.get("landlock", "0"))
    if not abi:
        return iter(())
    reading = bool(place.readable)
    rules = [
        *place.readable,
        *place.devices,
        *(landlock.Rule(path, 0, not os.path.isdir(path)) for path in profile.ro if reading),
        *(landlock.Rule(path, _scratch_rights(path, profile)) for path in place.scratch),
        *(landlock.Rule(path, landlock.GRANTED, os.path.isfile(path)) for path in profile.rw),
    ]
    tcp = "netns" in capability.layers or profile.net == "host"
    return landlock.plan(abi, rules, reading=reading, tcp=tcp)


def _scratch_rights(path: str, profile: Profile) -> int:
    """What is allowed beneath a path is allowed beneath every mount in it, too."""
    inside = any(grant.startswith(path + "/") for grant in profile.rw)
    return landlock.GRANTED if inside else landlock.SCRATCH


def run_plan(prepared: Prepared, order: Order, mounts: Sequence[bytes]) -> bytes:
    """All records of one run. `mounts`: those of its grants."""
    env = {**prepared.env, **order.env}
    return b"".join(
        [
            *mounts,
            prepared.fixed,
            _text(Kind.DIRECTORY_OF_WORK, order.cwd or prepared.cwd),
            *(records.file(os.fsdecode(path), content, 0o644) for path, content in order.files.items()),
            *(_text(Kind.ARGUMENT, argument) for argument in order.argv),
            *(_text(Kind.VARIABLE, name + b"=" + value) for name, value in env.items()),
            *(_programs(order, env)),
        ]
    )


def _text(kind: Kind, payload: bytes) -> bytes:
    return records.raw(kind, payload + b"\0")


def _programs(order: Order, env: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """The paths to try, as execvp does: by PATH of the command's environment, if there is no "/" in its name."""
    if order.code is not None:
        yield records.raw(Kind.CODE, order.code)
    elif b"/" in order.argv[0]:
        yield _text(Kind.PROGRAM, order.argv[0])
    else:
        for directory in env.get(b"PATH", b"").split(b":"):
            yield _text(Kind.PROGRAM, (directory or b".") + b"/" + order.argv[0])
