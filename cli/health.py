"""`otpd health`: what the health service knows of children and of the host, and, with --now, what it finds right now."""

from __future__ import annotations

from typing import Any

import click

from otpd.cli.arguments import complete_names, json_option, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.messages import client_of
from otpd.cli.output import say_json, say_lines

_SERVICE = "health"


@click.command("health")
@click.argument("name", required=False, shell_complete=complete_names)
@click.option("--now", is_flag=True, help="Ask the children at once instead of showing what they last said.")
@click.option(
    "--timeout", metavar="DURATION", callback=to_seconds, default="30s", show_default=True,
    help="How long to wait for the answer at most (exit 8).",
)  # fmt: skip
@json_option
@click.pass_obj
def health(context: Context, name: str | None, now: bool, timeout: float, json_: bool) -> None:
    """Show the health of all children that are watched, or of those that NAME means, and of the host.

    With a NAME, or --now, the exit code is 3 when one of them is unhealthy.
    """
    names = None if name is None else _names(context, name)
    found = _ask(context, "check" if now else "report", names, timeout)
    if name is not None and not found["children"]:
        what = f"nobody asks {name} whether it is well, and nothing limits what it uses"
        raise Failure(Exit.STATE, what, "give it one of the keys health and restart_when in the config, then: otpd reload")
    _show(found, json_)
    bad = [row["name"] for row in found["children"] if row["state"] == "unhealthy"]
    if bad and (now or name is not None):
        raise Failure(Exit.STATE, f"unhealthy: {', '.join(bad)}", f"see what it printed with: otpd logs {bad[0]}")


def _ask(context: Context, method: str, names: list[str] | None, timeout: float) -> dict[str, Any]:
    try:
        with client_of(context, timeout) as client:
            found: dict[str, Any] = client.call(_SERVICE, method, timeout=timeout, names=names)
    except Failure as error:
        if error.code != Exit.NO_CHILD:
            raise
        hint = "is it left out by the config, or stopped? look with: otpd status"
        raise Failure(Exit.STATE, "there is no health service in this node now", hint) from error
    return found


def _names(context: Context, name: str) -> list[str]:
    """Those that `name` means: a child, a supervisor, a group. Exit 4 for nobody."""
    with context.control() as control:
        return [row["name"] for row in control.status(name)]


def _show(found: dict[str, Any], json_: bool) -> None:
    if json_:
        say_json(found)
        return
    from otpd.cli.health_view import render

    say_lines(render(found))
