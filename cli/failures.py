"""What a command can't do: the exit code of the table, what and why, and the next step.

| code | means                          | code | means                              |
|------|--------------------------------|------|------------------------------------|
| 0    | done                           | 5    | permission                         |
| 1    | tried and failed               | 7    | node not running                   |
| 2    | usage or config                | 8    | timed out                          |
| 3    | state is not as asked          | 9    | already running                    |
| 4    | no such child                  | 70   | internal error, or root gave up    |

130 is the shell's own number for ^C.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Exit(enum.IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    STATE = 3
    NO_CHILD = 4
    PERMISSION = 5
    NOT_RUNNING = 7
    TIMED_OUT = 8
    ALREADY_RUNNING = 9
    INTERNAL = 70
    INTERRUPTED = 130


@dataclass(eq=False)
class Failure(Exception):
    """A command ends with `code`. `problems` are details as data, for --json."""

    code: int
    what: str
    hint: str = ""
    problems: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return self.what

    def text(self) -> str:
        """What goes to stderr."""
        lines = [f"otpd: {self.what}"]
        if self.hint:
            lines.append(f"next: {self.hint}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"code": int(self.code), "what": self.what, "hint": self.hint}
        return {"error": found | ({"problems": self.problems} if self.problems else {})}
