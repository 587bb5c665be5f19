"""Writes a report of what the spool holds: how many modules, how many lines, which are the longest."""

import json
from pathlib import Path

from otpd.agents import Agent, every, run


class Summary(Agent):
    """Reads the table that `follow` keeps."""

    async def init(self, spool: str, report: str) -> None:
        self.sizes, self.report = Path(spool) / "sizes.json", Path(report)

    @every("500ms")
    async def write(self) -> None:
        if self.sizes.exists():
            self.report.write_text(summarise(json.loads(self.sizes.read_text())))


def summarise(table: dict[str, int]) -> str:
    longest = sorted(table.items(), key=lambda row: -row[1])[:5]
    rows = [f"  {lines:>6}  {module}" for module, lines in longest]
    return "\n".join([f"{len(table)} modules, {sum(table.values())} lines; the longest:", *rows]) + "\n"


if __name__ == "__main__":
    run(Summary)
