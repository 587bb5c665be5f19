"""The database file of the store: how it is opened, what is proved before it is used, and what becomes of a damaged one.

One process holds it, over one connection in exclusive mode: no second writer, no reader that keeps the log from being
written back, and none of the two-connection bugs of SQLite's log. Settings: WAL and synchronous FULL, so that what a commit
says is on disk.

`open_database` decides by this table, and its Report says what it found:
| found | what becomes of it |
|---|---|
| no file, and no mark of commits | a new one |
| no file, but the mark says that there were commits | a new one, reported as loss |
| of another program, of a newer otpd, held by somebody else, no right to write | Unusable: nothing is touched |
| a page that SQLite can't read, or a failed quick_check | moved to quarantine; all that can be read goes into a new one |
| a rescue that was killed | begun anew from the damaged one; one that had all it could read is brought to its end |
| fewer commits than the mark says | a copy goes to quarantine; used, reported as loss |
| a row whose checksum is wrong | stays, reported; whoever asks for it gets an error |
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from otpd.agents.services.store import salvage
from otpd.agents.services.store.report import Report
from otpd.agents.services.store.schema import Schema, Table, fence, get_meta, set_meta
from otpd.agents.services.store.watermark import HighWater

#: "otpd", in the header of the file.
APPLICATION_ID: Final = 0x6F747064
#: A quick_check reads the whole file: 1.3 s for 1 GiB in the page cache; the start must not take longer than it may.
CHECKED_AT_START: Final = 512 * 2**20
#: And each row is read as well.
ROWS_CHECKED_AT_START: Final = 64 * 2**20
#: Before anything is read: with it the log needs no shared memory beside it.
_ALONE: Final = "locking_mode = EXCLUSIVE"
_SETTINGS: Final = (
    "journal_mode = WAL", "synchronous = FULL", "wal_autocheckpoint = 4000",
    "foreign_keys = ON", "trusted_schema = OFF", "cell_size_check = ON", "temp_store = MEMORY", "mmap_size = 0",
)  # fmt: skip
#: What a whole rescue is called until it takes the place of the damaged one.
_RESCUED: Final = ".rescued"
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
#: How sqlite3 says, without a code, that a text is none.
_NO_TEXT: Final = "Could not decode to UTF-8"
_DENIED: Final = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
_HELD: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Unusable(Exception):
    """The database can't be used now, and nothing of it was touched; says why and what to do."""


class _Damaged(Exception):
    """SQLite can't read all of it."""


@dataclass(slots=True)
class Database:
    """`connection` is for one thread at a time. `seq`: the number of the last commit."""

    connection: sqlite3.Connection
    mark: HighWater
    report: Report
    seq: int
    _held: list[int]  # descriptors, to be closed after the connection

    def suspect(self, error: sqlite3.Error) -> bool:
        """An error of one that is used: whether the file is damaged. Then the next start saves what can be read, although
        its checks may find nothing."""
        if _code(error) not in _DAMAGE:
            return False
        with contextlib.suppress(OSError):  # a full or read-only disk: then the next start has its checks alone
            _suspect(Path(self.report.path)).write_text(str(error))
        return True

    def close(self) -> None:
        """Writes the whole log back; to be called once."""
        with contextlib.suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
        with contextlib.suppress(OSError):
            self.mark.sync()
        self.mark.close()
        for fd in self._held:
            os.close(fd)


def open_database(path: Path, schema: Schema) -> Database:
    """The database at `path`, proved as the table above says. Unusable when it can't be used."""
    try:
        lock = _lock(path.with_suffix(".lock"))
    except OSError as error:
        raise Unusable(_denied(path, error.strerror or str(error))) from None
    try:
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, lock)
            mark = HighWater(path.with_suffix(".hwm"))
            opened.callback(mark.close)
            found = _Opening(path, schema, mark, lock).run()
            opened.pop_all()
            return found
    except OSError as error:
        raise Unusable(_denied(path, error.strerror or str(error))) from None
    except sqlite3.Error as error:
        raise Unusable(_unusable(path, error)) from error


class _Opening:
    """One start. `_report` grows with what it finds."""

    def __init__(self, path: Path, schema: Schema, mark: HighWater, lock: int) -> None:
        self._path, self._schema, self._mark, self._lock = path, schema, mark, lock
        notes = (mark.problem,) if mark.problem else ()
        self._report = Report(path=str(path), notes=notes)
        self._held: list[int] = []

    def run(self) -> Database:
        if _beside(self._path, _RESCUED).exists():
            self._resume()
        there = self._path.exists() and self._path.stat().st_size > 0
        if not there:
            self._without_file()
        try:
            connection = self._open()
        except _Damaged as error:
            connection = self._save(str(error))
        try:
            seq = self._compare(connection)
            self._check_rows(connection)
        except BaseException:
            connection.close()
            for fd in self._held:
                os.close(fd)
            raise
        report = replace(self._report, version=self._schema.version, seq=seq)
        return Database(connection, self._mark, report, seq, [*self._held, self._lock])

    def _without_file(self) -> None:
        """A log without its database means nothing, and must not be taken for that of the next one."""
        wal = _beside(self._path, "-wal")
        if wal.exists() and wal.stat().st_size:
            self._quarantine(shutil.move, "the database is gone, its log is there")
        self._path.unlink(missing_ok=True)

    # --- opening ---

    def _open(self) -> sqlite3.Connection:
        """Set up, checked and migrated. _Damaged when SQLite can't read it."""
        connection = connect(self._path)
        try:
            connection.execute(f"PRAGMA {_ALONE}")
            self._recognise(connection)
            if _suspect(self._path).exists():
                raise _Damaged(_suspect(self._path).read_text() or "it was found damaged while it was used")
            _set_up(connection)
            self._quick_check(connection)
            self._migrate(connection, self._schema.version)
            self._compare_schema(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            if _code(error) in _DAMAGE or _NO_TEXT in str(error):
                raise _Damaged(str(error)) from None
            raise
        except UnicodeDecodeError as error:  # what SQLite says of it quotes what it has found there
            connection.close()
            raise _Damaged(str(error)) from None
        except BaseException:
            connection.close()
            raise
        return connection

    def _recognise(self, connection: sqlite3.Connection) -> None:
        (mark,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        if mark != APPLICATION_ID and {"meta", *(table.name for table in self._schema.tables)} <= tables:
            raise _Damaged("its header does not say that it is of otpd")
        if mark != APPLICATION_ID and tables:
            text = "is a database, but not one of otpd; move it away, or set node.state_dir to another directory"
            raise Unusable(f"{self._path} {text}")
        if version > self._schema.version:
            raise Unusable(
                f"{self._path} is of a newer otpd: its schema has version {version}, this otpd knows "
                f"{self._schema.version}; start the newer otpd, or move the file away to begin without its content"
            )

    def _quick_check(self, connection: sqlite3.Connection) -> None:
        if self._path.stat().st_size > CHECKED_AT_START:
            self._report = replace(self._report, whole=False)  # and its rows are not read either: `inspection` does
        else:
            salvage.quick_check(connection)

    def _migrate(self, connection: sqlite3.Connection, wanted: int) -> None:
        """One transaction for each step, with the version in it."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if 0 < version < wanted:
            self._report = replace(self._report, migrated_from=version)
        for number, script in enumerate(self._schema.scripts()[version:wanted], version + 1):
            head = f"BEGIN IMMEDIATE; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
            connection.executescript(f"{head}\n{script}\nCOMMIT;")

    def _compare_schema(self, connection: sqlite3.Connection) -> None:
        """The check of SQLite says nothing of a column that has another name."""
        model = sqlite3.connect(":memory:", isolation_level=None)
        with contextlib.closing(model):
            for script in self._schema.scripts():
                model.executescript(script)
            if not _tables(model) <= _tables(connection):
                raise _Damaged("its tables are not as otpd makes them")

    # --- what is missing ---

    def _compare(self, connection: sqlite3.Connection) -> int:
        """The number of the last commit, after what was lost is reported; numbers are never used again."""
        seq = int(get_meta(connection, "seq") or 0)
        if seq >= self._mark.seq:
            return seq
        why = self._report.why or ("the file is gone" if seq == 0 else "its log is damaged, or it is an older copy")
        if self._report.quarantine is None and seq:
            self._quarantine(lambda source, target: self._held.append(_copy_aside(source, target)), why)
        self._report = replace(self._report, lost_commits=(seq + 1, self._mark.seq), why=why)
        self._fence(connection, why)
        set_meta(connection, "seq", self._mark.seq)
        return self._mark.seq

    def _fence(self, connection: sqlite3.Connection, why: str) -> None:
        fence(connection, why, self._report.quarantine or "otpd logs store")

    def _check_rows(self, connection: sqlite3.Connection) -> None:
        if self._path.stat().st_size > ROWS_CHECKED_AT_START:
            self._report = replace(self._report, checked=False)
            return
        wrong = [table.told(row) for table in self._schema.tables for row in salvage.damaged(connection, table)]
        if wrong:
            self._report = replace(self._report, damaged_rows=tuple(wrong))
            self._fence(connection, f"{len(wrong)} damaged rows")

    # --- quarantine ---

    def _quarantine(self, take: Callable[[str, str], Any], why: str) -> Path:
        """The files as they are, in a directory of their own; never deleted by otpd."""
        directory = self._quarantine_for(why)
        self._put_aside(directory, take)
        return directory

    def _quarantine_for(self, why: str) -> Path:
        when = f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**9:09}"
        directory = self._path.parent / "quarantine" / f"{self._path.stem}-{when}"
        for left in directory.parent.glob(f"{self._path.stem}-*"):
            with contextlib.suppress(OSError):  # of a rescue that was killed before anything was in it
                left.rmdir()
        directory.mkdir(parents=True, mode=0o700)
        self._report = replace(self._report, quarantine=str(directory), why=why)
        return directory

    def _put_aside(self, directory: Path, take: Callable[[str, str], Any]) -> None:
        for each in (self._path, _beside(self._path, "-wal")):
            if each.exists():
                take(str(each), str(directory / each.name))

    def _save(self, why: str) -> sqlite3.Connection:
        """What can be read of the damaged one, in a new one."""
        directory = self._quarantine_for(why)
        self._rescue(why)
        self._take_rescued(directory)
        connection = connect(self._path)
        connection.execute(f"PRAGMA {_ALONE}")
        _set_up(connection)
        return connection

    def _rescue(self, why: str) -> None:
        """Into a file beside it, in one transaction; it gets its name when it is whole and on disk. A kill before that has
        changed nothing."""
        filling = _beside(self._path, ".filling")
        for each in (filling, _beside(filling, "-wal")):
            each.unlink(missing_ok=True)
        old, new = connect(self._path), connect(filling)
        try:
            version = _version_of(old, self._schema)
            new.execute(f"PRAGMA {_ALONE}")
            _set_up(new)
            self._migrate(new, version)
            new.execute("BEGIN IMMEDIATE")
            saved = {table.name: salvage.copy(old, new, table) for table in self._schema.tables if _has(new, table)}
            seq = salvage.readable(old, "SELECT value FROM meta WHERE key = 'seq'")
            set_meta(new, "seq", seq[0][0] if seq else 0)
            self._report = replace(self._report, saved_rows=saved)
            self._fence(new, why)
            new.execute("COMMIT")
            self._migrate(new, self._schema.version)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            new.close()
            old.close()
        os.replace(filling, _beside(self._path, _RESCUED))
        _sync_directory(self._path.parent)
        self._report = replace(self._report, migrated_from=None)

    def _resume(self) -> None:
        """A rescue was killed when it was whole: its directory is the last that was made."""
        made = (self._path.parent / "quarantine").glob(f"{self._path.stem}-*")
        directory = max(made, default=None) or self._quarantine_for("a rescue of it was interrupted")
        note = f"a rescue of the damaged database was interrupted and is complete now; the damaged one lies in {directory}"
        self._report = replace(self._report, quarantine=str(directory), notes=(*self._report.notes, note))
        self._take_rescued(directory)

    def _take_rescued(self, directory: Path) -> None:
        """The damaged one goes to quarantine, and with it the suspicion; what was rescued of it takes its place."""
        self._put_aside(directory, shutil.move)
        _suspect(self._path).unlink(missing_ok=True)
        os.replace(_beside(self._path, _RESCUED), self._path)
        _sync_directory(self._path.parent)


# --- pieces ---


def connect(path: Path) -> sqlite3.Connection:
    """A new file is its owner's alone. Nothing is begun or committed by itself."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False, cached_statements=256)


def _set_up(connection: sqlite3.Connection) -> None:
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}")
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        raise sqlite3.OperationalError(f"its file system takes no write-ahead log (journal_mode is {mode})")


def _tables(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"))


def _has(connection: sqlite3.Connection, table: Table) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (table.name,)).fetchone() is not None


def _version_of(connection: sqlite3.Connection, schema: Schema) -> int:
    found = salvage.readable(connection, "PRAGMA user_version")
    version = found[0][0] if found else 0
    return version if 0 < version <= schema.version else schema.version


def _suspect(path: Path) -> Path:
    return path.with_suffix(".suspect")


def _copy_aside(source: str, target: str) -> int:
    """The descriptor from which it was read: to close it gives up all locks that SQLite has on the file."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    with open(target, "wb") as copy:
        at = 0
        while sent := os.sendfile(copy.fileno(), fd, at, 2**20):
            at += sent
    return fd


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Unusable(f"another store holds {path}; it must end first: two would lose each other's commits") from None
    return fd


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _denied(path: Path, why: str) -> str:
    return (
        f"{path} can't be written: {why}; state and durable messages need it. Is the file system mounted read-only, or "
        f"full, or does {path.parent} belong to another user? See: otpd doctor"
    )


def _unusable(path: Path, error: sqlite3.Error) -> str:
    if _code(error) in _HELD:
        return f"another process has {path} open ({error}); close it: only the store may write there"
    if _code(error) in _DENIED or _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return _denied(path, str(error))
    return f"{path} can't be used: {error}; see: otpd doctor"
