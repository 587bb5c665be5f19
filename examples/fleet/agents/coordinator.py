"""Hands out the files of the standard library to workers by capability and adds up what they find.

A job is (capability, file). It is in exactly one place: waiting, with one worker, or done. When a worker dies during a
job the job waits again; an answer is added up only while its job is with somebody, so none is lost and none doubled.
"""

from __future__ import annotations

import asyncio
import collections
import sysconfig
import time
from pathlib import Path
from typing import Any

from otpd.agents import Agent, BrokerLost, CallTimeout, Exited, NoProcess, Overloaded, Reject, call, cast, run

CAPABILITIES = ("words", "symbols")
_TOP = 8


class Coordinator(Agent):
    """Knows its workers by capability; one task per worker keeps it busy."""

    async def init(self, report: str, limit: int = 1000) -> None:
        self.report_file = Path(report)
        files = source_files(limit)
        self.files = len(files)
        self.waiting = {capability: collections.deque(files) for capability in CAPABILITIES}
        self.done: dict[str, dict[str, bool]] = {capability: {} for capability in CAPABILITIES}  # file -> was counted
        self.totals: dict[str, collections.Counter[str]] = {c: collections.Counter() for c in CAPABILITIES}
        self.workers: dict[str, tuple[str, int]] = {}  # name -> capability, generation
        self.given_back = 0
        self.began = time.monotonic()

    @cast
    async def offer(self, worker: str, generation: int, capability: str) -> None:
        """A worker offers itself; the same one, in a new incarnation, as often as it is born."""
        if self.workers.get(worker) == (capability, generation):
            return
        self.workers[worker] = (capability, generation)
        self.log.info("%s (generation %d) can do %s", worker, generation, capability)
        asyncio.get_running_loop().create_task(self.keep_busy(worker, generation, capability))

    async def keep_busy(self, worker: str, generation: int, capability: str) -> None:
        """One job after the other, until there is none or the worker is another."""
        waiting = self.waiting[capability]
        while waiting and self.workers.get(worker) == (capability, generation):
            path = waiting.popleft()
            try:
                found = await self.call(worker, "tally", path=path, timeout=20)
            except (Exited, NoProcess, BrokerLost, CallTimeout, Overloaded) as error:
                self.give_back(worker, capability, path, error)
                await asyncio.sleep(0.05)
            except Reject as refusal:
                self.log.info("%s", refusal)
                self.finish(capability, path, None)
            else:
                self.finish(capability, path, found)

    def give_back(self, worker: str, capability: str, path: str, error: Exception) -> None:
        self.log.info("%s of %s waits again: %s", capability, Path(path).name, error)
        self.waiting[capability].appendleft(path)
        self.given_back += 1

    def finish(self, capability: str, path: str, found: dict[str, int] | None) -> None:
        assert path not in self.done[capability], f"{path} counted twice"
        self.done[capability][path] = found is not None
        self.totals[capability].update(found or {})
        if all(len(done) == self.files for done in self.done.values()):
            self.report_file.parent.mkdir(exist_ok=True)
            self.report_file.write_text(self.text())
            self.log.info("done: %s", self.report_file)

    @call
    async def progress(self) -> dict[str, Any]:
        """How far the workflow is, by capability, and how many jobs had to be given to somebody else."""
        done = {capability: len(done) for capability, done in self.done.items()}
        return {"files": self.files, "done": done, "given_back": self.given_back, "workers": len(self.workers)}

    @call
    async def report(self) -> str:
        """The result so far, for people."""
        return self.text()

    def text(self) -> str:
        lines = [f"{self.files} files of the standard library in {time.monotonic() - self.began:.1f} s"]
        for capability, done in self.done.items():
            counted = sum(done.values())
            top = ", ".join(f"{name} {times}" for name, times in self.totals[capability].most_common(_TOP))
            lines += [f"{capability}: {counted} files counted once each, {len(done) - counted} refused", f"  {top}"]
        lines.append(f"jobs given to another worker because theirs died: {self.given_back}")
        return "\n".join(lines) + "\n"


def source_files(limit: int) -> list[str]:
    """`limit` sources from all over this Python's standard library, without tests and what was installed beside it."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}
    found = [str(path) for path in sorted(library.rglob("*.py")) if not skipped & set(path.relative_to(library).parts)]
    return found[:: max(1, len(found) // limit)][:limit]


if __name__ == "__main__":
    run(Coordinator)
