"""The store as an agent: requests come as calls, and are answered when their commit is on disk."""

from __future__ import annotations

from typing import Any

from otpd.agents import Agent, call, run


class Store(Agent):
    """Keeps what must outlive every process of the node."""

    async def init(self, state_dir: str, max_state: int = 2**20, ballast: int = 16 * 2**20) -> None:
        self.state_dir, self.max_state, self.ballast = state_dir, max_state, ballast

    @call
    async def status(self) -> dict[str, Any]:
        """What it keeps, and how it is."""
        return {"state_dir": self.state_dir}


if __name__ == "__main__":
    run(Store)
