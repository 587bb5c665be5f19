"""Prepares the spool: an empty directory with a ticket for this run, which the rest of the pipeline works in."""

import shutil
from pathlib import Path

from otpd.agents import Agent, run


class Spool(Agent):
    """Owns the spool directory."""

    async def init(self, directory: str) -> None:
        path = Path(directory)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        (path / "ticket").write_text(str(self.generation))
        print(f"fresh spool {path}, ticket {self.generation}")


if __name__ == "__main__":
    run(Spool)
