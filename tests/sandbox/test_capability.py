"""A profile on a backend: what is honoured, what is refused, what the profile agrees to do without."""

from __future__ import annotations

import dataclasses

import pytest

from otpd.agents.sandbox import Limits, NotEnforceable, Profile
from otpd.agents.sandbox.capability import Bound, Capability, Gap, honour

FULL = Capability(
    "native",
    dict.fromkeys(("userns", "pidns", "mntns", "net", "view", "signals", "protect", "no_new_privs", "seccomp"), ""),
    {"slot_uid": Gap("ordinary user", "run as root")},
    {"wall": Bound("hard", "clock"), "memory": Bound("best-effort", "watch")},
)
BARE = Capability(
    "landlock",
    {"no_new_privs": "", "seccomp": "1", "view": "", "signals": ""},
    {"protect": Gap("no mounts", "use native"), "net": Gap("no namespace")},
    {"memory": Bound("none", "nothing can be watched"), "tmp": Bound("best-effort", "watch")},
)


def test_what_is_honoured_is_reported_with_values() -> None:
    found = honour(Profile("p", limits=Limits(wall=2.0, memory=7)), FULL)
    assert found.limits == {
        "wall": {"value": 2.0, "enforced": "hard", "by": "clock"},
        "memory": {"value": 7, "enforced": "best-effort", "by": "watch"},
    }
    assert found.isolation["missing"] == ["slot_uid"]
    assert found.isolation["degraded"] == []
    assert "seccomp" in found.isolation["layers"]


def test_everything_that_is_missing_is_named_with_its_fix() -> None:
    with pytest.raises(NotEnforceable) as error:
        honour(Profile("p", rw=("/a",), protect=("/a/b",), require=("userns",)), BARE)
    text = str(error.value)
    for part in ('"p"', '"landlock"', "net: no namespace", "protect: no mounts", "userns:", "limits.memory is not enforced"):
        assert part in text
    assert "use native; or use another backend; or accept it with allow_degraded" in text


def test_a_profile_may_agree_to_do_without() -> None:
    found = honour(Profile(net="none", allow_degraded=("net", "memory")), BARE)
    assert found.isolation["degraded"] == ["memory", "net"]


def test_a_host_network_asks_for_none() -> None:
    assert honour(Profile(net="host", allow_degraded=("memory",)), BARE).isolation["degraded"] == ["memory"]


def test_hard_memory_is_refused_where_it_is_only_watched() -> None:
    profile = Profile(limits=Limits(memory_mode="hard"))
    with pytest.raises(NotEnforceable, match="systemd-run --user --scope -p Delegate=yes"):
        honour(profile, FULL)
    hard = dataclasses.replace(FULL, limits={"memory": Bound("hard", "cgroup v2")})
    assert honour(profile, hard).limits["memory"]["by"] == "cgroup v2"


def test_a_capability_survives_a_journey_as_data() -> None:
    assert Capability.from_dict(BARE.to_dict()) == BARE
