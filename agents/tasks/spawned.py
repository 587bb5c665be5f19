"""What tasks have started by themselves, past the tree: counted over all workers of a pool, each place told once. Pure.

The guard of a worker (`agents/guard`) says how many there were in this worker until now. None of it need be true.

>>> spawned = Spawned("warn")
>>> told = {"call": "subprocess.run", "program": "git", "place": "/srv/work.py:12 in fetch"}
>>> spawned.count(1, 1, 0), spawned.news(told), spawned.count(2, 1, 0), spawned.news(told)
(None, "subprocess.run('git') at /srv/work.py:12 in fetch", None, '')
>>> spawned.picture()
{'policy': 'warn', 'seen': 2, 'refused': 0}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Places that are told of; those beyond are only counted.
_PLACES: Final = 1000
_TEXT: Final = 300


@dataclass(slots=True)
class Spawned:
    """`policy`: allow, warn or deny."""

    policy: str
    seen: int = 0
    refused: int = 0
    _of_workers: dict[int, tuple[int, int]] = field(default_factory=dict)  # seen and refused in each that lives
    _places: set[str] = field(default_factory=set)

    def count(self, worker: int, seen: int, refused: int) -> None:
        before = self._of_workers.get(worker, (0, 0))
        self._of_workers[worker] = seen, refused
        self.seen += max(0, seen - before[0])
        self.refused += max(0, refused - before[1])

    def gone(self, worker: int) -> None:
        self._of_workers.pop(worker, None)

    def news(self, told: Mapping[Any, Any]) -> str:
        """What to tell of it; "" when its place has been told of."""
        call, program, place = (str(told.get(key, "?"))[:_TEXT] for key in ("call", "program", "place"))
        text = f"{call}({repr(program) if program else ''}) at {place}"
        if text in self._places or len(self._places) >= _PLACES:
            return ""
        self._places.add(text)
        return text

    def picture(self) -> dict[str, Any]:
        return {"policy": self.policy, "seen": self.seen, "refused": self.refused}
