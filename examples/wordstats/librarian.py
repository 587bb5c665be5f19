"""An agent that counts the words of all Python files below a directory, as many at a time as the machine has cores.

The counting is done by the pool `words`. When this agent is killed its tasks are ended with it; when a worker is killed the
file that it was at is skipped and reported, and everything else goes on.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from words import count

from otpd.agents import Agent, call, run


class Librarian(Agent):
    @call
    async def statistics(self, directory: str, top: int = 10) -> dict[str, Any]:
        """The most frequent words, how many files there were, and those that could not be counted."""
        files = sorted(str(path) for path in Path(directory).rglob("*.py"))
        total: Counter[str] = Counter()
        skipped = []
        results = self.stream(
            count, files, pool="words", max_concurrency=2 * (os.cpu_count() or 1), timeout=20, on_timeout="kill_task",
            nolink=True, zip_input_on_exit=True,
        )  # fmt: skip
        async for done, outcome in numbered(results):
            if outcome.ok:
                total.update(outcome.value)
            else:
                skipped.append(f"{outcome.input}: {outcome.reason}")
            await self.publish("wordstats.progress", done=done, files=len(files))
        return {"files": len(files), "words": total.total(), "top": total.most_common(top), "skipped": skipped}


async def numbered(results: Any) -> Any:
    done = 0
    async for outcome in results:
        done += 1
        yield done, outcome


if __name__ == "__main__":
    run(Librarian)
