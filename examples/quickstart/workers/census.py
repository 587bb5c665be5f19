"""Counts one column of the scan. Two of these make one census, and they must begin at the same line."""

import asyncio
from pathlib import Path

from tail import follow

from otpd.agents import Agent, run

COLUMNS = {"functions": 2, "classes": 3}


class Census(Agent):
    """Keeps a running sum in the board directory."""

    async def init(self, log: str, column: str, board: str) -> None:
        self.total = 0
        self.file = Path(board) / column
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.task = asyncio.create_task(self.work(Path(log), COLUMNS[column]))
        print(f"counting {column}")

    async def work(self, log: Path, index: int) -> None:
        async for line in follow(log):
            self.total += int(line.split()[index])
            self.file.write_text(f"{self.total}\n")

    async def terminate(self, reason: str) -> None:
        print(f"counted {self.total} when it ended: {reason}")


if __name__ == "__main__":
    run(Census)
