"""What root makes of the reports of guards: counts per name over all incarnations, events at a bounded rate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from otpd.ipc.frames import unpack
from otpd.supervisor.spawns import BURST, Spawns
from otpd.supervisor.spec import Launch

WARN = Launch(kind="agent", script="/feed.py", spawn="warn")
TOLD = {"call": "os.system", "program": "git", "place": "/feed.py:3 in f", "instead": "self.exec"}


class Desk:
    """root, as far as reports concern it, and one agent `feed`."""

    def __init__(self, kind: Any = "agent") -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.loop = SimpleNamespace(now=100.0)
        self.journal = SimpleNamespace(event=lambda kind, *_who, **fields: self.events.append((kind, fields)))
        self.spawns = Spawns(self)  # type: ignore[arg-type]
        self.live: Any = SimpleNamespace(
            name="feed", path="top/feed", generation=1, launch=Launch(kind=kind, script="/feed.py", spawn="warn")
        )

    def shown(self, path: str) -> str:
        return path.partition("/")[2]

    def say(self, *packets: Any) -> tuple[int, int]:
        for packet in packets:
            self.spawns.heard(self.live, packet)
        counts = self.spawns.counts("feed", WARN)
        return counts["seen"], counts["refused"]


def test_a_new_place_is_an_event_and_what_why_shows_last() -> None:
    desk = Desk()
    assert desk.say(["guard", ["audit"], ""], ["spawn", TOLD, 1, 0]) == (1, 0)
    assert desk.events == [("child.spawned", TOLD)]
    assert desk.spawns.details("feed", WARN) == {
        "policy": "warn", "seen": 1, "refused": 0, "layers": ["audit"], "last": TOLD,
    }  # fmt: skip


def test_what_was_refused_and_a_guard_that_lacks_a_layer_are_other_events() -> None:
    desk = Desk()
    desk.say(["guard", ["audit"], "no seccomp: EINVAL"], ["spawn", TOLD, 1, 1])
    assert [kind for kind, _ in desk.events] == ["child.unguarded", "child.spawn_refused"]


def test_counts_go_on_over_incarnations_until_the_child_is_forgotten() -> None:
    desk = Desk()
    assert desk.say(["spawn", TOLD, 1, 0], ["spawns", 7, 0]) == (7, 0)
    desk.live.generation = 2
    assert desk.say(["guard", ["audit"], ""]) == (7, 0)
    assert desk.say(["spawns", 2, 1]) == (9, 1)
    desk.spawns.forget("feed")
    assert desk.say() == (0, 0)


def test_a_crash_loop_that_meets_its_places_again_and_again_does_not_fill_the_log() -> None:
    desk = Desk()
    for generation in range(1, 201):
        desk.live.generation = generation
        desk.say(["spawn", TOLD, 1, 0])
    assert (len(desk.events), desk.say()) == (BURST, (200, 0))
    desk.loop.now += 60.0
    desk.say(["spawn", TOLD, 2, 0])
    assert desk.events[-1] == ("child.spawned", {**TOLD, "suppressed": 200 - BURST})


@pytest.mark.parametrize(
    "packet",
    [
        ["spawn"], ["spawn", "x", 1, 0], ["spawn", {}, -1, -1], ["spawn", {}, 1, 2], ["spawns", 2**60, 0],
        ["spawns", "1", 0], ["guard", "audit", ""], ["guard", [], None], [], None, 7, "spawn",
    ],
)  # fmt: skip
def test_what_is_no_report_is_ignored(packet: Any) -> None:
    desk = Desk()
    assert (desk.say(packet), desk.events) == ((0, 0), [])


def test_what_a_report_says_is_bounded_and_text() -> None:
    desk = Desk()
    desk.say(["spawn", {"call": "x" * 10_000, "place": 7, 3: "y"}, 1, 0], ["guard", ["audit", "magic", 3], "z" * 10_000])
    assert desk.events[0] == ("child.spawned", {"call": "x" * 300, "program": "", "place": "7", "instead": ""})
    assert len(desk.events[1][1]["detail"]) == 300
    assert desk.spawns.details("feed", WARN)["layers"] == ["audit"]


def test_a_report_that_is_nested_as_deeply_as_a_packet_can_be_ends_nobody() -> None:
    desk = Desk()
    assert desk.say(["spawn", {**TOLD, "program": unpack(b"\x91" * 1000 + b"\x90")}, 1, 0]) == (1, 0)
    assert desk.events == [("child.spawned", {**TOLD, "program": ""})]


def test_a_program_has_nothing_to_report() -> None:
    desk = Desk(kind="program")
    assert (desk.say(["spawn", TOLD, 1, 0]), desk.events) == ((0, 0), [])


def test_a_guard_that_complains_again_and_again_does_not_fill_the_log_either() -> None:
    desk = Desk()
    desk.say(*[["guard", ["audit"], "no seccomp"]] * 1000)
    assert desk.events == [("child.unguarded", {"detail": "no seccomp"})] * BURST
