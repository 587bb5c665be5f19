"""Which commands there are, whose each is, and what became of the last ones. Pure: no clock, no I/O.

| state | a run that is answered whole | one that is streamed, or too large for an answer |
|---|---|---|
| OPEN | waits or runs; its call waits | waits or runs; output is read piece by piece |
| OVER | answered and forgotten at once | the rest is there to be read, until it is, or `KEPT` s have passed |

The end of an owner ends everything that it has here. What nobody reads is bounded (`MOST_KEPT`).
"""

from __future__ import annotations

import itertools
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Generic, TypeVar

#: Commands that are remembered after their end.
REMEMBERED: Final = 200
#: Seconds for which the rest of a command's output is kept for an owner that does not read it.
KEPT: Final = 60.0
#: Bytes of output, of all commands that are over, which wait to be read.
MOST_KEPT: Final = 64 * 2**20
#: Characters of a command that are remembered.
_SHOWN: Final = 300

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Owner:
    """An incarnation that has ordered commands. `bounds`: the lists that bind it (see `bound`), by whose they are."""

    name: str
    generation: int
    bounds: Mapping[str, Sequence[str]] = field(default_factory=dict, compare=False)


@dataclass(slots=True, eq=False)
class Entry(Generic[R]):
    """One command. `run` is what carries it out."""

    id: str
    owner: Owner
    argv: str
    profile: str
    run: R
    at: float  # wall clock
    pieces: deque[tuple[str, memoryview]] = field(default_factory=deque)  # of a result that is too large for one answer
    record: dict[str, Any] | None = None  # once it is over
    drop_at: float = float("inf")  # monotonic


class Book(Generic[R]):
    """`generation` of the service makes ids unique in a node: one of an earlier incarnation is known as such."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._numbers = itertools.count(1)
        self._entries: dict[str, Entry[R]] = {}
        self._owners: dict[str, Owner] = {}
        self._last: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)

    def __iter__(self) -> Iterator[Entry[R]]:
        return iter(list(self._entries.values()))

    def fresh_id(self) -> str:
        return f"c{self._generation}-{next(self._numbers)}"

    def begin(self, entry: Entry[R]) -> bool:
        """Whether its owner was not known: somebody has to watch it from now on."""
        self._entries[entry.id] = entry
        known = self._owners.get(entry.owner.name)
        self._owners[entry.owner.name] = entry.owner
        return known != entry.owner

    def known(self, owner: Owner) -> Owner | None:
        """As it was when it began the first of its commands, if it is watched."""
        known = self._owners.get(owner.name)
        return known if known == owner else None

    def find(self, id: str, owner: Owner) -> Entry[R] | None:
        """None when there is none of this id that belongs to `owner`."""
        found = self._entries.get(id)
        return found if found is not None and found.owner == owner else None

    def over(self, entry: Entry[R], record: dict[str, Any], now: float) -> dict[str, Any]:
        """What is remembered of it. It stays until `forget`, or for a while."""
        entry.record, entry.drop_at = record, now + KEPT
        summary = {**described(entry), **{key: record[key] for key in _REMEMBERED}}
        self._last.append(summary)
        return summary

    def forget(self, entry: Entry[R]) -> None:
        self._entries.pop(entry.id, None)

    def end_of(self, name: str, generation: int) -> list[Entry[R]]:
        """The commands of an owner that is no more; generation 0 is any. It is to be watched anew, should it come again."""
        owner = self._owners.get(name)
        if owner is not None and generation in (0, owner.generation):
            del self._owners[name]
        return [each for each in self if each.owner.name == name and generation in (0, each.owner.generation)]

    def late(self, now: float) -> list[Entry[R]]:
        """Those that nobody has read to the end."""
        return [each for each in self if each.drop_at <= now]

    def crowded(self, sizes: Mapping[str, int]) -> list[Entry[R]]:
        """Of those that are over and not read to their end the oldest, where all of them (`sizes` by id) are too much.

        The newest stays, however large it is: somebody is about to read it.
        """
        kept = [each for each in self if each.record is not None and sizes.get(each.id)]
        total, found = sum(sizes[each.id] for each in kept), []
        for each in kept[:-1]:
            if total <= MOST_KEPT:
                break
            total -= sizes[each.id]
            found.append(each)
        return found

    def last(self, most: int) -> list[dict[str, Any]]:
        """Oldest first."""
        return list(self._last)[-most:] if most else []


#: Of a result.
_REMEMBERED: Final = (
    "status", "killed_by", "exit_code", "signal", "queue_s", "wall_s", "cpu_s", "max_rss", "stdout_bytes", "stderr_bytes",
)  # fmt: skip


def described(entry: Entry[Any]) -> dict[str, Any]:
    """Who has ordered what."""
    return {
        "id": entry.id, "argv": entry.argv, "profile": entry.profile, "caller": entry.owner.name,
        "generation": entry.owner.generation, "at": entry.at,
    }  # fmt: skip


def bound(caller: Owner, whereabouts: Mapping[str, Any] | None, lists: Mapping[str, list[str] | None]) -> Owner | None:
    """With the lists that bind it; None when that can't be told, because the broker knows nothing of this incarnation.

    An own child is bound by the list of its owner, and so on upwards. What its own name says can but narrow that.

    >>> feed, lists = Owner("feed-7", 2), {"feed": ["git"], "boss": ["ls"]}
    >>> bound(feed, {"generation": 2, "owners": ["boss", "other"]}, lists).bounds
    {'feed-7': ['git'], 'boss': ['ls']}
    """
    if whereabouts is None or whereabouts["generation"] != caller.generation:
        return None
    found = {each: _list_of(each, lists) for each in (caller.name, *whereabouts["owners"])}
    return replace(caller, bounds={each: patterns for each, patterns in found.items() if patterns is not None})


def _list_of(name: str, lists: Mapping[str, list[str] | None]) -> list[str] | None:
    """None: it has none. An instance that is not listed itself has that of its group.

    >>> lists = {"feed": ["git"], "feed-1": ["git"], "feed-x": ["ls"]}
    >>> [_list_of(name, lists) for name in ("feed-1", "feed-7", "feed-x-7", "other", "feed-x1")]
    [['git'], ['git'], ['ls'], None, None]
    """
    if name in lists:
        return lists[name]
    group, _, number = name.rpartition("-")
    return lists.get(group) if number.isdigit() else None


def shown(argv: object, code: str | None) -> str:
    """A command in one line, as one would type it; cut when it is long."""
    if code is not None:
        text = f"exec_python {code!r}"
    elif isinstance(argv, Sequence) and not isinstance(argv, str | bytes):
        text = shlex.join(word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in argv)
    else:
        text = repr(argv)
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def answered(entry: Entry[Any], inline: int, piece: int) -> dict[str, Any]:
    """What the call that ordered it is answered. Output that is too large for that stays in `pieces`, and nowhere else."""
    assert entry.record is not None
    entry.record, entry.pieces = cut(entry.record, inline, piece)
    return {**entry.record, "more": bool(entry.pieces)}


def cut(record: Mapping[str, Any], inline: int, piece: int) -> tuple[dict[str, Any], deque[tuple[str, memoryview]]]:
    """The record as it is answered, and what of its output is too large for that, in pieces, which are no copies."""
    outputs = [(stream, record[stream]) for stream in ("stdout", "stderr")]
    if sum(len(content) for _, content in outputs) <= inline:
        return dict(record), deque()
    pieces = deque((stream, chunk) for stream, content in outputs for chunk in _chunks(content, piece))
    return {**record, "stdout": b"", "stderr": b""}, pieces


def _chunks(content: bytes, size: int) -> Iterable[memoryview]:
    return (memoryview(content)[place : place + size] for place in range(0, len(content), size))
