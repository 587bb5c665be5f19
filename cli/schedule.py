"""`otpd schedule`: when what runs next, run it now, pause and resume it. Asks the scheduler service.

An id is AGENT/METHOD, or of a one-shot timer AGENT/METHOD/KEY, as the list shows it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from otpd.cli.arguments import complete_names, json_option
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say, say_json, say_lines

if TYPE_CHECKING:
    from otpd.agents import Client

_SERVICE = "scheduler"
_TIMEOUT = 5.0
_id_argument = click.argument("id_", metavar="ID")


@click.group("schedule", invoke_without_command=True)
@click.pass_context
def schedule(ctx: click.Context) -> None:
    """What runs by time: show it, run it now, pause and resume it. Without a word: list."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_, name=None, json_=False)


@schedule.command("list")
@click.argument("name", required=False, metavar="[NAME | ID]", shell_complete=complete_names)
@json_option
@click.pass_obj
def list_(context: Context, name: str | None, json_: bool) -> None:
    """All schedules and timers, or those of the agent NAME, the next one first."""
    with _service(context) as client:
        _show(_all(client, name), json_)


@schedule.command("next")
@click.argument("name", required=False, shell_complete=complete_names)
@click.option("-n", "most", type=click.IntRange(1), default=10, show_default=True, help="So many.")
@json_option
@click.pass_obj
def next_(context: Context, name: str | None, most: int, json_: bool) -> None:
    """What comes next."""
    with _service(context) as client:
        rows = client.call(_SERVICE, "schedules", _TIMEOUT, name=name)["rows"]
    _show([row for row in rows if row["next"] is not None][:most], json_)


@schedule.command("run")
@_id_argument
@json_option
@click.pass_obj
def run(context: Context, id_: str, json_: bool) -> None:
    """Run ID once, now, beside its times; none of them changes. Exit 3 when a run of it goes on already."""
    _act(context, "run_now", id_, json_, "is run now")


@schedule.command("pause")
@_id_argument
@json_option
@click.pass_obj
def pause(context: Context, id_: str, json_: bool) -> None:
    """Let the times of ID pass, counted as skipped, until it is resumed. Outlives every restart."""
    _act(context, "pause", id_, json_, "is paused")


@schedule.command("resume")
@_id_argument
@json_option
@click.pass_obj
def resume(context: Context, id_: str, json_: bool) -> None:
    """Let ID run again at its times."""
    _act(context, "resume", id_, json_, "is resumed")


def _act(context: Context, method: str, id_: str, json_: bool, done: str) -> None:
    with _service(context) as client:
        client.call(_SERVICE, method, _TIMEOUT, id=id_)
        row = next(iter(_all(client, id_)), None)  # a one-shot may be over already
    if json_:
        say_json({"ok": True, "schedule": row})
    else:
        say(f"{id_} {done}")


def _all(client: Client, name: str | None) -> list[dict[str, Any]]:
    """Page by page: there may be more than fit into a message."""
    rows: list[dict[str, Any]] = []
    while True:
        page = client.call(_SERVICE, "schedules", _TIMEOUT, name=name, begin=len(rows))
        rows += page["rows"]
        if len(rows) >= page["all"] or not page["rows"]:
            return rows


def _show(rows: list[dict[str, Any]], json_: bool) -> None:
    if json_:
        say_json(rows)
        return
    from otpd.cli.schedule_view import table

    say_lines(table(rows, time.time()))


@contextmanager
def _service(context: Context) -> Iterator[Client]:
    """What it does not do is exit 3, an id that it does not know 4."""
    from otpd.agents import NoProcess, Reject
    from otpd.cli.messages import client_of

    try:
        with client_of(context, _TIMEOUT) as client:
            yield client
    except Failure as failure:
        match failure.__cause__:
            case Reject(data={"code": "unknown"}):
                raise Failure(Exit.NO_CHILD, str(failure.__cause__), "see what there is with: otpd schedule") from None
            case Reject():
                raise Failure(Exit.STATE, str(failure.__cause__), "look with: otpd schedule list") from None
            case NoProcess():
                hint = "see: otpd status scheduler, and [services.scheduler] of otpd.toml"
                raise Failure(Exit.STATE, "this node has no scheduler", hint) from None
        raise
