"""Processes that agents make by themselves: reported or refused, counted, and told to operators."""

from __future__ import annotations

from otpd.agents.spawning import COMMAND
from tests.e2e.node import Node, node
from tests.helpers import eventually

MAKER = """
import subprocess, time
from otpd.agents import Agent, call, run

class Maker(Agent):
    @call
    async def make(self, n: int = 1) -> int:
        made = 0
        for _ in range(n):
            try:
                subprocess.run(["true"], check=True)
                made += 1
            except PermissionError:
                pass
        return made

if __name__ == "__main__":
    run(Maker)
"""
CONFIG = """
[agents.plain]
script = "maker.py"
[agents.strict]
script = "maker.py"
spawn = "deny"
[agents.free]
script = "maker.py"
spawn = "allow"
"""


def spawn(n: Node, name: str) -> dict[str, object]:
    found: dict[str, object] = n.json("why", name)["spawn"]
    return found


def seen(n: Node, name: str, count: int) -> bool:
    return bool(n.worker(name)["spawn"]["seen"] == count)


def events(n: Node) -> list[tuple[str, str]]:
    return [(each["event"], each["name"]) for each in n.events() if "spawn" in each["event"]]


def test_what_agents_start_by_themselves_is_told_by_otpd_and_a_reload_changes_what_is_allowed() -> None:
    with node(CONFIG, {"maker.py": MAKER}) as n:
        made = {name: n.json("call", name, "make", "n=20") for name in ("plain", "strict", "free")}
        assert made == {"plain": 20, "strict": 0, "free": 20}
        eventually(lambda: seen(n, "plain", 20) and seen(n, "strict", 20), 30)
        assert n.worker("free")["spawn"] == {"policy": "allow", "seen": 0, "refused": 0}
        assert events(n) == [("otpd.child.spawned", "plain"), ("otpd.child.spawn_refused", "strict")]

        last = {
            "call": "subprocess.run", "program": "true", "place": f"{n.home}/maker.py:11 in Maker.make",
            "instead": COMMAND,
        }  # fmt: skip
        strict = {"policy": "deny", "seen": 20, "refused": 20, "layers": ["audit", "seccomp"], "last": last}
        assert (spawn(n, "strict"), spawn(n, "plain")["layers"]) == (strict, ["audit"])
        assert "by itself     20 processes, 20 of them refused" in n.otpd("why", "strict").stdout
        eventually(lambda: n.printed("plain").count("agents make no processes of their own; await self.exec(") == 1, 30)

        n.write("otpd.toml", CONFIG.replace('spawn = "deny"', 'spawn = "warn"'))
        assert n.otpd("reload").stdout.startswith("restart  strict: spawn")
        n.reborn("strict", 1, 30)
        assert n.json("call", "strict", "make") == 1
        eventually(lambda: n.worker("strict")["spawn"] == {"policy": "warn", "seen": 21, "refused": 20}, 30)
