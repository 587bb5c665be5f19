"""What root shows of a real tree, with nothing around it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from otpd.supervisor import picture
from otpd.supervisor.events import Boot
from otpd.supervisor.spec import Backoff
from tests.supervisor.rig import Rig, supervisor, worker

BACKOFF = Backoff(initial=8.0, jitter=0.0)


@dataclass
class Silent:
    """A process that runs and is not heard."""

    silent: str | None = None

    def silence(self, _now: float) -> str | None:
        return self.silent


def root(rig: Rig, **live: Silent) -> Any:
    """`live`: who has a process, by name."""
    return SimpleNamespace(
        tree=rig.tree,
        node=SimpleNamespace(name="shop"),
        loop=SimpleNamespace(now=rig.now),
        journal=SimpleNamespace(deaths=lambda _name: []),
        workers=SimpleNamespace(live=lambda path: live.get(path.rpartition("/")[2])),
        shown=lambda path: path.partition("/")[2],
    )


def why(rig: Rig, path: str, **live: Silent) -> dict[str, Any]:
    return picture.why(root(rig, **live), f"top/{path}")


def test_who_can_not_be_started_yet_is_told_for_whom_it_waits_and_how_long() -> None:
    rig = Rig(supervisor("s", worker("x"), max_restarts=0, backoff=BACKOFF), isolate=True)
    rig.feed(Boot())
    assert why(rig, "s/x")["waits_for"] == {"name": "s", "state": "starting", "next_attempt_s": None}
    assert why(rig, "s")["waits_for"] == {"name": "shop", "state": "starting", "next_attempt_s": None}
    rig.settle()
    assert why(rig, "s/x")["waits_for"] is None
    for _ in range(2):  # the first restart is at once
        rig.gone("s/x")
        rig.settle()
    assert why(rig, "s/x")["waits_for"] == {"name": "s", "state": "backoff", "next_attempt_s": 8.0}


def test_of_one_that_runs_nothing_is_said_but_its_silence() -> None:
    rig = Rig(worker("a", backoff=BACKOFF)).boot()
    assert (why(rig, "a", a=Silent())["state"], why(rig, "a", a=Silent())["what"]) == ("running", None)
    assert why(rig, "a", a=Silent("silent for 6.2 s"))["what"] == "silent for 6.2 s"
    rig.gone("a", "error(7)")
    assert why(rig, "a")["what"] == "error(7)"


def test_why_a_supervisor_did_not_start_is_said_in_words() -> None:
    rig = Rig(supervisor("s", worker("x"), backoff=BACKOFF), isolate=True)
    rig.feed(Boot())
    rig.fail("s/x", "error(ImportError: no feed)")
    assert why(rig, "s")["what"] == "failed_to_start_child: x: error(ImportError: no feed)"
