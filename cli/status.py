"""`otpd status`: all workers in a flat table, and waiting until the node or a child is ready or down."""

from __future__ import annotations

import time
from typing import Any

import click

from otpd.cli.arguments import complete_names, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit
from otpd.cli.output import say_json, say_lines
from otpd.ipc.control import ControlError


@click.command("status")
@click.argument("name", required=False, shell_complete=complete_names)
@click.option("--wait", "wanted", type=click.Choice(["ready", "down"]), help="Return when it is so.")
@click.option(
    "--timeout", metavar="DURATION", callback=to_seconds, default="60s", show_default=True,
    help="How long to wait at most (exit 8).",
)  # fmt: skip
@click.option("--json", "json_", is_flag=True, help="The table as JSON.")
@click.pass_obj
def status(context: Context, name: str | None, wanted: str | None, timeout: float, json_: bool) -> None:
    """Show all workers, or those that NAME means: a child, a supervisor, a group of instances."""
    rows = _wait(context, wanted, name, timeout) if wanted else _rows(context, name)
    if json_:
        say_json(rows)
    elif rows:
        from otpd.cli.status_view import alerts, table

        now = time.time()
        say_lines(table(rows, now) + alerts(rows, now))
    elif wanted == "down":
        click.echo("the node is down")
    else:
        click.echo("the node has no workers; add some to its config, then: otpd reload")


def _rows(context: Context, name: str | None) -> list[dict[str, Any]]:
    with context.control() as control:
        return control.status_and_messages(name)


def _wait(context: Context, wanted: str, name: str | None, timeout: float) -> list[dict[str, Any]]:
    """The table when it is so. A node that is not there, or ends meanwhile, is down: an empty table."""
    try:
        with context.control() as control:
            control.wait(wanted, timeout, name)
            return control.status_and_messages(name)
    except ControlError as error:
        if wanted != "down" or error.code != Exit.NOT_RUNNING:
            raise
    return []
