"""Writes a report of what the spool holds: how many modules, how many lines, which are the longest."""

import asyncio
import json
from pathlib import Path

from otpd.agents import Agent, run

PAUSE = 0.5


class Summary(Agent):
    """Reads the table that `follow` keeps."""

    async def init(self, spool: str, report: str) -> None:
        self.task = asyncio.create_task(self.work(Path(spool) / "sizes.json", Path(report)))

    async def work(self, sizes: Path, report: Path) -> None:
        while True:  # otpd: allow sleep-loop the table is a file, which announces nothing
            if sizes.exists():
                report.write_text(summarise(json.loads(sizes.read_text())))
            await asyncio.sleep(PAUSE)


def summarise(table: dict[str, int]) -> str:
    longest = sorted(table.items(), key=lambda row: -row[1])[:5]
    rows = [f"  {lines:>6}  {module}" for module, lines in longest]
    return "\n".join([f"{len(table)} modules, {sum(table.values())} lines; the longest:", *rows]) + "\n"


if __name__ == "__main__":
    run(Summary)
