"""What a command may see, do and use: a `Profile` with its `Limits`. Values only; `reading` makes them from tables.

>>> Profile(name="mine", rw=("/srv/work",), limits=Limits(wall=2.0)).limits.pids
64
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final, Literal

KIB: Final = 1024
MIB: Final = 1024 * KIB

View = Literal["system", "host-ro"]
Net = Literal["none", "host"]
MemoryMode = Literal["best-effort", "hard"]
OnOutput = Literal["truncate", "kill"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and bytes. Each holds for the command and everything that it starts, together, unless it says otherwise."""

    wall: float = 10.0
    cpu: float = 10.0
    memory: int = 512 * MIB
    memory_mode: MemoryMode = "best-effort"  # "hard": refuse to run where the kernel does not enforce it
    pids: int = 64  # processes and threads
    file_size: int = 64 * MIB  # of each file
    tmp: int = 64 * MIB  # /tmp, and the same again for the home directory
    tmp_files: int = 10_000  # in each of them
    shm: int = 16 * MIB  # /dev/shm, and System V shared memory
    output: int = 1 * MIB  # of each stream
    disk: int = 256 * MIB  # what files that were written in granted directories hold
    files: int = 256  # open files, of each process


@dataclass(frozen=True, slots=True)
class Profile:
    """A named set of rights. The defaults are those for code that nobody has read."""

    name: str = "default"
    view: View = "system"
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    protect: tuple[str, ...] = ()  # absolute, beneath one of `rw`
    net: Net = "none"
    env: dict[str, str] = field(default_factory=dict)
    workspace: int = 0  # bytes of a private /workspace; 0: none
    limits: Limits = Limits()
    on_output_limit: OnOutput = "truncate"
    grace: float = 0.5  # between SIGTERM and SIGKILL, when the time is over
    require: tuple[str, ...] = ()  # layers without which nothing runs
    allow_degraded: tuple[str, ...] = ()  # layers and limits that may be missing
    commands: tuple[str, ...] | None = None  # patterns of what may be run; None: anything
    unix_sockets: bool = False
    debug: bool = False
    python: str = ""  # the interpreter of exec_python; "": the one that otpd runs on

    @property
    def protected(self) -> tuple[str, ...]:
        """What must stay as it is although it lies in a writable directory: `protect`, and what of `ro` does."""
        inside = (path for path in self.ro if any(path.startswith(grant.rstrip("/") + "/") for grant in self.rw))
        return (*self.protect, *inside)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(table: dict[str, Any]) -> Profile:
        """What `to_dict` gave, also after a journey through msgpack."""
        given = dict(table)
        given["limits"] = Limits(**given["limits"])
        for key in ("ro", "rw", "protect", "require", "allow_degraded"):
            given[key] = tuple(given[key])
        if given["commands"] is not None:
            given["commands"] = tuple(given["commands"])
        return Profile(**given)


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of a profile that a worker holds ready. Profiles with equal settings share workers."""

    view: View
    ro: tuple[str, ...]
    net: Net
    tmp: int
    tmp_files: int
    shm: int
    workspace: int
    python: str  # "": the worker runs commands; else snippets, in this interpreter

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(table: dict[str, Any]) -> Settings:
        return Settings(**{**table, "ro": tuple(table["ro"])})


def settings(profile: Profile, *, python: str = "") -> Settings:
    limits = profile.limits
    return Settings(
        profile.view, profile.ro, profile.net, limits.tmp, limits.tmp_files, limits.shm, profile.workspace, python
    )


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The table [commands] without its profiles."""

    workers: int = 2
    max_queue: int = 64
    max_per_caller: int = 8
    queue_timeout: float = 5.0
    backend: str = "auto"
    slot_uids: tuple[int, int] = (200_000, 200_063)  # when otpd runs as root
    recycle_after: int = 1000  # commands, then a worker is replaced
    profiles: dict[str, Profile] = field(default_factory=lambda: {"default": Profile()})
