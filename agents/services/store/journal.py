"""Durable messages on disk: the tables, how a unit of the queue is written, and how the queue is found again.

`queue` decides, the engine commits; here is the SQL between them. A unit is turned into rows when it is taken from the queue
(`Rows`), because the queue goes on while it waits for its commit. Each row carries a checksum of what must not change.

| a row that is not as it was written, of | what becomes of it when it is found |
|---|---|
| messages | never delivered: a dead letter, `corrupt`; one whose counters alone were damaged can be replayed |
| letters | stays, is shown, can't be replayed |
| receipts, subscriptions | dropped at the start; agents subscribe again at theirs |
| finished | not believed, and forgotten in its time |
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from otpd.agents.services.sqlite import checksum as row_sum
from otpd.agents.services.sqlite import intact, sealed
from otpd.agents.services.store import salvage
from otpd.agents.services.store.messages import Finished, Kind, Message, Receipt, Recovered, Unit
from otpd.agents.services.store.schema import Table

_FIRST: Final = """
CREATE TABLE messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, target TEXT NOT NULL, key TEXT NOT NULL, sender TEXT NOT NULL, id TEXT NOT NULL,
    kind INTEGER NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, max_attempts INTEGER NOT NULL, origin INTEGER NOT NULL,
    attempts INTEGER NOT NULL, lease INTEGER NOT NULL, turn INTEGER NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE letters (
    seq INTEGER PRIMARY KEY, target TEXT NOT NULL, key TEXT NOT NULL, sender TEXT NOT NULL, id TEXT NOT NULL,
    kind INTEGER NOT NULL, name TEXT NOT NULL, at REAL NOT NULL, max_attempts INTEGER NOT NULL, origin INTEGER NOT NULL,
    attempts INTEGER NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL,
    died REAL NOT NULL, reason TEXT NOT NULL, error TEXT NOT NULL, traceback TEXT NOT NULL
);
CREATE TABLE finished (
    sender TEXT NOT NULL, id TEXT NOT NULL, target TEXT NOT NULL, seq INTEGER NOT NULL, minute INTEGER NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (sender, id, target)
) WITHOUT ROWID;
CREATE TABLE subscriptions (
    name TEXT NOT NULL, pattern TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (name, pattern)
) WITHOUT ROWID;
CREATE TABLE receipts (
    sender TEXT PRIMARY KEY, inc INTEGER NOT NULL, number INTEGER NOT NULL, minute INTEGER NOT NULL, answer BLOB NOT NULL,
    crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE minutes (one INTEGER PRIMARY KEY CHECK (one = 1), minute INTEGER NOT NULL);
INSERT INTO minutes VALUES (1, 0);
"""
#: Those that wait already begin to wait anew: in which minute of the store they came nobody has written down.
_AGES: Final = """
ALTER TABLE messages ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
UPDATE messages SET since = (SELECT minute FROM minutes);
"""
#: For the engine: what makes these tables. Never changed; what comes later is a script of its own.
MIGRATIONS: Final = (_FIRST, _AGES)
_FIXED: Final = "seq, target, key, sender, id, kind, name, at, max_attempts, origin"
_INSERT: Final = f"INSERT INTO messages ({_FIXED}, attempts, lease, turn, since, body, crc) VALUES ({', '.join('?' * 16)})"
_BURY: Final = f"""
INSERT INTO letters ({_FIXED}, attempts, body, crc, died, reason, error, traceback)
SELECT {_FIXED}, attempts, body, crc, ?, ?, ?, ? FROM messages WHERE seq = ?"""
_BURY_NEW: Final = f"""
INSERT INTO letters ({_FIXED}, attempts, body, crc, died, reason, error, traceback) VALUES ({', '.join('?' * 17)})"""
_SIZES: Final = "SELECT seq, length(body) + length(error) + length(traceback) FROM letters ORDER BY died, seq"
_LETTER: Final = f"{_FIXED}, attempts, died, reason, error, traceback"


#: Rows that are written within a millisecond.
_FEW: Final = 64
#: Beside those that are fixed; of a letter the first alone.
_COUNTERS: Final = ("attempts", "lease", "turn", "since")


def _intact(row: sqlite3.Row) -> bool:
    """The fixed ones come first in both tables: a start asks this of 100,000 rows, and a name takes longer than a place."""
    *summed, at, max_attempts, origin = tuple(row)[:10]
    there = row.keys()
    try:
        same = zlib.crc32(row["body"], row_sum(*summed)) == row["crc"]
    except (TypeError, IndexError):  # a byte that says what kind of value it is, or that is in the name of a column
        return False
    numbers = (max_attempts, origin, *(row[name] for name in _COUNTERS if name in there))
    return same and isinstance(at, float) and {*map(type, numbers)} == {int}


_MESSAGES: Final = Table("messages", ("seq",), _intact, "seq")
#: What is known of who has sent and who wants what; without a row of it the store goes on.
_MEMORIES: Final = (
    Table("subscriptions", ("name", "pattern"), intact, "name"),
    Table("receipts", ("sender",), intact, "sender"),
)
#: All that senders have named in ten minutes: millions, which no start may wait for. A row is checked when it is asked for.
_FINISHED: Final = Table("finished", ("sender", "id", "target"), intact, "id")
#: For the engine: what is checked at its start, and saved from a damaged file.
TABLES: Final = (_MESSAGES, Table("letters", ("seq",), _intact, "seq"), _FINISHED, *_MEMORIES)


@dataclass(frozen=True, slots=True)
class Rows:
    """What a unit writes, as it was when it was taken."""

    inserts: Sequence[tuple[Any, ...]]
    leases: Sequence[tuple[int, int, int, int]]  # attempts, lease, turn, seq
    letters: Sequence[tuple[Any, ...]]
    buried: Sequence[tuple[Any, ...]]
    ended: Sequence[int]
    finished: Sequence[tuple[str, str, str, int, int, int]]
    opened: Sequence[int]
    subscriptions: Sequence[tuple[str, tuple[str, ...]]]
    receipt: Receipt | None
    outcomes: Sequence[int | str]
    minute: int

    @property
    def grows(self) -> bool:
        """Whether a full disk may refuse it; what only ends or moves messages must be written (E8)."""
        return self.receipt is not None or bool(self.inserts or self.subscriptions)

    @property
    def brief(self) -> bool:
        """Whether it touches a few rows; with a minute, all that are forgotten."""
        count = len(self.inserts) + len(self.leases) + len(self.letters) + len(self.ended) + len(self.opened)
        return count <= _FEW and not self.minute


def rows(unit: Unit, wall: float, minute: int) -> Rows:
    """`wall`: now, for the day of a death; `minute`: of the queue, until when ids are remembered."""
    ended = [*unit.settled, *(each.message for each in unit.burials if each.body is None)]
    leases = [(m.attempts, m.lease, m.turn, m.seq) for m in (*unit.releases, *unit.charges)]
    return Rows(
        inserts=[(*_fixed(m), m.attempts, m.lease, m.turn, m.since, body, checksum(m, body)) for m, body in unit.inserts],
        leases=leases,
        letters=[
            (*_fixed(b.message), b.message.attempts, b.body, checksum(b.message, b.body), wall, *_why(b.failure))
            for b in unit.burials
            if b.body is not None
        ],
        buried=[(wall, *_why(b.failure), b.message.seq) for b in unit.burials if b.body is None],
        ended=[m.seq for m in ended],
        finished=[sealed(m.sender, m.id, m.target, m.seq, minute) for m in ended if m.id],
        opened=list(unit.opened),
        subscriptions=list(unit.subscriptions.items()),
        receipt=unit.receipt,
        outcomes=[each.seq if isinstance(each, Message) else each for each in unit.outcomes],
        minute=unit.minute,
    )


def _fixed(m: Message) -> tuple[Any, ...]:
    return (m.seq, m.target, m.key, m.sender, m.id, int(m.kind), m.name, m.at, m.max_attempts, m.origin)


def _why(failure: Any) -> tuple[str, str, str]:
    return failure.reason, failure.error, failure.traceback


def checksum(message: Message, body: bytes) -> int:
    """Of all that stays as it is while the message lives."""
    return zlib.crc32(body, row_sum(*_fixed(message)[:7]))


def write(connection: sqlite3.Connection, it: Rows, memory: int, more: Any = None) -> None:
    """Within the transaction of the engine. `more`: what the submission's answer says beside its outcomes."""
    execute, many = connection.execute, connection.executemany
    if it.inserts:
        many(_INSERT, it.inserts)
    if it.leases:
        many("UPDATE messages SET attempts = ?, lease = ?, turn = ? WHERE seq = ?", it.leases)
    if it.letters:
        many(_BURY_NEW, it.letters)
    if it.buried:
        many(_BURY, it.buried)
    if it.ended:
        many("DELETE FROM messages WHERE seq = ?", [(seq,) for seq in it.ended])
    if it.finished:
        many("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?, ?, ?)", it.finished)
    if it.opened:
        many("DELETE FROM letters WHERE seq = ?", [(seq,) for seq in it.opened])
    for name, patterns in it.subscriptions:
        execute("DELETE FROM subscriptions WHERE name = ?", (name,))
        many("INSERT OR IGNORE INTO subscriptions VALUES (?, ?, ?)", [sealed(name, pattern) for pattern in patterns])
    if it.receipt is not None:
        answer = msgpack.packb([list(it.outcomes), more])
        who = sealed(it.receipt.sender, it.receipt.inc, it.receipt.number, it.receipt.minute, answer)
        execute("INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?)", who)
    if it.minute:
        execute("UPDATE minutes SET minute = ?", (it.minute,))
        execute("DELETE FROM finished WHERE minute < ?", (it.minute - memory,))
        execute("DELETE FROM receipts WHERE minute < ?", (it.minute - memory,))


# --- found again ---


def recover(connection: sqlite3.Connection, wall: float = 0.0) -> Recovered:
    """All that the queue has to know, without the bodies. Changes what is damaged, as the table above says; `wall`: now,
    for the day of these deaths."""
    with salvage.any_text(connection):
        for table in _MEMORIES:
            salvage.drop_damaged(connection, table)
        messages, corrupt = _sorted_out(connection)
        for row in corrupt:
            _bury_damaged(connection, row, wall)
        receipts = [
            Receipt(sender, inc, number, minute, msgpack.unpackb(answer))
            for sender, inc, number, minute, answer, _ in connection.execute("SELECT * FROM receipts")
        ]
        return Recovered(
            messages=messages,
            corrupt=[_message(_readable(row)) for row in corrupt],
            letters={seq: _whole(size) for seq, size in connection.execute(_SIZES)},
            subscriptions=_subscriptions(connection),
            receipts=receipts,
            next_seq=_last_seq(connection) + 1,
            next_turn=max((message.turn for message in messages), default=0) + 1,
            minute=_number(connection, "SELECT minute FROM minutes"),
        )


def _sorted_out(connection: sqlite3.Connection) -> tuple[list[Message], list[sqlite3.Row]]:
    """Messages as they were written, and rows that are not."""
    messages, corrupt = [], []
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    query = f"SELECT {_FIXED}, length(body) AS size, attempts, lease, turn, since, body, crc FROM messages ORDER BY seq"
    for row in cursor.execute(query):
        if _intact(row):
            messages.append(_message(tuple(row)[:15]))
        else:
            corrupt.append(row)
    return messages, corrupt


def _bury_damaged(connection: sqlite3.Connection, row: sqlite3.Row, wall: float) -> None:
    """With what can be read of it. Its checksum stays: a letter that does not fit it can't be replayed."""
    fixed, attempts = _readable(row)[:10], _readable(row)[11]
    why = (wall, "corrupt", "", "")
    connection.execute(_BURY_NEW, (*fixed, attempts, _bytes(row["body"]), _whole(row["crc"]), *why))
    connection.execute("DELETE FROM messages WHERE seq = ?", (row["seq"],))


def _readable(row: sqlite3.Row) -> tuple[Any, ...]:
    """The fields of a message, each of the kind that it must be."""
    seq, target, key, sender, id, kind, name, at, *numbers = tuple(row)[:15]
    texts = (str(each) for each in (target, key, sender, id))
    known = kind if kind in tuple(Kind) else Kind.CAST
    return (seq, *texts, known, str(name), at if isinstance(at, float) else 0.0, *(_whole(each) for each in numbers))


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def _subscriptions(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name, pattern in connection.execute("SELECT name, pattern FROM subscriptions ORDER BY name, pattern"):
        found[name] = (*found.get(name, ()), pattern)
    return found


def _last_seq(connection: sqlite3.Connection) -> int:
    """Of all messages that there ever were."""
    places = ("sqlite_sequence WHERE name = 'messages'", "messages", "letters")
    return max(_number(connection, f"SELECT max(seq) FROM {each}") for each in places)


def _number(connection: sqlite3.Connection, query: str) -> int:
    """0 for none, or for what is no number any more."""
    found = connection.execute(query).fetchone()
    return _whole(found[0]) if found is not None else 0


def _message(row: Sequence[Any]) -> Message:
    seq, target, key, sender, id, kind, name, at, max_attempts, origin, size, attempts, lease, turn, since = row
    return Message(
        seq=seq, target=target, key=key, sender=sender, id=id, kind=Kind(kind), name=name, at=at, size=size,
        max_attempts=max_attempts, origin=origin, attempts=attempts, lease=lease, turn=turn, since=since,
    )  # fmt: skip


def body(connection: sqlite3.Connection, message: Message) -> bytes | None:
    """Of one that is to be delivered; None when it is not what was written."""
    row = connection.execute("SELECT body, crc FROM messages WHERE seq = ?", (message.seq,)).fetchone()
    if row is None or checksum(message, row[0]) != row[1]:
        return None
    return bytes(row[0])


def finished(connection: sqlite3.Connection, named: Sequence[tuple[str, str]]) -> Finished:
    """Which of these (sender, id) belong to messages that have ended within memory: their targets and seqs."""
    query = "SELECT * FROM finished WHERE sender = ? AND id = ?"
    with salvage.any_text(connection):
        rows = [row for pair in dict.fromkeys(named) for row in connection.execute(query, pair)]
    return {(sender, id, target): seq for sender, id, target, seq, *rest in rows if intact((sender, id, target, seq, *rest))}


# --- dead letters ---


def letters(connection: sqlite3.Connection, target: str = "", limit: int = 10_000) -> list[dict[str, Any]]:
    """The newest last; without their bodies."""
    query = f"SELECT {_LETTER}, length(body) FROM letters WHERE ? IN ('', target) ORDER BY died DESC, seq DESC LIMIT ?"
    with salvage.any_text(connection):
        return [_letter(row[:-1]) | {"bytes": row[-1]} for row in connection.execute(query, (target, limit))][::-1]


def letter_numbers(connection: sqlite3.Connection, target: str, until: float | None, after: int, limit: int) -> list[int]:
    """Of one target, or all; of those that died no later than `until`; from the first beyond `after` on."""
    query = "SELECT seq FROM letters WHERE ? IN ('', target) AND (? IS NULL OR died <= ?) AND seq > ? ORDER BY seq LIMIT ?"
    return [seq for (seq,) in connection.execute(query, (target, until, until, after, limit))]


def letter(connection: sqlite3.Connection, seq: int) -> tuple[dict[str, Any], Message | None, bytes] | None:
    """One whole: for people, for the queue (None: it is damaged), and its body."""
    cursor = connection.cursor()
    cursor.row_factory = sqlite3.Row
    with salvage.any_text(connection):
        row = cursor.execute(f"SELECT {_LETTER}, body, crc FROM letters WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return None
    content = _bytes(row["body"])
    message = _message((*tuple(row)[:10], len(content), 0, 0, 0, 0)) if _intact(row) else None
    return _letter(tuple(row)[:15]) | {"bytes": len(content)}, message, content


def _letter(row: Sequence[Any]) -> dict[str, Any]:
    seq, target, key, sender, id, kind, name, at, max_attempts, origin, attempts, died, reason, error, traceback = row
    return {
        "seq": seq, "target": target, "kind": "event" if kind == Kind.EVENT else "cast", "name": name, "sender": sender,
        "id": id, "key": key, "attempts": attempts, "max_attempts": max_attempts, "reason": reason, "error": error,
        "traceback": traceback, "sent_at": at, "died_at": died, "replay_of": origin or None,
    }  # fmt: skip
