"""Watches the others: is told of every death and every return, and answers who died how often and why."""

from __future__ import annotations

from typing import Any

from otpd.agents import Agent, call, run


class Monitor(Agent):
    async def init(self, watched: list[str]) -> None:
        self.deaths: dict[str, list[str]] = {name: [] for name in watched}
        self.up: dict[str, int] = {}
        for name in watched:
            await self.monitor(name, follow=True)

    async def handle_up(self, name: str, generation: int) -> None:
        self.up[name] = generation
        self.log.info("%s is up, generation %d", name, generation)

    async def handle_down(self, name: str, generation: int, reason: str) -> None:
        self.up.pop(name, None)
        self.deaths[name].append(reason)
        self.log.warning("%s died, generation %d: %s", name, generation, reason)

    @call
    async def seen(self) -> dict[str, Any]:
        """Who is up, and the reasons of all deaths by name."""
        return {"up": self.up, "deaths": {name: reasons for name, reasons in self.deaths.items() if reasons}}


if __name__ == "__main__":
    run(Monitor)
