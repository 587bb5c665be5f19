"""The comments by which a script says that it knows what it does: `# otpd: allow RULE reason`.

One stands at a line of the finding, or alone above it. Several rules are separated by commas. Text in a string is no
comment.

>>> found = allowances("import os\\nos.fork()  # otpd: allow own-process a test\\n")
>>> [(each.rules, each.reason, each.lines) for each in found]
[(('own-process',), 'a test', (2,))]
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ALLOW: Final = re.compile(r"#\s*otpd:\s*allow\b[ \t]*([^\s]*)[ \t]*(.*)")
_LIKE: Final = re.compile(r"#\s*otpd\s*:")


@dataclass(frozen=True, slots=True)
class Allowance:
    """`lines`: for which it holds."""

    line: int
    column: int  # from 1
    rules: tuple[str, ...]
    reason: str
    lines: tuple[int, ...]


def allowances(text: str) -> Iterator[Allowance]:
    """In the order of the text, which must be a program that compiles."""
    if not _LIKE.search(text):
        return
    rows = text.split("\n")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and (found := _ALLOW.match(token.string)):
            line, column = token.start
            rules = tuple(filter(None, found[1].split(",")))
            yield Allowance(line, column + 1, rules, found[2].strip(), (line, *_below(rows, line)))


def _below(rows: list[str], line: int) -> Iterator[int]:
    """For a comment that stands alone: the next line that is none."""
    if not rows[line - 1].lstrip().startswith("#"):
        return
    for number in range(line + 1, len(rows) + 1):
        if not rows[number - 1].lstrip().startswith("#"):
            yield number
            return
