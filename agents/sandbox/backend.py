"""What the worker asks of a backend. Each keeps the promise of its capability table, and no more."""

from __future__ import annotations

import abc
import dataclasses
import os
from dataclasses import dataclass, field

from otpd.agents.sandbox import records, watch
from otpd.agents.sandbox.capability import Capability
from otpd.agents.sandbox.cgroup import Leaf
from otpd.agents.sandbox.errors import GrantRefused
from otpd.agents.sandbox.grants import IdMaps, Placeholder, check_grant, fill_first_missing, open_grant
from otpd.agents.sandbox.plans import Place
from otpd.agents.sandbox.profile import Profile, Settings
from otpd.agents.sandbox.records import Kind
from otpd.agents.sandbox.slot import Slot

#: A packet carries 253 descriptors; this leaves room.
_MOST_GRANTS = 200


@dataclass(slots=True)
class Granted:
    """What a run may write, opened: mounts to hand over, and the records that say where."""

    trees: list[int] = field(default_factory=list)
    mounts: list[bytes] = field(default_factory=list)
    protected: list[tuple[str, str]] = field(default_factory=list)  # grant, and the path beneath it
    placeholders: list[Placeholder] = field(default_factory=list)

    def close(self) -> None:
        for tree in self.trees:
            os.close(tree)
        self.trees.clear()

    def remove_placeholders(self) -> None:
        for each in self.placeholders:
            each.remove()
        self.placeholders.clear()


class Backend(abc.ABC):
    """One per worker. `start`, then for each run `take`; `prepare_next` whenever there is time; `close`."""

    name = ""

    def __init__(self, settings: Settings, slot_uid: int) -> None:
        self.settings = settings
        self.slot_uid = slot_uid
        self.leaf: Leaf | None = None

    @abc.abstractmethod
    def start(self) -> None:
        """Build a sandbox, or SandboxUnavailable."""

    @property
    @abc.abstractmethod
    def capability(self) -> Capability: ...

    @property
    @abc.abstractmethod
    def place(self) -> Place: ...

    @abc.abstractmethod
    def take(self, profile: Profile, granted: Granted) -> Slot:
        """A slot that is ready. SetupFailed, OSError."""

    def prepare_next(self) -> None:  # noqa: B027  only some can
        """Begin to make the next slot."""

    def coming(self) -> int:
        """A descriptor that is readable when `complete` can finish what `prepare_next` began; -1: there is none."""
        return -1

    def complete(self) -> None:  # noqa: B027  only some can
        """Finish the next slot. SetupFailed, OSError."""

    @abc.abstractmethod
    def grant(self, profile: Profile) -> Granted:
        """Open what the profile lets a command write. GrantRefused."""

    def measure(self, slot: Slot, limit: int) -> watch.Usage:
        seen = watch.measure(slot.proc, limit, bounded=self.bounded) if slot.proc >= 0 else watch.Usage()
        return self.with_cgroup(seen)

    @property
    def bounded(self) -> bool:
        """Whether a cgroup sees to the limit of memory."""
        return self.leaf is not None and self.leaf.memory

    def with_cgroup(self, seen: watch.Usage) -> watch.Usage:
        """A cgroup also counts those for whom nobody waits."""
        if self.leaf is None or not self.leaf.cpu:
            return seen
        return dataclasses.replace(seen, cpu=max(seen.cpu, self.leaf.cpu_since_limit()))

    def after(self) -> None:  # noqa: B027  only some have to
        """A run is over: nothing of it may be left."""

    @abc.abstractmethod
    def close(self) -> None:
        """Everything ends."""


def open_grants(profile: Profile, maps: IdMaps | None, *, mount: bool = True) -> Granted:
    """As detached mounts, or only checked. GrantRefused, after which nothing is open."""
    granted = Granted()
    if len(profile.rw) > _MOST_GRANTS:
        raise GrantRefused(profile.rw[_MOST_GRANTS], f"is one more than the {_MOST_GRANTS} that a run can be granted")
    try:
        for path in sorted(profile.rw):
            if not mount:
                check_grant(path, writable=True)
                continue
            grant = open_grant(path, writable=True, maps=maps)
            granted.mounts.append(records.mount(len(granted.trees), grant.path, file=grant.file))
            granted.trees.append(grant.tree)
        for path in profile.protected:
            _protect(granted, profile, path)
    except BaseException:
        granted.close()
        granted.remove_placeholders()
        raise
    return granted


def _protect(granted: Granted, profile: Profile, path: str) -> None:
    """What is missing is made, because what does not exist can't be kept from being made: its first missing part."""
    grant = max((each for each in profile.rw if path.startswith(each.rstrip("/") + "/")), key=len)
    beneath = path[len(grant.rstrip("/")) + 1 :]
    placeholder = fill_first_missing(grant, beneath)
    if placeholder is not None:
        beneath = placeholder.path
        granted.placeholders.append(placeholder)
    granted.protected.append((grant, beneath))
    granted.mounts.append(records.text(Kind.PROTECT, grant, beneath))
