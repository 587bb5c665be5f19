"""`otpd check`: everything that is wrong with the config, and what worker scripts do that otpd does better."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from otpd.cli.arguments import json_option
from otpd.cli.context import Context
from otpd.cli.failures import Exit
from otpd.cli.output import say, say_json
from otpd.cli.words import count

if TYPE_CHECKING:
    from otpd.supervisor.codecheck import Finding
    from otpd.supervisor.spec import NodeSpec


@click.command("check")
@click.option("--show", is_flag=True, help="Print the resolved tree: what every default became.")
@json_option
@click.option("--sarif", is_flag=True, help="The findings as SARIF 2.1.0, for code hosts.")
@click.pass_context
def check(click_context: click.Context, show: bool, json_: bool, sarif: bool) -> None:
    """Validate the config (exit 2 with all errors) and look through the worker scripts (exit 1 with an error in one).

    Hints are no errors. Starts nothing, and runs no script.
    """
    from otpd.supervisor import codecheck

    if sarif and (json_ or show):
        raise click.UsageError("--sarif is an output of its own; leave --json and --show out")
    context: Context = click_context.obj
    spec = context.load()
    every = codecheck.check_node(spec)
    findings = [each for each in every if each.allowed is None]
    errors = sum(each.error for each in findings)
    if sarif:
        _say_sarif(every)
    elif json_:
        _say_json(spec, findings, show, errors)
    else:
        _say_text(spec, findings, show, errors)
    if errors:
        click_context.exit(Exit.FAILED)


def _say_sarif(findings: Sequence[Finding]) -> None:
    from importlib import metadata

    from otpd.supervisor import sarif

    say_json(sarif.log(findings, os.getcwd(), metadata.version("otpd")))


def _say_json(spec: NodeSpec, findings: Sequence[Finding], show: bool, errors: int) -> None:
    from otpd.supervisor import show as shown

    answer: dict[str, Any] = {
        "ok": not errors, "config": spec.config, "errors": errors, "findings": [each.to_dict() for each in findings],
    }  # fmt: skip
    say_json(answer | ({"node": shown.to_dict(spec)} if show else {}))


def _say_text(spec: NodeSpec, findings: Sequence[Finding], show: bool, errors: int) -> None:
    from otpd.supervisor import show as shown

    for finding in findings:
        say(str(finding))
    for line in shown.lines(spec) if show else ():
        say(line)
    hints = count(len(findings) - errors, "hint")
    say(f"{spec.config}: valid, {count(_workers(spec.top), 'worker')}, {count(errors, 'error')} and {hints} in scripts")


def _workers(supervisor: Any) -> int:
    from otpd.supervisor.spec import SupervisorSpec

    starts = (each.start for each in supervisor.children)
    return sum(_workers(start) if isinstance(start, SupervisorSpec) else 1 for start in starts)
