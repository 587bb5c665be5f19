"""What the audit events of Python say of a process that is about to be made, and how often to speak of it. Pure.

`guard` listens, `noexec` is the kernel's part. The place of an attempt is the innermost line of code that belongs neither
to Python nor to otpd: a script's own, or the line of the library that starts something when it is imported.

>>> stack = [Code("subprocess", "run", PYTHON + "/subprocess.py", 548), Code("__main__", "fetch", "/srv/feed.py", 12)]
>>> str(attempt("subprocess.Popen", ("git", ["git", "log"], None, None), stack))
"subprocess.run('git') at /srv/feed.py:12 in fetch"
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

#: Where the standard library is.
PYTHON: Final = os.path.dirname(os.__file__)
_OWN: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED: Final = ("/site-packages/", "/dist-packages/")

#: The event of `guard` for the one function that starts processes and has no event of Python's own.
FORK_EXEC: Final = "otpd.fork_exec"
#: What an event says of the program, if there is one.
_PROGRAM: Final[dict[str, Callable[[Sequence[Any]], Any]]] = {
    "os.fork": lambda _: None,
    "os.forkpty": lambda _: None,
    "os.exec": lambda args: args[0],
    "os.posix_spawn": lambda args: args[0],
    "os.spawn": lambda args: args[1],
    "os.system": lambda args: _first_word(args[0]),
    "pty.spawn": lambda args: args[0][0],
    "subprocess.Popen": lambda args: args[1] if isinstance(args[1], str) else args[1][0] if args[1] else args[0],
    FORK_EXEC: lambda args: args[0],
}
EVENTS: Final = frozenset(_PROGRAM)
#: Functions whose own event comes first; what they do then is no second attempt.
_SPOKEN_FOR: Final = {
    "os.posix_spawn": ("subprocess", "Popen._posix_spawn"), "os.forkpty": ("pty", "spawn"), "os.fork": ("pty", "spawn"),
}  # fmt: skip
#: Beginnings of modules whose processes are for Python's own functions, not for programs.
_PARALLEL: Final = ("multiprocessing", "concurrent.futures")
_PROGRAM_LIMIT: Final = 60
_PLACES_KEPT: Final = 1000

COMMAND: Final = "await self.exec([...]) runs it in the sandbox; one that lives long is declared under [programs.NAME]"
PROCESS: Final = (
    "await self.task(fn, ...) and self.stream(fn, items) run functions in supervised processes; self.start_child({...}) "
    "starts another worker"
)


class Code(NamedTuple):
    """One frame of the stack."""

    module: str
    function: str
    file: str
    line: int
#: Shared memory, locks and queues of multiprocessing start it.
_TRACKER: Final = "multiprocessing.resource_tracker"
SHARING: Final = (
    "multiprocessing brings a process of its own to clean up after what it shares; os.memfd_create() and mmap share memory "
    "without one, and agents share data by messages"
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A process that is about to be made. `call`: as the script knows it; `program`: what it would run, "" for a fork."""

    call: str
    program: str
    place: str
    instead: str

    def __str__(self) -> str:
        return f"{self.call}({repr(self.program) if self.program else ''}) at {self.place}"


def attempt(event: str, args: Sequence[Any], stack: Iterable[Code]) -> Attempt | None:
    """What `event` means, with `stack` innermost first; None when it was spoken of already."""
    within: list[Code] = []
    place: Code | None = None
    for code in stack:
        if not _is_python(code.file):
            place = code
            break
        within.append(code)
    if _SPOKEN_FOR.get(event) in [(code.module, code.function) for code in within]:
        return None
    outermost = place or (within[-1] if within else Code("", "?", "?", 0))
    call = f"{within[-1].module}.{within[-1].function}" if within and place else event
    parallel = any(code.module.startswith(_PARALLEL) for code in within)
    program = "" if parallel else _program(event, args)
    return Attempt(
        call=call,
        program=program,
        place=f"{outermost.file}:{outermost.line} in {outermost.function}",
        instead=_instead(call, program, within),
    )


def _instead(call: str, program: str, within: list[Code]) -> str:
    if program or call.startswith("os.spawn"):
        return COMMAND
    return SHARING if any(code.module == _TRACKER for code in within) else PROCESS


def _is_python(file: str) -> bool:
    """Of the standard library, of otpd's SDK, or of no file."""
    if file.startswith(PYTHON):
        return not any(part in file for part in _INSTALLED)
    return file.startswith(("<frozen ", _OWN))


def _program(event: str, args: Sequence[Any]) -> str:
    """Without its arguments, which may hold secrets."""
    try:
        found = _PROGRAM[event](args)
        text = os.path.basename(os.fsdecode(found)) if found else ""
    except (LookupError, TypeError, ValueError):
        return "?"
    return text if len(text) <= _PROGRAM_LIMIT else text[: _PROGRAM_LIMIT - 3] + "..."


def _first_word(command: str | bytes) -> str:
    return next(iter(os.fsdecode(command).split()), "")


class Tally:
    """How many attempts there were, and which places have been spoken of: each once, and not more than so many."""

    def __init__(self) -> None:
        self._seen, self._refused = itertools.count(1), itertools.count(1)
        self.seen = self.refused = 0
        self._places: set[tuple[str, str]] = set()

    def count(self, refused: bool) -> None:
        self.seen = next(self._seen)
        if refused:
            self.refused = next(self._refused)

    def is_new(self, found: Attempt) -> bool:
        """Whether this is the first of its kind at its place."""
        key = (found.call, found.place)
        if key in self._places or len(self._places) >= _PLACES_KEPT:
            return False
        self._places.add(key)
        return True
