"""The error store for who only looks, `otpd errors` above all: what the service has stored, and what it has not read yet.

Needs nobody: not the service, not root, not a node that runs; and changes nothing.
"""

from __future__ import annotations

import os

from otpd.agents.services.errors.database import FILE, Database
from otpd.agents.services.errors.records import Machine
from otpd.agents.services.journal import Event, Reader, unread


def look(state_dir: str) -> Database:
    """All that is known now. database.Unusable when the file can't be read."""
    database = Database.look(os.path.join(state_dir, FILE))
    cursor, alive = database.progress()
    events = unread(state_dir, cursor)
    if not events:
        return database
    copy = database.copy()
    database.close()
    absorb(copy, Reader(cursor), Machine(alive), events)
    return copy


def absorb(database: Database, reader: Reader, machine: Machine, events: list[Event]) -> int:
    """Take what is new of `events` into the database; how many records and last lines that were."""
    items = [found for event in reader.new(events) if (found := machine.take(event)) is not None]
    database.apply(items, reader.cursor, machine.alive)
    return len(items)
