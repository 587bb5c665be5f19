"""`otpd doctor`: looks at this machine, the node's files and its processes; changes nothing, needs no node and no config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import click

from otpd.cli.arguments import json_option
from otpd.cli.checkup import Finding, Level
from otpd.cli.context import Context
from otpd.cli.failures import Exit
from otpd.cli.output import Line, Span, Style, columns, harmless, say_json, say_lines

_STYLES: Final = {Level.OK: Style.GOOD, Level.WARN: Style.BUSY, Level.FAIL: Style.BAD}


@click.command("doctor")
@json_option
@click.pass_context
def doctor(ctx: click.Context, json_: bool) -> None:
    """Check what otpd needs of this machine, and the node if there is one. Exit 1 when something fails."""
    from otpd.cli import checkup

    context: Context = ctx.obj
    findings = list(checkup.examine(context))
    if json_:
        say_json([asdict(each) for each in findings])
    else:
        say_lines([*_table(findings), *_details(findings), *_advice(findings)])
    if any(each.level is Level.FAIL for each in findings):
        ctx.exit(Exit.FAILED)


def _table(findings: list[Finding]) -> list[Line]:
    return columns(
        [[Span(each.level, _STYLES[each.level]), Span(each.check), Span(harmless(each.what))] for each in findings]
    )


def _details(findings: list[Finding]) -> Iterator[Line]:
    """Tables that belong to a finding."""
    for each in findings:
        if each.details:
            yield []
            yield [Span(f"{each.check}:")]
            yield from ([Span(f"  {harmless(line)}")] for line in each.details)


def _advice(findings: list[Finding]) -> Iterator[Line]:
    wanted = [each for each in findings if each.advice]
    if wanted:
        yield []
    for each in wanted:
        yield [Span(f"{each.check}: ", _STYLES[each.level]), Span(harmless(each.advice))]
