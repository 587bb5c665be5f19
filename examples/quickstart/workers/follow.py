"""Follows the scan and keeps the size of every module in the spool. Needs the spool's ticket to work."""

import asyncio
import json
from pathlib import Path

from tail import follow

from otpd.agents import Agent, run


class Follow(Agent):
    """Turns lines of the log into one table."""

    async def init(self, log: str, spool: str) -> None:
        self.ticket = (Path(spool) / "ticket").read_text()
        self.table: dict[str, int] = {}
        self.task = asyncio.create_task(self.work(Path(log), Path(spool)))
        print(f"following {log} with ticket {self.ticket}")

    async def work(self, log: Path, spool: Path) -> None:
        async for line in follow(log):
            module, lines, _functions, _classes = line.split()
            self.table[module] = int(lines)
            draft = spool / "sizes.new"
            draft.write_text(json.dumps(self.table))
            draft.replace(spool / "sizes.json")


if __name__ == "__main__":
    run(Follow)
