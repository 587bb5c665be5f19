"""`otpd check`: everything that is wrong with the config, and what worker scripts do that otpd does better."""

from __future__ import annotations

from typing import Any

import click

from otpd.cli.arguments import json_option
from otpd.cli.context import Context
from otpd.cli.output import say, say_json
from otpd.cli.words import count


@click.command("check")
@click.option("--show", is_flag=True, help="Print the resolved tree: what every default became.")
@json_option
@click.pass_obj
def check(context: Context, show: bool, json_: bool) -> None:
    """Validate the config (exit 2 with all errors) and look through the worker scripts (warnings). Starts nothing."""
    from otpd.supervisor import codecheck
    from otpd.supervisor import show as shown

    spec = context.load()
    findings = codecheck.check_node(spec)
    if json_:
        answer: dict[str, Any] = {"ok": True, "config": spec.config, "findings": [each.to_dict() for each in findings]}
        say_json(answer | ({"node": shown.to_dict(spec)} if show else {}))
        return
    for finding in findings:
        say(str(finding))
    for line in shown.lines(spec) if show else ():
        say(line)
    say(f"{spec.config}: valid, {count(_workers(spec.top), 'worker')}, {count(len(findings), 'warning')}")


def _workers(supervisor: Any) -> int:
    from otpd.supervisor.spec import SupervisorSpec

    starts = (each.start for each in supervisor.children)
    return sum(_workers(start) if isinstance(start, SupervisorSpec) else 1 for start in starts)
