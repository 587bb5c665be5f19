"""Restarts with real processes: back-off, budgets, strategies, escalation, and what `otpd why` makes of it (T5-T10)."""

from __future__ import annotations

import math
import os
import time
from itertools import pairwise
from typing import Any

import pytest

from otpd.supervisor import linux
from tests.e2e.node import Node, node
from tests.e2e.watching import cpu_seconds
from tests.helpers import eventually

#: Ends as the file named after it says, once that file is there; each incarnation looks for a file of its own.
ENDS = """
import os, sys, time
name, generation = os.environ["OTPD_CHILD"], os.environ["OTPD_GENERATION"]
while True:
    for path in (f"{name}.{generation}", f"{name}.all"):
        if os.path.exists(path):
            sys.exit(int(open(path).read() or 0))
    time.sleep(0.01)
"""


def program(name: str, *lines: str) -> str:
    return "\n".join([f"[programs.{name}]", 'script = "ends.py"', *lines, ""])


def supervisor(name: str, *lines: str) -> str:
    return "\n".join([f"[supervisors.{name}]", *lines, ""])


def end(n: Node, name: str, status: int = 1, generation: int | str | None = None) -> None:
    """Let an incarnation, by default the present one, exit."""
    which = n.worker(name)["generation"] if generation is None else generation
    n.write(f".{name}", str(status)).rename(n.home / f"{name}.{which}")


def of(n: Node, *kinds: str, since: int = 0) -> list[dict[str, Any]]:
    return [each for each in n.events()[since:] if each["event"].removeprefix("otpd.") in kinds]


def moves(n: Node, since: int) -> list[tuple[str, str]]:
    """Starts and ends in order."""
    return [(e["event"].removeprefix("otpd.child."), e["name"]) for e in of(n, "child.started", "child.exited", since=since)]


# --- back-off ---


def test_children_that_exit_at_once_cost_little_and_keep_the_node_quick() -> None:
    """T5 with a back-off that is 15 times as fast: starts are bounded by the formula, root is idle, answers come at once."""
    count, initial, most, seconds = 5, 0.1, 2.0, 6.0
    children = "".join(
        f'[programs.p{k}]\ncommand = ["false"]\nbackoff = {{ initial = "100ms", max = "2s" }}\n' for k in range(count)
    )
    with node(children, start=False) as n:
        n.start(None, "--timeout", "1ms")
        eventually(n.answers)
        root = n.facts()["pid"]
        began, before = time.monotonic(), cpu_seconds(root)
        while time.monotonic() < began + seconds:
            n.ask("tree")
            time.sleep(0.05)  # the rate of the questions, not a wait
        elapsed, used = time.monotonic() - began, cpu_seconds(root) - before
        starts = [row["generation"] for row in n.workers().values()]
        bound = 2 + math.ceil(math.log2(most / initial)) + elapsed / (0.8 * most)
        assert all(2 < each <= bound for each in starts), (starts, bound)
        # 2 % of a core with delays of 30 s are 30 % with delays of 2 s; the questions themselves cost most of this.
        assert used / elapsed < 0.3, f"root used {used:.2f} s in {elapsed:.1f} s"
        assert n.log("p0") == ""


def test_the_delays_double_up_to_their_maximum_and_are_kept() -> None:
    """T6: at once, then base * 2^k within 20 %, up to max; and the next start comes when it was announced."""
    with node('[programs.p]\ncommand = ["false"]\nbackoff = { initial = "50ms", max = "400ms" }\n', start=False) as n:
        n.start(None, "--timeout", "1ms")
        eventually(lambda: n.answers() and len(of(n, "restart.scheduled")) >= 7, 20)
        delays = [each["delay"] for each in of(n, "restart.scheduled")]
        for k, delay in enumerate(delays):
            wanted = min(0.4, 0.05 * 2**k)
            assert 0.8 * wanted <= delay <= 1.2 * wanted, (k, delay)
        events = of(n, "child.exited", "child.started", "restart.scheduled")
        assert [e["event"] for e in events[:4]] == [
            "otpd.child.started", "otpd.child.exited", "otpd.child.started", "otpd.child.exited",
        ]  # fmt: skip
        for first, second in pairwise(events):
            if first["event"] == "otpd.restart.scheduled":
                assert first["delay"] - 0.1 <= second["at"] - first["at"] <= first["delay"] + 0.5


def test_after_a_stable_run_the_next_crash_is_restarted_at_once() -> None:
    """T7: reset_after is counted from ready."""
    config = program("p", 'backoff = { initial = "300ms", max = "30s", reset_after = "1s" }')
    with node(config, {"ends.py": ENDS}) as n:
        for generation in (1, 2, 3):
            end(n, "p", 1, generation)
            n.reborn("p", generation)
        assert [round(each["delay"], 1) for each in of(n, "restart.scheduled")] == pytest.approx([0.3, 0.6], rel=0.25)
        eventually(lambda: n.worker("p")["uptime_s"] > 1.2)
        since = len(n.events())
        end(n, "p")
        n.reborn("p", 4)
        assert of(n, "restart.scheduled", since=since) == []
        end(n, "p")
        n.reborn("p", 5)
        (again,) = of(n, "restart.scheduled", since=since)
        assert again["delay"] == pytest.approx(0.3, rel=0.21)


def test_what_can_not_be_executed_is_told_with_its_reason_and_backs_off() -> None:
    """T9, test 13: no interpreter, no permission, no format; once per attempt, never a spin."""
    config = "".join(
        f'[programs.{name}]\ncommand = ["./{name}"]\nbackoff = {{ initial = "200ms", max = "30s" }}\n'
        for name in ("interpreter", "format", "directory")
    )
    files = {"interpreter": "#!/nowhere/sh\n", "format": "\x7fELF rubbish", "directory": "#!/bin/sh\nsleep 1000\n"}
    with node(config, files, start=False) as n:
        for name in files:
            (n.home / name).chmod(0o755)
        n.start(None, "--timeout", "2s")
        eventually(n.answers, what="root answers")
        refused = [name for name in files if name != "directory"]
        reasons = eventually(lambda: all((found := {name: n.worker(name)["what"] for name in refused}).values()) and found)
        assert "/nowhere/sh" in reasons["interpreter"] or "No such file" in reasons["interpreter"]
        assert "format" in reasons["format"].lower()
        n.when("directory", state="running")
        (n.home / "directory").unlink()
        n.kill(n.pid("directory"))
        row = n.when("directory", state="backoff")
        assert "directory" in row["what"]
        assert all(row["generation"] < 10 for row in n.workers().values())
        assert n.otpd("why", "format").stdout.count("generation ") >= 2


def test_children_of_one_failure_do_not_come_back_in_lockstep() -> None:
    """T10: their delays spread over more than a tenth of the delay."""
    names = [f"p{k}" for k in range(12)]
    config = "".join(program(name, 'backoff = { initial = "2s", max = "2s" }') for name in names)
    with node(config, {"ends.py": ENDS}) as n:
        for generation in (1, 2):
            for name in names:
                end(n, name, 1, generation)
        found = eventually(lambda: (e := of(n, "restart.scheduled")) and len(e) == len(names) and e, 20)
        delays = [each["delay"] for each in found]
        assert max(delays) - min(delays) >= 0.1 * 2
        assert all(0.8 * 2 <= each <= 1.2 * 2 for each in delays)
        n.stop()


# --- strategies ---


@pytest.mark.parametrize(
    ("strategy", "order"),
    [
        ("one_for_one", "-b +b"),
        ("rest_for_one", "-b -d -c +b +c +d"),
        ("one_for_all", "-b -d -c -a +a +b +c +d"),
    ],
)
def test_a_crash_touches_exactly_those_whom_the_strategy_names_in_its_order(strategy: str, order: str) -> None:
    """Rules 31-37, 68, T52: the others keep their pids, one group restart counts once, siblings are not called crashed,
    and all are reaped."""
    names = "abcd"
    config = supervisor("s", f'strategy = "{strategy}"') + "".join(
        f'[agents.{name}]\nscript = "idle.py"\nsupervisor = "s"\n' for name in names
    )
    with node(config + '[agents.outside]\nscript = "idle.py"\n') as n:
        before, since = {name: row["pid"] for name, row in n.workers().items()}, len(n.events())
        n.kill(before["b"])
        touched = {word[1] for word in order.split()}
        for name in touched:
            n.reborn(name, 1)
        words = {"-": "exited", "+": "started"}
        assert moves(n, since) == [(words[word[0]], word[1]) for word in order.split()]
        after = {name: row["pid"] for name, row in n.workers().items()}
        assert {name for name in before if before[name] != after[name]} == touched
        assert n.json("why", "b")["restarts_in_window"] == 1
        assert [each["child"] for each in of(n, "report.child_terminated", since=since)] == ["b"]
        assert of(n, "report.shutdown_error", since=since) == []
        for name in touched - {"b"}:
            (death,) = n.json("why", name)["deaths"]
            assert (death["reason"], death["asked_by"]) == ("shutdown", "its supervisor")
        eventually(lambda: not zombies_below(n.facts()["pid"]), what="all are reaped")


def zombies_below(pid: int) -> list[int]:
    return [child for child in linux.children(pid) if (found := linux.stat(child)) and found.state == "Z"]


def test_a_supervisor_that_gives_up_takes_its_children_with_it_and_its_own_supervisor_decides() -> None:
    """Rules 43-48, 51: one more than max_restarts; the outer one counts it, the window is empty afterwards."""
    config = (
        supervisor("outer", "max_restarts = 5", "max_seconds = 60")
        + supervisor("inner", 'supervisor = "outer"', "max_restarts = 1", "max_seconds = 60")
        + program("crashes", 'supervisor = "inner"')
        + program("sibling", 'supervisor = "inner"')
        + program("cousin", 'supervisor = "outer"')
    )
    with node(config, {"ends.py": ENDS}) as n:
        before = {name: row["pid"] for name, row in n.workers().items()}
        end(n, "crashes")
        n.reborn("crashes", 1)
        since = len(n.events())
        end(n, "crashes")
        n.reborn("crashes", 2)
        n.reborn("sibling", 1)
        (gave_up,) = of(n, "supervisor.gave_up")
        assert (gave_up["name"], gave_up["child"], gave_up["max_restarts"]) == ("inner", "crashes", 1)
        assert moves(n, since) == [
            ("exited", "crashes"), ("exited", "sibling"), ("started", "crashes"), ("started", "sibling"),
        ]  # fmt: skip
        assert n.pid("cousin") == before["cousin"]
        inner, outer = _supervisor(n, "inner"), _supervisor(n, "outer")
        assert (inner["restarts_in_window"], inner["restarts"], inner["generation"]) == (0, 1, 2)
        assert outer["restarts_in_window"] == 1


def _supervisor(n: Node, name: str) -> dict[str, Any]:
    todo = [n.json("tree")["tree"]]
    for each in todo:  # grows while it is walked
        if each["name"] == name:
            return dict(each)
        todo += each.get("children", [])
    raise AssertionError(f"no supervisor {name}")


# --- restart types ---


def test_temporary_and_transient_children_end_as_their_type_says() -> None:
    """Rules 23-25: a clean transient stays as a spec, a crashed one comes back, a temporary one is forgotten."""
    config = (
        program("temporary", 'restart = "temporary"')
        + program("clean", 'restart = "transient"')
        + program("crashes", 'restart = "transient"')
        + program("permanent")
    )
    with node(config, {"ends.py": ENDS}) as n:
        for name, status in (("temporary", 1), ("clean", 0), ("crashes", 1), ("permanent", 0)):
            end(n, name, status, 1)
        n.reborn("permanent", 1)
        n.reborn("crashes", 1)
        n.when("clean", state="stopped", generation=1)
        eventually(lambda: "temporary" not in n.workers())
        assert n.worker("clean")["last_exit"]["reason"] == "normal"
        n.otpd("why", "temporary", check=4)
        reported = {each["child"] for each in of(n, "report.child_terminated")}
        assert reported == {"temporary", "crashes", "permanent"}
        n.otpd("status", "--wait", "ready", "--timeout", "5s")
        n.otpd("child", "start", "clean")
        n.when("clean", state="running", generation=2)


@pytest.mark.parametrize(("mode", "ends"), [("any_significant", ["x"]), ("all_significant", ["x", "y"])])
def test_a_supervisor_ends_with_its_significant_children(mode: str, ends: list[str]) -> None:
    """Rules 70-73: a crash does not count, a clean end does; the rest is stopped in order and nothing is restarted."""
    config = (
        supervisor("s", f'auto_shutdown = "{mode}"', 'restart = "transient"')
        + program("x", 'supervisor = "s"', 'restart = "transient"', "significant = true")
        + program("y", 'supervisor = "s"', 'restart = "transient"', "significant = true")
        + program("z", 'supervisor = "s"')
        + program("outside")
    )
    with node(config, {"ends.py": ENDS}) as n:
        outside = n.pid("outside")
        end(n, "x", 1)
        n.reborn("x", 1)
        assert of(n, "supervisor.auto_shutdown") == []
        for name in ends:
            assert _supervisor(n, "s")["state"] == "running"
            end(n, name, 0)
            eventually(lambda name=name: n.worker(name)["state"] != "running")  # type: ignore[misc]
        eventually(lambda: _supervisor(n, "s")["state"] != "running")
        (ended,) = of(n, "supervisor.auto_shutdown")
        assert (ended["name"], ended["child"]) == ("s", ends[-1])
        rest = [name for name in ("z", "y") if name not in ends]
        assert moves(n, n.events().index(ended)) == [("exited", name) for name in rest]
        assert n.pid("outside") == outside
        assert [row["state"] for row in n.workers().values() if row["state"] == "running"] == ["running"]


# --- arithmetic ---


def test_why_does_the_arithmetic_of_the_budget() -> None:
    """The numbers that a person needs: used, allowed, and what one more would do."""
    config = supervisor("s", "max_restarts = 2", "max_seconds = 60") + program("p", 'supervisor = "s"')
    with node(config, {"ends.py": ENDS}) as n:
        assert "s (one_for_one) has used 0 of 2 restarts within 1m00s; 2 more are allowed" in n.otpd("why", "p").stdout
        end(n, "p", 3)
        n.reborn("p", 1)
        text = n.otpd("why", "p").stdout
        assert "has used 1 of 2 restarts" in text
        assert "error(3)" in text
        assert "restart 1 of 2 within 1m00s" in text
        end(n, "p", 4)
        n.reborn("p", 2)
        text = n.otpd("why", "p").stdout
        assert "restart 2 of 2 within 1m00s; one more and s gives up" in text
        end(n, "p", 5)
        n.reborn("p", 3)
        text = n.otpd("why", "p").stdout
        assert "this was one more, and s gave up" in text
        assert "has used 0 of 2 restarts" in text
        n.otpd("restart", "p")
        found = n.json("why", "p")
        assert (found["restarts_in_window"], found["deaths"][0]["asked_by"]) == (0, "operator")
        assert [death["status"] for death in found["deaths"][1:]] == [5, 4, 3]


def test_a_stop_by_hand_a_restart_by_hand_and_scale_count_for_no_budget() -> None:
    """Rule 49."""
    config = supervisor("s", "max_restarts = 0", "max_seconds = 60") + program("p", 'supervisor = "s"')
    with node(config, {"ends.py": ENDS}) as n:
        for _ in range(2):
            n.otpd("restart", "p")
            n.otpd("child", "stop", "p")
            n.otpd("child", "start", "p")
            n.otpd("scale", "p", "2")
            n.otpd("scale", "p", "1")
        found = n.json("why", "p")
        assert (found["state"], found["restarts_in_window"], found["restarts"]) == ("running", 0, 0)
        assert n.worker("p")["generation"] == 5


def test_a_child_that_waits_for_its_next_attempt_can_be_stopped_and_started_at_once() -> None:
    """Rule 41: the request wins over the retry; T24: and the node stops without waiting for it."""
    config = "".join(program(name, 'backoff = { initial = "60s", max = "60s" }') for name in ("p", "q"))
    with node(config, {"ends.py": ENDS}) as n:
        for name in ("p", "q"):
            for generation in (1, 2):
                end(n, name, 1, generation)
            n.when(name, state="backoff", generation=2)
        assert 40 < n.worker("p")["next_attempt_s"] <= 72
        assert "next attempt" in n.otpd("why", "p").stdout
        n.otpd("child", "start", "p", check=3)
        n.otpd("restart", "p")
        n.when("p", state="running", generation=3)
        n.otpd("child", "stop", "q")
        assert (n.worker("q")["state"], n.worker("q")["next_attempt_s"]) == ("stopped", None)
        pid = n.pid("p")
        began = time.monotonic()
        n.stop()
        assert time.monotonic() - began < 30
        assert not os.path.exists(f"/proc/{pid}")
