"""What services that keep a SQLite file of their own must tell apart: a bad moment, a bad file, and a bad row.

Few of the bits that may be flipped in a file are found by SQLite's own checks; the others come up while it is read. So the
last column of a row is the checksum of the others.

>>> passes(sqlite3.OperationalError("Could not decode to UTF-8 column 'id'"))
False
>>> intact(sealed("feed", 7, None)), intact(("fefd", *sealed("feed", 7, None)[1:]))
(True, False)
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable
from typing import Any, Final

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


def checksum(*values: Any) -> int:
    """Of values as SQLite gives them back: a number in a REAL column is a float."""
    return zlib.crc32(repr(values).encode())


def sealed(*values: Any) -> tuple[Any, ...]:
    """With their checksum at the end."""
    return (*values, checksum(*values))


def intact(row: Iterable[Any]) -> bool:
    """Whether a row that was `sealed` is as it was written."""
    *values, crc = tuple(row)
    return bool(checksum(*values) == crc)
