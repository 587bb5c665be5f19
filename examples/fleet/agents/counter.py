"""A worker with one capability: counts the words, or the symbols that are defined, of the files of a job."""

from __future__ import annotations

import ast
import collections
import re
import warnings
from pathlib import Path

from otpd.agents import Agent, cast, run

_WORD = re.compile(r"[A-Za-z]{3,}")
_MOST = 50


class Counter(Agent):
    """Jobs wait for it in the store while it is away."""

    async def init(self, capability: str) -> None:
        self.capability = capability
        self.count = {"words": words, "symbols": symbols}[capability]

    @cast
    def tally(self, run: int, job: int, paths: list[str]) -> None:
        """Count the most frequent names in each file and send the sum. A plain def: counting takes a while, and the
        heartbeat goes on meanwhile. The result is sent, and the job settled, together: after a kill the job is either to be
        done again, or its result is on its way."""
        found: collections.Counter[str] = collections.Counter()
        refused = 0
        for path in paths:
            try:
                source = Path(path).read_text(encoding="utf-8", errors="replace")
                found.update(dict(self.count(source).most_common(_MOST)))
            except (OSError, SyntaxError, ValueError, RecursionError) as error:
                self.log.info("%s can't be counted: %s", path, error)
                refused += 1
        result = {"files": len(paths), "refused": refused, "found": dict(found)}
        with self.sync.transaction():
            self.sync.cast("coordinator", "counted", durable=True, run=run, capability=self.capability, job=job, **result)


def words(source: str) -> collections.Counter[str]:
    return collections.Counter(word.lower() for word in _WORD.findall(source))


def symbols(source: str) -> collections.Counter[str]:
    """Names of functions and classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return collections.Counter(node.name for node in ast.walk(tree) if isinstance(node, defined))


if __name__ == "__main__":
    run(Counter)
