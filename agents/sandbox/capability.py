"""What a backend gives on this machine, found by building a sandbox; and whether that is what a profile asks for.

`Capability` is data: `otpd doctor` shows it, the worker decides by it, every result repeats the part that was in force.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from otpd.agents.sandbox.cgroup import Leaf
from otpd.agents.sandbox.errors import NotEnforceable
from otpd.agents.sandbox.profile import Limits, Profile

Strength = Literal["hard", "best-effort", "none"]

#: Without these nothing runs, whatever the profile says, unless it allows their absence by name.
_ALWAYS: Final = ("no_new_privs", "seccomp", "view", "signals")


@dataclass(frozen=True, slots=True)
class Bound:
    """How strictly one limit is enforced, and by what."""

    enforced: Strength
    by: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A layer that is not there: why, and what would bring it."""

    why: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Capability:
    """One backend on this machine. `layers`: name to a detail such as the version; "" if there is none to tell."""

    backend: str
    layers: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Gap] = field(default_factory=dict)
    limits: dict[str, Bound] = field(default_factory=dict)
    launcher: str = "python"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(table: dict[str, Any]) -> Capability:
        missing = {name: Gap(**gap) for name, gap in table["missing"].items()}
        limits = {name: Bound(**bound) for name, bound in table["limits"].items()}
        return Capability(table["backend"], dict(table["layers"]), missing, limits, table["launcher"])

    def names(self) -> list[str]:
        """The layers as results list them: `seccomp:1`, `landlock:7`, `userns`."""
        return [f"{name}:{detail}" if detail else name for name, detail in self.layers.items()]


@dataclass(frozen=True, slots=True)
class Unavailable:
    """A backend that does not work here."""

    backend: str
    why: str
    fix: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Honoured:
    """A profile on a backend: what will be in force, and what the profile has agreed to do without."""

    limits: dict[str, dict[str, Any]]
    isolation: dict[str, Any]


def honour(profile: Profile, capability: Capability) -> Honoured:
    """NotEnforceable names everything that is asked for and missing, unless the profile allows it."""
    gaps = {name: gap for name, gap in _gaps(profile, capability) if name not in profile.allow_degraded}
    if gaps:
        text = "; ".join(f"{name}: {gap.why}" for name, gap in gaps.items())
        fixes = dict.fromkeys(gap.fix for gap in gaps.values() if gap.fix)
        allow = ", ".join(f'"{name}"' for name in gaps)
        raise NotEnforceable(
            f'profile "{profile.name}" asks for what the backend "{capability.backend}" can\'t give here: {text}.',
            layer=next(iter(gaps)),
            fix="; or ".join([*fixes, f"accept it with allow_degraded = [{allow}]"]),
        )
    degraded = sorted({name for name, _ in _gaps(profile, capability)})
    isolation = {
        "backend": capability.backend, "launcher": capability.launcher, "layers": capability.names(),
        "missing": sorted(capability.missing), "profile": profile.name, "degraded": degraded,
    }  # fmt: skip
    return Honoured(_report(profile.limits, capability), isolation)


def _gaps(profile: Profile, capability: Capability) -> Iterator[tuple[str, Gap]]:
    """What the profile asks for and the backend lacks."""
    unknown = Gap("this backend does not have it", "use another backend")
    for name in dict.fromkeys((*_asked(profile), *profile.require)):
        if name not in capability.layers:
            yield name, capability.missing.get(name, unknown)
    for each in dataclasses.fields(Limits):
        bound = capability.limits.get(each.name)
        if bound is not None and bound.enforced == "none":
            yield each.name, Gap(f"limits.{each.name} is not enforced ({bound.by})")
    memory = capability.limits.get("memory")
    if profile.limits.memory_mode == "hard" and memory is not None and memory.enforced == "best-effort":
        why = f'memory_mode = "hard" needs a memory cgroup that we may write (now: {memory.by})'
        yield "memory", Gap(why, 'systemd-run --user --scope -p Delegate=yes, or limits.memory_mode = "best-effort"')


def _asked(profile: Profile) -> Iterator[str]:
    yield from _ALWAYS
    if profile.net == "none":
        yield "net"
    if profile.protected:
        yield "protect"
    if profile.workspace:
        yield "mntns"


def _report(limits: Limits, capability: Capability) -> dict[str, dict[str, Any]]:
    return {
        name: {"value": getattr(limits, name), "enforced": bound.enforced, "by": bound.by}
        for name, bound in capability.limits.items()
    }


# --- what the backends are made of ---


def landlock_layer(abi: int) -> tuple[dict[str, str], dict[str, Gap]]:
    if abi:
        return {"landlock": str(abi)}, {}
    return {}, {"landlock": Gap("the kernel has no Landlock, or it is not enabled", "boot with lsm=landlock,...")}


def common_limits(leaf: Leaf | None) -> dict[str, Bound]:
    """Those that no namespace is needed for."""
    watched = Bound("best-effort", "RLIMIT_CPU per process, watch over all; not children for whom nobody waits")
    return {
        "wall": Bound("hard", "clock of the worker"),
        "cpu": Bound("hard", f"RLIMIT_CPU, watch of cgroup v{leaf.version}") if leaf and leaf.cpu else watched,
        "file_size": Bound("hard", "RLIMIT_FSIZE"),
        "output": Bound("hard", "worker"),
        "disk": Bound("best-effort", "watch, every 0.2 s"),
        "files": Bound("hard", "RLIMIT_NOFILE"),
    }


def memory_bound(leaf: Leaf | None) -> Bound:
    if leaf is not None and leaf.memory:
        return Bound("hard", f"cgroup v{leaf.version}")
    return Bound("best-effort", "watch every 5-50 ms, RLIMIT_DATA per process; not memory of the kernel")
