"""Random trees of real processes, killed and stopped at random: exactly what the strategies say happens, nothing else."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from otpd.supervisor import linux, sweep
from otpd.supervisor.launch import CHILD
from tests.conformance.desk import Desk
from tests.conformance.lanes import CONFIG, drive_all
from tests.conformance.real import RealReplay
from tests.conformance.replay import Replay, normal
from tests.conformance.scripted import WORKER
from tests.e2e.node import node

TREES, STEPS = 10, 30
REASONS = ["error", "error", "kill", "kill", "normal", "shutdown"]
pytestmark = pytest.mark.timeout(240)


class Prediction(Replay):
    """A scenario that is made up while the pure tree, in virtual time, says what each step leads to."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        tree = {"id": "root", "kind": "supervisor", "intensity": 1000, "period": 60, "children": self._children(0)}
        super().__init__({"name": f"seed {seed}", "tags": [], "tree": tree, "steps": [], "expect": []})
        self._expect(self._boot())
        for _ in range(STEPS):
            self._step(self._random_step())
        self._step({"op": "stop_tree"})

    def _children(self, depth: int) -> list[dict[str, Any]]:
        return [self._child(name, depth) for name in "abcde"[: self.random.randint(2, 4 if depth else 5)]]

    def _child(self, name: str, depth: int) -> dict[str, Any]:
        pick = self.random.choice
        restart = pick(["permanent", "permanent", "permanent", "transient", "temporary"])
        if depth < 2 and self.random.random() < 0.35:
            flags = {"strategy": pick(["one_for_one", "one_for_all", "rest_for_one"]), "intensity": pick([1, 3, 1000])}
            below = {"kind": "supervisor", "period": 60, "children": self._children(depth + 1), **flags}
            return {"id": name, "restart": "permanent", **below}
        stop = pick(["clean", "clean", "exit0", "error", {"slow_ms": 10}])
        start = pick([{}, {}, {}, {"2": "fail"}, {"3": "ignore"}])
        return {"id": name, "restart": restart, "behaviour": {"start": start, "stop": stop}}

    # --- steps ---

    def _random_step(self) -> dict[str, Any]:
        rows = [row for row in self._snapshot() if "/" in row[0]]
        alive = [row[0] for row in rows if row[1] == "alive" and len(row) == 3]
        kind = self.random.choices(["crash", "batch", "terminate", "restart"], [50, 20, 15, 15])[0]
        if kind in ("crash", "batch") and not alive:
            kind = "restart"
        match kind:
            case "crash":
                return self._crash_of(self.random.choice(alive))
            case "batch":
                return self._batch_of(alive)
        sup, _, child = self.random.choice(rows or [["root/a"]])[0].rpartition("/")
        return {"op": f"{kind}_child", "sup": sup, "id": child}

    def _crash_of(self, path: str) -> dict[str, Any]:
        return {"op": "crash", "path": path, "reason": self.random.choice(REASONS)}

    def _batch_of(self, alive: list[str]) -> dict[str, Any]:
        """Several children of one supervisor at once, before it notices any."""
        sup = self.random.choice(alive).rpartition("/")[0]
        siblings = [path for path in alive if path.rpartition("/")[0] == sup]
        chosen = self.random.sample(siblings, min(len(siblings), self.random.randint(2, 3)))
        return {"op": "batch", "sup": sup, "actions": [self._crash_of(path) for path in chosen]}

    def _step(self, step: dict[str, Any]) -> None:
        self.world.log, self.crashed = [], set()
        self.scenario["steps"].append(step)
        self._expect(self._do(step))

    def _expect(self, result: Any) -> None:
        outcome = {"result": result, "snapshot": self._snapshot(), "events": self._folded()}
        self.scenario["expect"].append(normal(outcome))


class Counted(RealReplay):
    """After each step there is one process for each worker that should live, and no other."""

    def _snapshot(self) -> list[Any]:
        rows = super()._snapshot()
        expected = Counter(self.names.of(row[0]) for row in rows if row[1] == "alive" and len(row) == 3)
        found = Counter(name for name in named(self.desk.root_pid) if name.startswith(self.names.key + "."))
        assert found == expected
        return rows


def named(root_pid: int) -> list[str]:
    """The names of all workers that are processes now."""
    return [name for pid in linux.children(root_pid) if (name := sweep.cookie_of(pid).get(CHILD, "").strip())]


@contextmanager
def watch_for_duplicates(root_pid: int) -> Iterator[list[str]]:
    """Names of which two processes were seen alive at the same time, all the while."""
    twice: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            twice.extend(duplicates(root_pid))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield twice
    finally:
        over.set()
        thread.join()


def duplicates(root_pid: int) -> list[str]:
    seen: dict[str, int] = {}
    found = []
    for pid in linux.children(root_pid):
        name = sweep.cookie_of(pid).get(CHILD, "").strip()
        if name in seen and lives(seen[name], name):
            found.append(f"{name}: {seen[name]} and {pid}")
        if name:
            seen[name] = pid
    return found


def lives(pid: int, name: str) -> bool:
    stat = linux.stat(pid)
    return stat is not None and stat.state not in "ZX" and sweep.cookie_of(pid).get(CHILD) == name


def test_exactly_the_strategys_set_restarts_in_random_trees() -> None:
    """T52, T1: ten trees, thirty random kills and stops each (several at once, too). After every step events, states and
    generations are what the pure tree says, each living worker is one process, two of one name are never seen, and when
    a tree is stopped nothing of it is left."""
    scenarios = [Prediction(seed).scenario for seed in range(TREES)]
    with node(CONFIG, {"scripted.py": WORKER}) as n, Desk(n.control, n.home) as desk:
        helpers = set(linux.children(desk.root_pid))
        with watch_for_duplicates(desk.root_pid) as twice:
            differences = drive_all(scenarios, desk, "C", Counted)
        assert [str(each) for found in differences.values() for each in found] == []
        assert len(differences) == TREES
        assert twice == []
        left = [
            pid for pid in set(linux.children(desk.root_pid)) - helpers if sweep.cookie_of(pid).get(CHILD, "").strip()
        ]
        assert [Path(f"/proc/{pid}/cmdline").read_text() for pid in left] == []
        assert restarts(scenarios) > TREES * STEPS / 3


def restarts(scenarios: list[dict[str, Any]]) -> int:
    """How many automatic and manual starts the scenarios have after the first ones: the test is about something."""
    events = [event for each in scenarios for outcome in each["expect"][1:] for event in outcome["events"]]
    return sum(event[0] == "start" for event in events)
