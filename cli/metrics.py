"""`otpd metrics`: the numbers of the node as Prometheus reads them; from root alone when the telemetry service is down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from otpd.cli.arguments import json_option
from otpd.cli.client import Client
from otpd.cli.context import Context
from otpd.cli.output import say, say_json
from otpd.ipc.control import ControlError

if TYPE_CHECKING:
    from otpd.agents.services.telemetry.metrics import Family

#: Seconds for the service to answer: who scrapes waits longer.
_TIMEOUT: Final = 3.0
_NEEDED: Final = ("broker", "telemetry")


@click.command("metrics")
@json_option
@click.pass_obj
def metrics(context: Context, json_: bool) -> None:
    """Show the metrics of the node in Prometheus' text format.

    What root knows is always there; what is counted from events comes from the service `telemetry`, while it runs.
    """
    from otpd.agents.services.telemetry import picture
    from otpd.agents.services.telemetry.metrics import as_data, render

    with context.control() as control:
        tree = control.ask("tree")
        found = picture.families(tree, _stats(control))
    counted, why = _counted(context, tree)
    if json_:
        say_json({"metrics": as_data([*found, *counted]), "without": why})
        return
    say(render([*found, *counted]).removesuffix("\n"))
    if why is not None:
        say(f"# without what is counted from events: {why}")


def _stats(control: Client) -> list[dict[str, Any]]:
    try:
        return list(control.ask("stats"))
    except ControlError as error:
        if error.code not in (3, 8):
            raise
        return []


def _counted(context: Context, tree: dict[str, Any]) -> tuple[list[Family], str | None]:
    """What the service counts, or why it can't be had."""
    from otpd.agents.client import connect
    from otpd.agents.errors import OtpdError
    from otpd.agents.services.telemetry.metrics import from_data

    states = {row["name"]: row["state"] for each in tree["tree"]["children"][:1] for row in each.get("children", ())}
    for name in _NEEDED:
        if states.get(name) != "running":
            return [], f"{name} is {states.get(name, 'not in this node')}"
    try:
        with connect(str(context.paths().control), timeout=_TIMEOUT) as node:
            return from_data(node.call("telemetry", "metrics", timeout=_TIMEOUT)), None
    except OtpdError as error:
        return [], str(error)
