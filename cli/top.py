"""`otpd top`: the table of `otpd status`, drawn again and again, with cpu and memory measured here."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from otpd.cli.arguments import to_seconds
from otpd.cli.context import Context
from otpd.cli.guardians import refuse_elsewhere
from otpd.cli.output import Line, Span, Style, say
from otpd.cli.status_view import table
from otpd.cli.tree_view import Usage
from otpd.cli.words import count, size
from otpd.ipc.control import ControlError

if TYPE_CHECKING:
    from otpd.cli.resources import Sampler

_ORDERS = ("cpu", "memory", "name", "tree")


@click.command("top")
@click.option(
    "--interval", metavar="DURATION", callback=to_seconds, default="1s", show_default=True,
    help="Time between two pictures.",
)  # fmt: skip
@click.option("--sort", type=click.Choice(_ORDERS), default="tree", show_default=True, help="Order of the rows.")
@click.option("--json", "json_", is_flag=True, help="One JSON list per line and picture, until ^C.")
@click.pass_obj
def top(context: Context, interval: float, sort: str, json_: bool) -> None:
    """Show all workers live, with cpu and memory of their process trees; q or ^C ends it."""
    from otpd.cli import live
    from otpd.cli.resources import Sampler

    refuse_elsewhere(context.paths())
    interval = max(0.1, interval)
    sampler = Sampler()
    if json_:
        _stream(context, sampler, sort, interval)
    else:
        _ask(context)
        live.watch(lambda: _frame(context, sampler, sort), interval)


def _ask(context: Context) -> list[dict[str, Any]]:
    with context.control() as control:
        return control.status()


def _frame(context: Context, sampler: Sampler, sort: str) -> list[Line]:
    try:
        rows = _ask(context)
    except ControlError as error:
        return [[Span(error.error, Style.BAD)], [Span(error.hint, Style.DIM)]]
    usage = sampler.sample(row["pid"] for row in rows if row["pid"])
    running = sum(row["state"] == "running" for row in rows)
    memory = sum(found.memory for found in usage.values())
    cpu = sum(found.cpu_percent for found in usage.values())
    head = f"{running} of {count(len(rows), 'worker')} running, cpu {cpu:.1f}%, memory {size(memory)}"
    return [[Span(head, Style.BOLD)], [], *table(_sorted(rows, usage, sort), time.time(), usage)]


def _sorted(rows: list[dict[str, Any]], usage: dict[int, Usage], sort: str) -> list[dict[str, Any]]:
    nothing = Usage(0.0, 0, 0)
    match sort:
        case "cpu":
            return sorted(rows, key=lambda row: -usage.get(row["pid"], nothing).cpu_percent)
        case "memory":
            return sorted(rows, key=lambda row: -usage.get(row["pid"], nothing).memory)
        case "name":
            return sorted(rows, key=lambda row: str(row["name"]))
    return rows


def _stream(context: Context, sampler: Sampler, sort: str, interval: float) -> None:
    import json

    while True:
        rows = _ask(context)
        usage = sampler.sample(row["pid"] for row in rows if row["pid"])
        for row in rows:
            found = usage.get(row["pid"])
            row["cpu_percent"] = round(found.cpu_percent, 1) if found else None
            row["memory"] = found.memory if found else None
        say(json.dumps(_sorted(rows, usage, sort)), now=True)
        time.sleep(interval)
