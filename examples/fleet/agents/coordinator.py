"""Has the files of the standard library counted by workers, and adds up what they find: each file once, whoever is killed.

All it knows is its saved state, and all it says and hears is durable. A job goes to a worker as a durable cast; its result
comes back as another one, which the worker sends in the transaction that settles the job; and the result is added to the
saved state in the transaction that settles *it*. So there is no moment at which a kill, of anybody, could lose a result or
count it twice: the next incarnation goes on where this one was.
"""

from __future__ import annotations

import collections
import sysconfig
import time
from pathlib import Path
from typing import Any

from otpd.agents import Agent, call, cast, every, run

_TOP = 8
#: Files of one job.
_JOB = 10


class Coordinator(Agent):
    """`workers`: who can do what, {capability: [name]}. A count that is complete begins anew when its report is gone."""

    async def init(self, report: str, workers: dict[str, list[str]], limit: int = 1000) -> None:
        self.report_file, self.workers = Path(report), workers
        self.written = -1  # jobs that the report has
        count = await self.load(default=None)
        if count is None or (complete(count) and not self.report_file.exists()):
            await self.begin(0 if count is None else count["run"], limit)

    async def begin(self, last: int, limit: int) -> None:
        """The plan is saved and all jobs are sent, or neither."""
        files = source_files(limit)
        jobs = [files[first : first + _JOB] for first in range(0, len(files), _JOB)]
        parts = {capability: {"done": {}, "refused": 0, "totals": {}} for capability in self.workers}
        plan = {"run": last + 1, "files": len(files), "jobs": len(jobs), "began": time.time(), "parts": parts}
        async with self.transaction():
            await self.save(plan)
            for capability, names in self.workers.items():
                for job, paths in enumerate(jobs):
                    to, key = names[job % len(names)], f"{capability}.{job}"
                    await self.cast(to, "tally", durable=True, key=key, run=last + 1, job=job, paths=paths)
        self.log.info("count %d: %d files in %d jobs", last + 1, len(files), len(jobs))

    @cast
    async def counted(self, run: int, capability: str, job: int, files: int, refused: int, found: dict[str, int]) -> None:
        """The result of a job. Its addition, and the end of this message, are one commit."""
        async with self.transaction():
            count = await self.load()
            if count["run"] != run:
                return  # of a count that was given up: settled, and nothing more
            part = count["parts"][capability]
            assert str(job) not in part["done"], f"{capability} {job} counted twice"
            part["done"][str(job)] = files
            part["refused"] += refused
            part["totals"] = dict(collections.Counter(part["totals"]) + collections.Counter(found))
            await self.save(count)

    @every("1s", overlap="skip")
    async def write_report(self) -> None:
        """From the scheduler, so that it goes on with each incarnation, and never twice at a time."""
        count = await self.load()
        done = sum(len(part["done"]) for part in count["parts"].values())
        if complete(count) and (done != self.written or not self.report_file.exists()):
            self.report_file.parent.mkdir(exist_ok=True)
            self.report_file.write_text(text(count))
            self.written = done
            self.log.info("done: %s", self.report_file)

    @call
    async def progress(self) -> dict[str, Any]:
        """How far the count is: files of all, and those that are counted or refused, by capability."""
        count = await self.load()
        done = {capability: sum(part["done"].values()) for capability, part in count["parts"].items()}
        return {"run": count["run"], "files": count["files"], "done": done}

    @call
    async def report(self) -> str:
        """The result so far, for people."""
        return text(await self.load())


def complete(count: dict[str, Any]) -> bool:
    return all(len(part["done"]) == count["jobs"] for part in count["parts"].values())


def text(count: dict[str, Any]) -> str:
    lines = [f"{count['files']} files of the standard library, {time.time() - count['began']:.1f} s after the count began"]
    for capability, part in count["parts"].items():
        files = sum(part["done"].values())
        top = ", ".join(f"{name} {times}" for name, times in collections.Counter(part["totals"]).most_common(_TOP))
        lines += [f"{capability}: {files} files counted once each, {part['refused']} of them refused", f"  {top}"]
    return "\n".join(lines) + "\n"


def source_files(limit: int) -> list[str]:
    """`limit` sources from all over this Python's standard library, without tests and what was installed beside it."""
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "__pycache__"}
    found = [str(path) for path in sorted(library.rglob("*.py")) if not skipped & set(path.relative_to(library).parts)]
    return found[:: max(1, len(found) // limit)][:limit]


if __name__ == "__main__":
    run(Coordinator)
