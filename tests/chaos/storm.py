"""Kills and stops what a node is made of, at random, from a seed; and the node that it does this to."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from otpd.ipc.control import ControlError
from tests.e2e.node import Node, node

ACTORS = tuple(f"actor{number}" for number in range(20))
#: They do nothing but have schedules, and lose their names when the storm is over.
MAYFLIES = ("mayfly0", "mayfly1", "mayfly2")
MAYFLY = """
from otpd.agents import Agent, every, run

class Mayfly(Agent):
    async def init(self):
        await self.schedule(after="1h", method="never", key="the only one")

    @every("500ms")
    async def tick(self): ...

    async def never(self): ...

if __name__ == "__main__":
    run(Mayfly)
"""
#: How often each is chosen, and how long one may stand still (seconds). root's death takes everybody with it: rarely.
VICTIMS = {"agent": 12, "broker": 5, "store": 4, "scheduler": 4, "zygote": 3, "root": 1}
STANDSTILL = (0.05, 1.5)
PAUSE = (0.05, 0.4)
SERVICES = ("broker", "store", "scheduler")
#: Kills are no faults of the messages that they hit: none must be given up for them.
STORE = "[services.store]\nmax_attempts = 100\n"
HEALTH = 'health = { call = true, interval = "1s", timeout = "1s", failures = 30 }\n'
Files = Mapping[str, str]
NO_FILES: Files = {}


@contextmanager
def stage(
    seed: int, names: Sequence[str] = ACTORS, services: Sequence[str] = SERVICES, more: str = "", files: Files = NO_FILES
) -> Iterator[tuple[Node, Path]]:
    """A node of actors that talk, and of what `more` says, and the directory of their facts."""
    script = (Path(__file__).parent / "actor.py").read_text()
    with node("", start=False, files=dict(files), services=services) as made:
        facts = made.home / "facts"
        facts.mkdir()
        args = f'args = {{ peers = {[*names]}, facts = "{facts}", seed = {seed} }}'.replace("'", '"')
        backoff = 'backoff = { initial = "10ms", max = "100ms" }'
        asked = HEALTH if "health" in services else ""
        tables = [f'[agents.{name}]\nscript = "actor.py"\n{args}\n{backoff}\n{asked}' for name in names]
        tables += [f'[agents.{name}]\nscript = "mayfly.py"\n{backoff}\n' for name in MAYFLIES if names == ACTORS]
        made.write("otpd.toml", "\n".join([*tables, STORE, more.replace("FACTS", str(facts))]))
        made.write("actor.py", script)
        made.write("mayfly.py", MAYFLY)
        made.start()
        yield made, facts


class Storm:
    """`rage` for some seconds, and until all have been killed whom agents depend on; `done` counts what it did."""

    def __init__(self, made: Node, seed: int) -> None:
        self._node = made
        self._random = random.Random(seed)
        self.done: Counter[str] = Counter()

    def rage(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end or not all(self.done[f"{kind} killed"] for kind in ("agent", *SERVICES)):
            with contextlib.suppress(ControlError, OSError, KeyError, TypeError):  # the node is on its way back
                self._strike()
            time.sleep(self._random.uniform(*PAUSE))  # the rate of the storm, not a wait

    def _strike(self) -> None:
        kind = self._random.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        pid = self._pid(kind)
        if self._random.random() < 0.7:
            os.kill(pid, signal.SIGKILL)
            self.done[f"{kind} killed"] += 1
            return
        os.kill(pid, signal.SIGSTOP)
        self.done[f"{kind} stopped"] += 1
        time.sleep(self._random.uniform(*STANDSTILL))  # how long it stands still, not a wait
        os.kill(pid, signal.SIGCONT)

    def _pid(self, kind: str) -> int:
        if kind == "root":
            return int(self._node.facts()["pid"])
        if kind == "zygote":
            return int(self._node.facts()["zygote_pid"])
        name = kind if kind in SERVICES else self._random.choice(ACTORS)
        return self._node.pid(name)
