"""The error store for who only looks, `otpd errors` above all: what the service has stored, and what it has not read yet.

Needs nobody: not the service, not root, not a node that runs; and changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from otpd.agents.services.errors.database import FILE, Database
from otpd.agents.services.errors.records import Machine
from otpd.agents.services.journal import Event, Reader, in_batches, place, unread

_BATCH: Final = 1000


def look(state_dir: str) -> Database:
    """All that is known now. database.Unusable or sqlite3.Error when the file can't be read."""
    database = Database.look(os.path.join(state_dir, FILE))
    try:
        return _up_to_now(database, state_dir)
    except BaseException:
        database.close()
        raise


def _up_to_now(database: Database, state_dir: str) -> Database:
    cursor, alive = database.progress()
    reader, machine = Reader(cursor), Machine(alive)
    for number, batch in enumerate(in_batches(unread(state_dir, cursor), _BATCH)):
        if number == 0:
            read, database = database, database.copy()
            read.close()
        absorb(database, machine, reader.new(batch))
    return database


def absorb(database: Database, machine: Machine, events: Sequence[Event]) -> int:
    """Take new events, in order, into the database together with the place of the last; how many records and last lines."""
    items = [found for event in events if (found := machine.take(event)) is not None]
    last = next((at for event in reversed(events) if (at := place(event)) is not None), database.progress()[0])
    database.apply(items, last, machine.alive)
    return len(items)
