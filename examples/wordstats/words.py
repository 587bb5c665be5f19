"""What a task does: count the words of one file. Runs in a worker of the pool, so it is plain Python."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

_WORD = re.compile(r"[A-Za-z_]{3,}")


def count(path: str) -> dict[str, int]:
    """Word -> how often it stands in the file."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return Counter(word.lower() for word in _WORD.findall(text))
