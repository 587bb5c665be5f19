"""The writing side of one child's log: moves bytes from a pipe into segments and never holds one in between.

`os.splice` moves bytes from the pipe to the file inside the kernel: the write and the removal from the pipe are one
system call. A kill -9 at any instant therefore loses no byte and doubles none; what was not moved is still in the pipe, and
whoever holds its read end can hand it to the next logger, which goes on at the end of the file. (On a file system
without splice, bytes pass through this process and up to 64 KiB can be lost by a kill.)

There must be one writer per directory; root's lock on the node guarantees it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable

from otpd.supervisor.logindex import RECORD_SIZE, Kind, Record, count_records, pack_record, read_records
from otpd.supervisor.logpaths import NAME_FILE, Segment, child_name, directory_name, is_cut, numbers_in_use
from otpd.supervisor.spec import LogPolicy

#: The most that one turn of one pipe moves, so that a flood doesn't starve the others.
TURN = 1024 * 1024
_COPY = 64 * 1024
_SPLICE_FLAGS = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
#: Bytes that come within this time of a record share it; times are shown in milliseconds.
_COALESCE_NS = 1_000_000
_CHECK_NS = 1_000_000_000
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PROBE_BYTES = 64 * 1024


class Trouble(Exception):
    """The log can't be written now; says which file and why."""


class LogWriter:
    """The log of `name`, opened when it is first needed; `close` is allowed at any time.

    `lost` is told when a log vanished or was unusable and a new segment took its place without loss of a byte.
    """

    def __init__(self, logs: str, name: str, lost: Callable[[str], None], clock: Callable[[], int] = time.time_ns) -> None:
        self._logs = logs
        self._name = name
        self._lost = lost
        self._clock = clock
        self._directory = os.path.join(logs, directory_name(name))
        self._segment = Segment(self._directory, 0)
        self._log = self._index = -1
        self._size = self._records = 0
        self._last: Record | None = None
        self._checked_ns = 0
        self._splices = True
        self._carry = b""

    @property
    def is_open(self) -> bool:
        return self._log >= 0

    def close(self) -> None:
        for fd in (self._log, self._index):
            if fd >= 0:
                os.close(fd)
        self._log = self._index = -1

    def prepare(self) -> None:
        """Make the directory, so that the name is known before the first byte. Trouble when that fails."""
        try:
            self._make_directory()
        except OSError as error:
            raise self._trouble(error) from error

    def move(self, pipe: int, generation: int, policy: LogPolicy) -> int:
        """Move what is in `pipe`, at most TURN bytes; 0 when all writers are gone and it is empty.

        BlockingIOError: nothing there. Trouble: not stored, and still in the pipe.
        """
        try:
            room = self._room(policy)
            self._stamp(generation)
            moved = self._transfer(pipe, min(room, TURN))
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno != errno.EFBIG or self._size == 0:
                raise self._trouble(error) from error
            self._roll_or_trouble(policy)
            return self.move(pipe, generation, policy)
        self._size += moved
        return moved

    def mark_gap(self, generation: int, dropped: int, policy: LogPolicy) -> None:
        """Say at the end of the log that `dropped` bytes are missing there; with 0, only check that it can be written."""
        try:
            self._room(policy)
            if dropped:
                self._append(Record(self._size, self._clock(), generation, Kind.GAP, dropped))
        except OSError as error:
            raise self._trouble(error) from error

    def recheck(self, policy: LogPolicy) -> None:
        """Find out now whether the open file has been removed, not at the next write."""
        if self.is_open:
            self._checked_ns = 0
            with contextlib.suppress(OSError):
                self._room(policy)

    # --- moving ---

    def _transfer(self, pipe: int, room: int) -> int:
        if self._splices:
            try:
                return os.splice(pipe, self._log, room, offset_dst=self._size, flags=_SPLICE_FLAGS)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                self._splices = False
        return self._copy(pipe, room)

    def _copy(self, pipe: int, room: int) -> int:
        self._carry = self._carry or os.read(pipe, min(room, _COPY))
        written = os.pwrite(self._log, self._carry[:room], self._size) if self._carry else 0
        self._carry = self._carry[written:]
        return written

    def _stamp(self, generation: int) -> None:
        now = self._clock()
        last = self._last
        if last is None or last.generation != generation or not 0 <= now - last.at_ns < _COALESCE_NS:
            self._append(Record(self._size, now, generation))

    def _append(self, record: Record) -> None:
        if os.pwrite(self._index, pack_record(record), self._records * RECORD_SIZE) != RECORD_SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._records += 1
        self._last = record

    # --- segments ---

    def _room(self, policy: LogPolicy) -> int:
        """Bytes that still go into the open segment, at least 1."""
        if self.is_open:
            self._check(policy)
        else:
            self._open(policy)
        if self._size >= policy.max_bytes:
            self._create(self._segment.number + 1, policy)
        return policy.max_bytes - self._size

    def _check(self, policy: LogPolicy) -> None:
        found = os.fstat(self._log)
        if found.st_nlink == 0 or not self._in_place(found):
            gone = self._segment.log
            self._make_directory()
            self._create(self._next_number(), policy)
            self._lost(f"{gone} was removed while it was written; a new one was begun")
        elif found.st_size < self._size:
            self._create(self._segment.number + 1, policy)
        else:
            self._size = found.st_size

    def _in_place(self, found: os.stat_result) -> bool:
        """Whether the paths still lead to the open files; looked up once a second."""
        now = time.monotonic_ns()
        if now - self._checked_ns < _CHECK_NS:
            return True
        self._checked_ns = now
        try:
            return os.path.samestat(os.lstat(self._segment.log), found) and os.path.samestat(
                os.lstat(self._segment.index), os.fstat(self._index)
            )
        except FileNotFoundError:
            return False

    def _open(self, policy: LogPolicy) -> None:
        self._make_directory()
        newest = self._next_number() - 1
        if newest == 0 or (newest == self._segment.number and not os.path.lexists(self._segment.log)):
            return self._create(newest + 1, policy)
        try:
            self._take(Segment(self._directory, newest), 0)
        except OSError as error:
            self._create(newest + 1, policy)
            self._lost(f"{self._trouble(error, Segment(self._directory, newest).log)}; a new one was begun")
        return None

    def _next_number(self) -> int:
        """Higher than every number that is in use, or was by this writer."""
        return max(numbers_in_use(self._directory) | {self._segment.number}) + 1

    def _create(self, number: int, policy: LogPolicy) -> None:
        try:
            self._take(Segment(self._directory, number), os.O_EXCL)
        except FileExistsError:
            number = self._next_number()
            self._take(Segment(self._directory, number), os.O_EXCL)
        self._prune(number - 1 - policy.keep)

    def _take(self, segment: Segment, exclusive: int) -> None:
        """Make `segment` the one that is written. OSError, and nothing has changed, when it can't be."""
        log = open_regular(segment.log, os.O_CREAT | exclusive)
        try:
            index = open_regular(segment.index, os.O_CREAT | (os.O_TRUNC if exclusive else 0))
            size, records = os.fstat(log).st_size, count_records(segment.index)
            last = read_records(segment.index, records - 1, 1) if records else []
            if last and last[0].offset > size:
                os.close(index)
                raise OSError(errno.EINVAL, "shorter than its index says")
        except OSError:
            os.close(log)
            raise
        self.close()
        self._segment, self._log, self._index = segment, log, index
        self._size, self._records, self._last = size, records, None
        self._checked_ns = time.monotonic_ns()

    def _roll_or_trouble(self, policy: LogPolicy) -> None:
        try:
            self._create(self._segment.number + 1, policy)
        except OSError as error:
            raise self._trouble(error) from error

    def _prune(self, last_unwanted: int) -> None:
        for number in numbers_in_use(self._directory):
            if number <= last_unwanted:
                old = Segment(self._directory, number)
                for path in (old.log, old.index):
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    def _make_directory(self) -> None:
        for path in (self._logs, self._directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        if is_cut(self._directory) and child_name(self._directory) is None:
            path = os.path.join(self._directory, NAME_FILE)
            with open(f"{path}.new", "w", encoding="utf-8") as file:
                file.write(self._name)
            os.replace(f"{path}.new", path)

    def _trouble(self, error: OSError, path: str | None = None) -> Trouble:
        where = path or error.filename or (self._segment.log if self._segment.number else self._directory)
        return Trouble(f"{where}: {error.strerror or error}")


def open_regular(path: str, flags: int) -> int:
    fd = os.open(path, _OPEN | flags, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def probe(logs: str) -> None:
    """OSError while new bytes can't be stored in `logs` at all (full, read-only, gone, broken)."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(logs, 0o700)
    path = os.path.join(logs, ".probe")
    fd = os.open(path, _OPEN | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if os.write(fd, b"\0" * _PROBE_BYTES) != _PROBE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(fd)
        os.unlink(path)
