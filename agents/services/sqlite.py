"""What services that keep a SQLite file of their own must tell apart: a bad moment, and a bad file.

Few of the bits that may be flipped in a file are found by SQLite's own checks; the others come up while it is read.

>>> passes(sqlite3.OperationalError("Could not decode to UTF-8 column 'id'"))
False
"""

from __future__ import annotations

import sqlite3
from typing import Final

#: Primary result codes that say nothing against the file: it is held, or the disk is full, read-only or gone.
_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)  # fmt: skip


def passes(error: sqlite3.Error) -> bool:
    """Whether it may go well another time. Without a code it is about what was read."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF in _PASSING


def any_text(raw: bytes) -> str:
    """As text_factory: a damaged text is read with escapes, because it must not hide the others."""
    return raw.decode(errors="backslashreplace")
