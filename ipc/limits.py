"""The bounds of the router, each with the reason for its number. Times in nanoseconds, sizes in bytes.

What is not bounded here is bounded by root (names) or by these (a peer's share times the number of peers).
"""

from __future__ import annotations

from typing import Final

MILLISECOND: Final = 1_000_000
SECOND: Final = 1_000_000_000
KIB: Final = 1024
MIB: Final = 1024 * KIB

# --- credit ---

#: What a peer may give to the broker ahead of what left its memory: eight full batches.
SEND_MESSAGES: Final = 1024
SEND_BYTES: Final = MIB
#: A receiver may grant no more than this at a time, or a stopped one would fill the socket's memory.
WINDOW_MESSAGES: Final = 4096
WINDOW_BYTES: Final = 4 * MIB
#: Behind a receiver that takes nothing for so long, credit goes back to the senders: they have others to talk to.
STALL: Final = SECOND

# --- queues ---

#: A connected receiver's inbox, above what its own credit lets through: two senders at full credit.
INBOX_MESSAGES: Final = 2048
INBOX_BYTES: Final = 4 * MIB
#: Shares of it at which root is told that a receiver is far behind, and that it has caught up.
INBOX_HIGH: Final = 0.8
INBOX_LOW: Final = 0.5
#: The restart buffer of a name (DESIGN 9.3), unless its row says otherwise.
BUFFER_MESSAGES: Final = 100
BUFFER_BYTES: Final = MIB
#: How long a cast waits in it; a name that is away for longer has a problem that old casts make worse.
CAST_TTL: Final = 30 * SECOND
#: One subscriber's queue of events.
EVENT_MESSAGES: Final = 1000
EVENT_BYTES: Final = MIB
#: Bodies in all queues together.
MEMORY: Final = 64 * MIB

# --- deaths ---

#: A death is told so much later than root tells it, because what the dead one wrote last may still be in the socket
#: (two loops of the I/O thread take well below 1 ms; 20 ms leave room for a busy machine and are not noticed by anybody).
GRACE: Final = 20 * MILLISECOND
#: How long a hello waits for root's announcement, which travels on another socket.
PATIENCE: Final = SECOND
#: Hellos that wait: all agents of a large node may come before the snapshot has ended.
GUESTS: Final = 16_384
GUEST_BYTES: Final = 64 * MIB
#: Exit reasons, and incarnations of names that are gone, which are remembered.
DEATHS: Final = 4096

# --- misbehaviour ---

STRIKES: Final = 3
STRIKE_WINDOW: Final = 60 * SECOND
#: Unknown routing ids that were answered `stale`, so that each hears it once.
STRANGERS: Final = 1024

# --- a peer's share ---

HANDLES: Final = 4096
OPEN_CALLS: Final = 16_384
MONITORS: Final = 16_384
LINKS: Final = 4096
SUBSCRIPTIONS: Final = 4096
GROUPS: Final = 1024
KEYS: Final = 16_384
LOCKS: Final = 4096
#: Cancels that came before the call that they are for: the system lane is the faster one.
EARLY_CANCELS: Final = 256
#: Bytes of a key's packed value.
KEY_VALUE: Final = 4 * KIB
#: Characters of an exit reason: a chain of links names each link in it.
REASON: Final = 1000

# --- breakers (DESIGN 9.8) ---

BREAKER_FAILURES: Final = 5
BREAKER_OPEN: Final = 30 * SECOND
#: The service whose calls pass every breaker and move none.
HEALTH: Final = "health"

# --- letters, statistics ---

LETTERS: Final = 1000
LETTER_HEAD: Final = KIB
#: Dead letters are counted to root at most so often, or one storm would fill the event log.
LETTERS_REPORT: Final = SECOND
#: A packet to root is at most 200,000 bytes (ipc/frames.py); rows are about 300.
PART_ROWS: Final = 500
PART_BYTES: Final = 128 * KIB
