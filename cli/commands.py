"""`otpd exec`: a command in the node's sandbox, as an agent would order it. `otpd commands`: what runs, what ran last.

The exit status of `otpd exec` is that of the command; else, as `timeout` and shells have it:

| 124 | its time was over             | 127 | there is no such command                   |
| 125 | otpd or the sandbox refused it | 128 + n | signal n ended it; 137: a limit did    |
| 126 | it is there and can't be run  | 130 | ^C, which cancels it                       |
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import click

from otpd.cli.arguments import json_option, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.messages import client_of, failure_of
from otpd.cli.output import Line, Span, Style, columns, harmless, say, say_json, say_lines
from otpd.cli.words import ago, duration, signal_name, size

if TYPE_CHECKING:
    from otpd.agents import Client, OtpdError, Result
    from otpd.agents.blocking import BlockingCommand
    from otpd.agents.commands import Options

#: Of a command that has not ended by itself, or was never one.
_CODES: Final = {"refused": 125, "setup_failed": 125, "busy": 125, "not_executable": 126, "not_found": 127, "cancelled": 130}
_REFUSED: Final = 125
_CHUNK: Final = 65536
#: Bytes of standard input that go with an order (--json); more is streamed.
_WHOLE: Final = 8 * 2**20


@click.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--profile", "-p", default="default", show_default=True, help="Of [commands.profiles.NAME].")
@click.option("--timeout", metavar="DURATION", default=None, help="Instead of the profile's limits.wall.  [exit 124]")
@json_option
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD [ARGUMENT]...")
@click.pass_context
def exec_(ctx: click.Context, profile: str, timeout: str | None, json_: bool, argv: tuple[str, ...]) -> None:
    """Run CMD in the node's sandbox; its output and its exit status are passed through.

    Standard input is passed on unless it is a terminal. ^C cancels the command. With --json the result is printed when it
    is over: status, what ended it, output, times, limits, layers.
    """
    options: Options = {"profile": profile}
    if timeout is not None:
        options["timeout"] = to_seconds(ctx, ctx.command.params[1], timeout)
    with _orders(ctx.obj) as client:
        result = _whole(client, argv, options) if json_ else _passed_through(client, argv, options)
    if json_:
        say_json(result.to_dict())
    else:
        for remark in remarks(result):
            click.echo(f"otpd exec: {harmless(remark)}", err=True)
    ctx.exit(exit_code(result))


def remarks(result: Result) -> Iterator[str]:
    """What its output and its exit status do not say: how else it ended, and what of the output is missing."""
    if result.status != "exited":
        yield result.summary().removesuffix(".") + (f"; {result.hint}" if result.hint else "")
    for stream in ("stdout", "stderr"):
        if getattr(result, f"{stream}_truncated"):
            printed = size(getattr(result, f"{stream}_bytes"))
            yield f"{stream} is cut: it had {printed}, more than `limits.output`; raise it, or write to a file"


def exit_code(result: Result) -> int:
    """See the table of the module."""
    match result.status:
        case "exited":
            return result.exit_code or 0
        case "signaled":
            return 128 + (result.signal or 0)
        case "killed":
            return {"timeout": 124, "cancelled": 130}.get(result.killed_by or "", 137)
    return _CODES[result.status]


@contextmanager
def _orders(context: Context) -> Iterator[Client]:
    from otpd.agents import OtpdError

    with client_of(context, 10.0) as client:
        try:
            yield client
        except OtpdError as error:
            raise undone(error) from error


def undone(error: OtpdError) -> Failure:
    """What keeps an order from being taken, or its result from coming, is 125, unless the command line is wrong or there
    is no node: 1 is the command's own."""
    from otpd.agents import BrokerLost, Exited, Overloaded, Refused

    found = failure_of(error)
    match error:
        case Exited():
            what, hint = "the service that ran it has died, and the command was ended", "see why: otpd why commands"
        case BrokerLost():
            what, hint = "the broker has died, and the command was ended", "it comes back by itself; run it again"
        case Overloaded():
            what, hint = str(error), "see what runs: otpd commands"
        case _ if found.code in (Exit.USAGE, Exit.NOT_RUNNING):
            return found
        case Refused():
            what, hint = str(error), "see: otpd exec --help, and [commands] of otpd.toml"
        case _:
            what, hint = found.what, found.hint
    return Failure(_REFUSED, f"exec: {what}", hint)


def _whole(client: Client, argv: tuple[str, ...], options: Options) -> Result:
    given = sys.stdin.buffer.read(_WHOLE + 1) if _has_input() else b""
    if len(given) > _WHOLE:
        raise Failure(Exit.USAGE, "exec: standard input is larger than 8 MiB", "leave out --json, then it is streamed")
    options["stdin"] = given
    return client.exec(argv, **options)


def _passed_through(client: Client, argv: tuple[str, ...], options: Options) -> Result:
    options["stdin"] = _has_input() or None
    with client.exec(argv, stream=True, **options) as run:
        if options["stdin"]:
            threading.Thread(target=_feed, args=(run,), name="otpd exec stdin", daemon=True).start()
        for stream, chunk in run:
            out = sys.stdout if stream == "stdout" else sys.stderr
            out.flush()
            out.buffer.write(chunk)
            out.buffer.flush()
        return run.result()


def _has_input() -> bool:
    """Somebody gives it something, other than by typing."""
    try:
        return not sys.stdin.closed and not os.isatty(sys.stdin.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _feed(run: BlockingCommand) -> None:
    """Until its end, or the command's."""
    from otpd.agents import OtpdError

    with contextlib.suppress(OtpdError, OSError, RuntimeError):
        while chunk := os.read(sys.stdin.fileno(), _CHUNK):
            run.write(chunk)
        run.close_stdin()


# --- what runs and ran ---


@click.command("commands")
@click.option("-n", "--lines", "n", type=click.IntRange(0), default=20, show_default=True, help="The last N that ended.")
@json_option
@click.pass_obj
def commands(context: Context, n: int, json_: bool) -> None:
    """Show the commands that run or wait, and what became of the last ones."""
    from otpd.agents import NoProcess

    with client_of(context, 5.0) as client:
        try:
            found = client.call("commands", "look", last=n)
        except NoProcess:
            found = {"running": [], "last": [], "waiting": 0, "counters": {}, "workers": 0, "most": 0}
    if json_:
        say_json(found)
    elif found["running"] or found["last"]:
        say_lines(table(found, time.time()))
    else:
        say("no command has run yet; run one with: otpd exec -- CMD")


_HEAD: Final = ("ID", "CALLER", "PROFILE", "STATE", "TIME", "CPU", "MEMORY", "WHEN", "COMMAND")


def table(found: Mapping[str, Any], now: float) -> list[Line]:
    """A line for each: those that ended, oldest first, then those that run. Pure."""
    rows = [[Span(word, Style.DIM) for word in _HEAD]]
    rows += [_ended(row, now) for row in found["last"]]
    rows += [_running(row, now) for row in found["running"]]
    return columns(rows)


def _ended(row: Mapping[str, Any], now: float) -> list[Span]:
    good = row["status"] == "exited" and row["exit_code"] == 0
    use = [duration(row["wall_s"]), duration(row["cpu_s"]), size(row["max_rss"])]
    return [*_who(row), Span(outcome(row), Style.GOOD if good else Style.BAD), *map(Span, use), *_what(row, now)]


def _running(row: Mapping[str, Any], now: float) -> list[Span]:
    return [*_who(row), Span(row["state"], Style.BUSY), Span(duration(row["s"])), Span("-"), Span("-"), *_what(row, now)]


def _who(row: Mapping[str, Any]) -> list[Span]:
    return [Span(row["id"]), Span(harmless(row["caller"])), Span(harmless(row["profile"]))]


def _what(row: Mapping[str, Any], now: float) -> list[Span]:
    return [Span(ago(row["at"], now), Style.DIM), Span(harmless(row["argv"]))]


def outcome(row: Mapping[str, Any]) -> str:
    """In a word or two.

    >>> outcome({"status": "killed", "killed_by": "memory"}), outcome({"status": "exited", "exit_code": 3})
    ('killed: memory', 'exited 3')
    """
    match row["status"]:
        case "exited":
            return f"exited {row['exit_code']}"
        case "killed":
            return f"killed: {row['killed_by']}"
        case "signaled":
            return signal_name(row["signal"])
    return str(row["status"]).replace("_", " ")
