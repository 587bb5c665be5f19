"""Schedules in a real node: they fire, follow their agent, outlive every process, and are gone with their name."""

from __future__ import annotations

import datetime
import json
from typing import Any

from tests.e2e.node import Node, node
from tests.helpers import eventually

SERVICES = ("scheduler",)
AGENT = """\
import os
from otpd.agents import Agent, call, cron, every, run

class Clock(Agent):
    @every("100ms")
    async def tick(self):
        self.note("tick")

    @every("1h", fixed="delay", overlap="skip")
    def hourly(self):
        self.note("hourly")

    @cron("* * * * * *", misfire="skip")
    async def second(self):
        self.note("second")

    def ring(self, n: int):
        self.note(f"ring {n}")

    @call
    async def set(self, after: float, n: int) -> str:
        return await self.schedule(after=after, method="ring", n=n)

    @call
    async def unset(self, id: str) -> bool:
        return await self.cancel(id)

    def note(self, what):
        with open("diary", "a") as diary:
            diary.write(f"{what} {self.generation}\\n")

if __name__ == "__main__":
    run(Clock)
"""
CONFIG = '[agents.clock]\nscript = "clock.py"\n[agents.other]\nscript = "other.py"\n'
OTHER = "from otpd.agents import Agent, run\nclass Other(Agent): ...\nrun(Other)\n"
FILES = {"clock.py": AGENT, "other.py": OTHER}


def diary(n: Node) -> list[str]:
    path = n.home / "diary"
    return path.read_text().splitlines() if path.exists() else []


def ticks(n: Node, generation: int = 1) -> int:
    return diary(n).count(f"tick {generation}")


def rows(n: Node) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in n.json("schedule", "list")}


def call(n: Node, *words: str) -> Any:
    return json.loads(n.otpd("call", "clock", *words).stdout)


def test_the_life_of_schedules_through_the_deaths_of_everybody() -> None:
    with node(CONFIG, FILES, services=SERVICES) as n:
        eventually(lambda: ticks(n) > 3 and "second 1" in diary(n), 60, "it fires")
        assert set(rows(n)) == {"clock/tick", "clock/hourly", "clock/second"}

        before = {name: n.worker(name)["generation"] for name in ("clock", "other")}
        set_before = call(n, "set", "after=2", "n=1")
        n.kill(n.services()["scheduler"]["pid"])
        seen = ticks(n)
        eventually(lambda: ticks(n) > seen + 3, 60, "the next scheduler goes on")
        eventually(lambda: "ring 1 1" in diary(n), 60, "a timer outlives the scheduler")
        eventually(lambda: set_before not in rows(n), 60, "it has fired, and is gone")
        assert {name: n.worker(name)["generation"] for name in before} == before, "no agent restarts"

        n.kill(n.services()["broker"]["pid"])
        seen = ticks(n)
        eventually(lambda: ticks(n) > seen + 3, 60, "it fires through the next broker")

        second = call(n, "set", "after=1000", "n=2")
        n.kill(n.worker("clock")["pid"])
        eventually(lambda: ticks(n, 2) > 3, 60, "it fires for the next incarnation")
        eventually(lambda: rows(n)[second]["state"] == "armed", 60)
        n.otpd("schedule", "run", second)
        eventually(lambda: "ring 2 2" in diary(n), 60, "a timer follows the name")

        third = call(n, "set", "after=1000", "n=3")
        n.kill(n.facts()["pid"])
        seen = ticks(n)
        eventually(lambda: ticks(n) > seen + 3, 60, "another root, and generation 1 again")
        eventually(lambda: rows(n).get(third, {}).get("state") == "armed", 60, "a timer outlives root")
        n.otpd("schedule", "run", third)
        eventually(lambda: "ring 3 1" in diary(n), 60)
        eventually(lambda: rows(n).keys() == {"clock/tick", "clock/hourly", "clock/second"}, 60)

        call(n, "set", "after=1000", "n=4")
        n.otpd("child", "stop", "clock")
        eventually(lambda: rows(n) == {}, 60, "a name that is stopped for good leaves nothing")
        n.otpd("child", "start", "clock")
        eventually(lambda: len(rows(n)) == 3, 60, "it begins anew")
        rung = [line for line in diary(n) if line.startswith("ring")]
        assert sorted(line.split()[1] for line in rung) == ["1", "2", "3"], "each once"


def test_a_timer_outlives_a_stop_of_the_node_and_a_pause_too() -> None:
    with node(CONFIG, FILES, services=SERVICES) as n:
        id_ = call(n, "set", "after=1000", "n=1")
        n.otpd("schedule", "pause", "clock/tick")
        n.stop()
        n.start()
        expected = {"clock/tick": "paused", id_: "armed"}
        eventually(lambda: {key: row["state"] for key, row in rows(n).items() if key in expected} == expected, 60)
        assert call(n, "unset", f"id={id_}") is True
        assert call(n, "unset", f"id={id_}") is False


def test_operators_look_run_pause_and_resume() -> None:
    with node(CONFIG, FILES, services=SERVICES) as n:
        eventually(lambda: ticks(n) > 0, 60)
        assert "clock/hourly" in n.otpd("schedule").stdout
        assert [row["id"] for row in n.json("schedule", "next", "-n", "1")] != ["clock/hourly"]

        due = datetime.datetime.fromisoformat(rows(n)["clock/hourly"]["next"])
        n.otpd("schedule", "run", "clock/hourly")
        eventually(lambda: diary(n).count("hourly 1") == 1, 60)
        after = eventually(lambda: (row := rows(n)["clock/hourly"])["running"] == 0 and row, 60)
        moved = datetime.datetime.fromisoformat(after["next"]) - due
        assert (abs(moved.total_seconds()) < 1, after["fired"]) == (True, 1), "run now starts no second timer"

        n.otpd("schedule", "pause", "clock/tick")
        eventually(lambda: rows(n)["clock/tick"]["skipped"].get("paused", 0) > 3, 60)
        seen = ticks(n)
        n.otpd("schedule", "resume", "clock/tick")
        eventually(lambda: ticks(n) > seen, 60)
        told = ("otpd.scheduler.skipped", "clock", "clock/tick", "paused")
        keys = ("event", "name", "schedule", "why")
        eventually(lambda: told in [tuple(event.get(key) for key in keys) for event in n.all_events()], 60)

        assert "no schedule has the id nope" in n.otpd("schedule", "run", "nope", check=4).stderr
        n.otpd("child", "stop", "scheduler")
        assert n.otpd("schedule", check=3).stderr.startswith("otpd: this node has no scheduler")


def test_a_damaged_file_is_put_aside_and_told_and_a_later_one_is_left_alone() -> None:
    with node(CONFIG, FILES, services=SERVICES, start=False) as n:
        state = n.home / ".otpd"
        state.mkdir(exist_ok=True)
        (state / "scheduler.db").write_bytes(b"SQLite format 3\0" + b"rubbish" * 1000)
        n.start()
        eventually(lambda: ticks(n) > 0, 60)
        (moved,) = (state / "quarantine").glob("scheduler.db.*")
        assert moved.read_bytes().endswith(b"rubbish")
        told = eventually(lambda: [e for e in n.all_events() if e["event"] == "otpd.scheduler.damaged"], 60)
        assert "scheduler.db was damaged" in told[0]["what"]
