"""`otpd why NAME`: the last deaths of a child, as root remembers them, and what the error store knows of it."""

from __future__ import annotations

import time

import click

from otpd.cli.arguments import json_option, name_argument
from otpd.cli.context import Context
from otpd.cli.output import say_json, say_lines


@click.command("why")
@name_argument
@json_option
@click.pass_obj
def why(context: Context, name: str, json_: bool) -> None:
    """Show why NAME is as it is: its last deaths, who asked, the restart budget, its last lines, the next attempt."""
    from otpd.cli.errors import history

    with context.control() as control:
        found = control.ask("why", name=name)
    found["errors"] = history(context, found["name"])
    if json_:
        say_json(found)
        return
    from otpd.cli.why_view import render

    say_lines(render(found, time.time()))
