"""`otpd reload`: validates the file here; root shows its difference to the running node and applies only that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from otpd.cli.arguments import json_option
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import harmless, say, say_json


@click.command("reload")
@click.option("--plan", "only_plan", is_flag=True, help="Show the difference and change nothing.")
@json_option
@click.pass_obj
def reload(context: Context, only_plan: bool, json_: bool) -> None:
    """Apply the difference between the config and the running node. A config with an error changes nothing (exit 2)."""
    from otpd.supervisor import specdata

    spec = specdata.to_data(context.load())
    with context.control() as control:
        plan = control.ask("reload", timeout=None, spec=spec, plan=only_plan)
    lines = plan.pop("lines", [])
    if json_:
        say_json(plan)
    else:
        for line in lines:
            say(harmless(line))
        if word := _last_word(plan, only_plan):
            say(word)
    if plan.get("refused"):
        raise Failure(Exit.STATE, "; ".join(plan["refused"]), "otpd stop and otpd start the node")


def _last_word(plan: Mapping[str, Any], only_plan: bool) -> str:
    if plan["empty"]:
        return ""
    if plan.get("applied"):
        return "applied"
    return "nothing was changed; apply it with: otpd reload" if only_plan else "nothing was changed"
