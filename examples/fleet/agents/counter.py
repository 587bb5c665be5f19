"""A worker with one capability: counts the words, or the symbols that are defined, of one source file per call."""

from __future__ import annotations

import ast
import collections
import re
import warnings
from pathlib import Path

from otpd.agents import Agent, Reject, call, run

_WORD = re.compile(r"[A-Za-z]{3,}")
_MOST = 50


class Counter(Agent):
    """Registers with the coordinator, and again whenever there is a new one."""

    async def init(self, capability: str) -> None:
        self.capability = capability
        self.count = {"words": words, "symbols": symbols}[capability]
        await self.monitor("coordinator", follow=True)

    async def handle_up(self, name: str, generation: int) -> None:
        await self.cast(name, "offer", worker=self.name, generation=self.generation, capability=self.capability)

    @call
    def tally(self, path: str) -> dict[str, int]:
        """The most frequent names in the file at `path` and how often each is there. A plain def: counting takes a while,
        and the heartbeat goes on meanwhile."""
        try:
            source = Path(path).read_text(encoding="utf-8", errors="replace")
            return dict(self.count(source).most_common(_MOST))
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            raise Reject(f"{path} can't be counted: {error}") from error


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
