"""The count of root's starts, on disk: what makes `inc` grow for ever (messaging statement A1, invariant 41).

`inc = life << 32 | generation`: generations begin anew with each root, so a root that took a life twice would hand out
an identity twice. The life is on disk, with fsync, before anything is spawned. Two copies: `<state_dir>/life` lasts;
`<runtime_dir>/life`, which goes when the node ends, bridges a state directory that can't be written for a while. The
larger of the two counts.

Where neither can be read although the node has lived before, its seconds since 1970 are taken, or those of the newest
file in the state directory if the clock was set back. A node starts less than once a second, so that is above every life
it can have had; from there it counts on by one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otpd.supervisor.paths import NodePaths

#: A life and a generation have 32 bits each in an inc.
MOST: Final = 2**32 - 1
_LONGEST_FILE: Final = 32


def inc_of(life: int, generation: int) -> int:
    """The incarnation's number for ever.

    >>> inc_of(3, 2) == 3 * 2**32 + 2
    True
    """
    return life << 32 | generation


@dataclass(frozen=True, slots=True)
class Life:
    """`problem`: what was wrong with the record, in words. `saved`: whether this life is on disk."""

    number: int
    saved: bool = True
    problem: str | None = None


def begin(paths: NodePaths) -> Life:
    """The life of this start, above all that can be known, saved before it is given."""
    there = os.path.lexists(paths.life)
    known = [found for path in (paths.life, paths.life_bridge) if (found := _read(path)) is not None]
    problem = None
    if known:
        number = max(known) + 1
    elif not (there or _has_lived(paths)):
        number = 1
    else:
        problem = f"{paths.life} is {'damaged' if there else 'missing'}; counting on from the clock"
        number = _above_all(paths)
    why_not = save(paths, number)
    return Life(number, why_not is None, problem or why_not)


def save(paths: NodePaths, number: int) -> str | None:
    """Both copies; why the lasting one could not be written, or None."""
    with contextlib.suppress(OSError):
        _write(paths.life_bridge, number)
    try:
        _write(paths.life, number)
    except OSError as error:
        return f"{paths.life} can't be written: {error.strerror}"
    return None


def _read(path: Path) -> int | None:
    """None for anything but the number of a life. Never waits, whatever stands there."""
    try:
        with open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(_LONGEST_FILE)
    except OSError:
        return None
    digits = text.removesuffix(b"\n")
    number = int(digits) if digits.isdigit() and text.endswith(b"\n") else 0
    return number if 0 < number < MOST else None


def _has_lived(paths: NodePaths) -> bool:
    """The first thing that a node leaves behind is its log of events."""
    return any(paths.state_dir.glob("events.jsonl*")) or paths.logs.exists()


def _above_all(paths: NodePaths) -> int:
    return int(max(time.time(), *_times(paths.state_dir), 0.0)) + 1


def _times(directory: Path) -> Iterator[float]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                yield entry.stat(follow_symlinks=False).st_mtime


def _write(path: Path, number: int) -> None:
    """All of it or nothing, and on disk when this returns (T28)."""
    draft = path.with_name("life.new")
    with open(draft, "wb") as file:
        file.write(b"%d\n" % number)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
