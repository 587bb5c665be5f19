"""A copy of the whole database, as of one commit, while it is used.

The thread that writes makes it a few pages at a time, and carries out in between what waits. What is committed meanwhile
SQLite writes into the copy as well, because the same connection does it: so it need not begin anew, and is as of the last
commit before its end. It has its name when it is whole and on disk; a kill before that leaves `FILE.otpd-partial`, which the
next backup to there replaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import os
import sqlite3
from collections.abc import Callable
from typing import Any, Final

#: Pages between two looks at what waits: 1 MiB, a millisecond or two.
PAGES: Final = 256


async def back_up(engine: Any, path: str) -> None:
    """To `path`, where nothing may be yet. OSError, sqlite3.Error, Ending: nothing is there."""
    partial = f"{path}.otpd-partial"
    try:
        await engine.alongside(functools.partial(copy, partial))
        await asyncio.to_thread(_finish, partial, path)  # nothing waits for the fsync of a large file
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def copy(partial: str, connection: sqlite3.Connection, meanwhile: Callable[[], None]) -> None:
    """Its owner's alone, as the database itself. Not synced: it is thrown away unless all of it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(partial)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as target:
        target.execute("PRAGMA journal_mode = OFF")
        target.execute("PRAGMA synchronous = OFF")
        connection.backup(target, pages=PAGES, progress=lambda *_: meanwhile())


def _finish(partial: str, path: str) -> None:
    _sync(partial)
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "somebody else has made it meanwhile")
    os.rename(partial, path)
    _sync(os.path.dirname(path))


def _sync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
