"""`otpd logs`: what the children printed, read from the files of the node, which needn't run.

Lines are merged by time. Text is for people: bytes that are no UTF-8 and control characters are escaped, of terminal
sequences only colours reach a terminal and none a pipe, of a progress bar the last state is shown. `--json` gives each line
as it was, `--raw` the bytes.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import select
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any

import click

from otpd.supervisor import logstore
from otpd.supervisor.logstore import Entry, Follower
from otpd.supervisor.paths import NodePaths

NO_SUCH_CHILD = 4
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_RESET = "\x1b[0m"
_SGR = r"\x1b\[[0-9;:]*m"
#: CSI, OSC/DCS/... strings, and the two-byte escapes.
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")
_SEQUENCE_BUT_SGR = re.compile(rf"(?!{_SGR}){_SEQUENCE.pattern}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
_CONTROL_BUT_SGR = re.compile(rf"(?!{_SGR}){_CONTROL.pattern}")


class UnknownName(click.ClickException):
    exit_code = NO_SUCH_CHILD


class View:
    """Turns entries into lines of text. `colour` also means that the child's own colours are let through."""

    def __init__(self, names: Iterable[str], colour: bool, times: bool = True) -> None:
        self._width = min(max((len(name) for name in names), default=0), 32)
        self._colour = colour
        self._times = times
        self._second = (-1, "")

    def __call__(self, entry: Entry) -> str:
        self._width = max(self._width, min(len(entry.name), 32))
        name = f"{visible(entry.name, colour=False):<{self._width}}"
        text = visible(entry.text(), self._colour)
        if self._colour:
            name = f"\x1b[{_COLOURS[zlib.crc32(entry.name.encode(errors='replace')) % len(_COLOURS)]}m{name}{_RESET}"
            text = f"\x1b[1;31m{text}{_RESET}" if entry.dropped else text
        return f"{self._time(entry.at_ns)} {name} | {text}\n" if self._times else f"{name} | {text}\n"

    def _time(self, at_ns: int) -> str:
        second = at_ns // 1_000_000_000
        if second != self._second[0]:
            self._second = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._second[1]}.{at_ns // 1_000_000 % 1000:03d}"


def visible(text: str, colour: bool) -> str:
    """`text` as one line that can't do anything to a terminal but colour it.

    >>> visible("10%\\r 50%\\r100%\\r", False), visible("\\x1b[31mred\\x1b[0m\\x1b[2J\\a", False)
    ('100%', 'red\\\\x07')
    """
    text = text.rstrip("\r")
    text = text[text.rfind("\r") + 1 :]
    if "\x1b" not in text and text.isprintable():
        return text
    text = (_SEQUENCE_BUT_SGR if colour else _SEQUENCE).sub("", text)
    has_colour = colour and "\x1b[" in text
    text = (_CONTROL_BUT_SGR if colour else _CONTROL).sub(lambda found: f"\\x{ord(found[0]):02x}", text)
    return text + _RESET if has_colour else text


def as_json(entry: Entry) -> str:
    """The entry as one JSON object and a newline; "at" is unix time in seconds."""
    value: dict[str, Any] = {
        "at": entry.at_ns / 1e9,
        "name": entry.name,
        "generation": entry.generation,
        "line": entry.text(),
    }
    value |= {"dropped": entry.dropped} if entry.dropped else {}
    value |= {"more": entry.more} if entry.more else {}
    return json.dumps(value) + "\n"


def follow_all(
    paths: NodePaths,
    write: Callable[[str], object],
    since: float | None = None,
    stop: Callable[[], bool] = lambda: False,
    colour: bool = False,
) -> None:
    """Give `write` every line of every child as it comes, prefixed by its name, until `stop()`.

    `since` is a unix time; None: only what is printed from now on. Children that appear later are taken up.
    """
    follower = Follower(paths.logs)
    if since is None:
        follower.to_end()
    else:
        follower.to_time(int(since * 1e9))
    view = View(follower.readers, colour, times=False)
    for batch in logstore.follow(follower, stop):
        if batch:
            write("".join(map(view, batch)))


def _lines(ctx: click.Context, param: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    if not value.isdecimal():
        raise click.BadParameter(f'expected a number of lines (0, 1, 2, ...) or "all", got {value!r}')
    return int(value)


def _duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    from otpd.supervisor.problems import Invalid
    from otpd.supervisor.units import parse_duration

    try:
        return None if value is None else parse_duration(value)
    except Invalid as error:
        raise click.BadParameter(str(error)) from error


@click.command("logs")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on, until ^C.")
@click.option(
    "-n",
    "--lines",
    callback=_lines,
    metavar="N|all",
    default="100",
    help='The last N lines of all names together, or "all". Default: 100; with --since or --raw: all.',
)
@click.option(
    "--since", callback=_duration, metavar="DURATION", help="Only lines of this last time, such as 90s, 10m or 2h."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object per line: at, name, generation, line.")
@click.option("--raw", is_flag=True, help="The bytes as they were printed, name after name.")
@click.pass_context
def logs(
    ctx: click.Context,
    names: tuple[str, ...],
    follow: bool,
    lines: int | None,
    since: float | None,
    json_: bool,
    raw: bool,
) -> None:
    """Show what children have printed: all of them, or each NAME (also the name of a group of instances).

    Works while the node is down: the logs are files.
    """
    if json_ and raw:
        raise click.UsageError("--json and --raw exclude each other; leave one out")
    paths: NodePaths = ctx.obj.paths()
    chosen = _choose(paths, names, follow)
    since_ns = None if since is None else time.time_ns() - int(since * 1e9)
    given = ctx.get_parameter_source("lines") is not click.core.ParameterSource.DEFAULT
    if not given and (raw or since is not None):
        lines = None
    out = sys.stdout.buffer
    try:
        if raw:
            _copy(paths, chosen, bool(names), follow, lines, since_ns, out)
        else:
            colour = out.isatty() and "NO_COLOR" not in os.environ
            show: Callable[[Entry], str] = View(chosen, colour)
            if json_:
                show = as_json
            _show(paths, chosen if names else None, follow, lines, since_ns, show, out)
        out.flush()
    except BrokenPipeError:
        _forget_stdout()
    except KeyboardInterrupt:
        pass


def _choose(paths: NodePaths, wanted: Sequence[str], follow: bool) -> list[str]:
    """The names to show; UnknownName when one has no log."""
    known = logstore.names(paths.logs)
    if not wanted:
        if not known and not follow:
            click.echo(f"nothing was logged in {paths.logs} yet; start the node with: otpd start", err=True)
        return known
    chosen: dict[str, None] = {}
    for name in wanted:
        found = [name] if name in known else _instances(name, known)
        if not found:
            raise UnknownName(_unknown(name, known, paths))
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _instances(group: str, known: Iterable[str]) -> list[str]:
    found = [name for name in known if name.startswith(f"{group}-") and name[len(group) + 1 :].isdecimal()]
    return sorted(found, key=lambda name: int(name[len(group) + 1 :]))


def _unknown(name: str, known: list[str], paths: NodePaths) -> str:
    near = difflib.get_close_matches(name, known, 3, 0.5)
    if near:
        return f"no child called {name!r} has a log in {paths.logs}; did you mean {' or '.join(near)}?"
    some = f"there are {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}" if known else "there are none yet"
    return f"no child called {name!r} has a log in {paths.logs}; {some}; see otpd tree"


def _show(
    paths: NodePaths,
    wanted: list[str] | None,
    follow: bool,
    lines: int | None,
    since_ns: int | None,
    show: Callable[[Entry], str],
    out: IO[bytes],
) -> None:
    if follow:
        for batch in _followed(Follower(paths.logs, wanted), lines, since_ns):
            if batch:
                _write(out, "".join(map(show, batch)).encode("utf-8", "backslashreplace"))
                out.flush()
            elif _reader_is_gone(out):
                return
        return
    for entry in _stored(paths, logstore.names(paths.logs) if wanted is None else wanted, lines, since_ns):
        _write(out, show(entry).encode("utf-8", "backslashreplace"))


def _stored(paths: NodePaths, chosen: list[str], lines: int | None, since_ns: int | None) -> Iterable[Entry]:
    if since_ns is None and lines is not None:
        return logstore.tail(paths.logs, chosen, lines)
    found = logstore.since(paths.logs, chosen, since_ns or 0)
    return found if lines is None else _last(found, lines)


def _followed(follower: Follower, lines: int | None, since_ns: int | None) -> Iterator[list[Entry]]:
    if since_ns is not None:
        follower.to_time(since_ns)
    elif lines is not None:
        follower.to_last(lines)
    batches = logstore.follow(follower)
    first = next(batches)
    yield first if lines is None else _last(first, lines)
    yield from batches


def _last(entries: Iterable[Entry], n: int) -> list[Entry]:
    return list(deque(entries, maxlen=n))


def _copy(
    paths: NodePaths,
    chosen: list[str],
    fixed: bool,
    follow: bool,
    lines: int | None,
    since_ns: int | None,
    out: IO[bytes],
) -> None:
    if not follow:
        for name in chosen:
            for data in logstore.raw(paths.logs, name, lines, since_ns):
                _write(out, data)
        return
    follower = Follower(paths.logs, chosen if fixed else None)
    if since_ns is not None:
        follower.to_time(since_ns)
    elif lines is not None:
        follower.to_last(lines)
    while not _reader_is_gone(out):
        for data in follower.poll_raw():
            _write(out, data)
        out.flush()
        time.sleep(0.05)


def _write(out: IO[bytes], data: bytes) -> None:
    """All of `data`; with PYTHONUNBUFFERED a write may be short."""
    left = memoryview(data)
    while left:
        left = left[out.write(left) :]


def _reader_is_gone(out: IO[bytes]) -> bool:
    """Whether nobody can read what we print; without it `logs -f | head -1` would wait for the next line to end."""
    poll = select.poll()
    poll.register(out.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _forget_stdout() -> None:
    """The reader of our output has gone (`| head`); nothing more may be written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
