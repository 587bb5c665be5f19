"""`otpd breaker NAME open|close|auto`: an operator takes the circuit breaker of an agent in hand, and gives it back."""

from __future__ import annotations

import click

from otpd.cli.arguments import json_option, name_argument
from otpd.cli.context import Context
from otpd.cli.output import say, say_json

_EFFECTS = {
    "open": "calls to it fail at once",
    "close": "calls to it go through, however many fail",
    "auto": "it opens and closes by itself",
}


@click.command("breaker")
@name_argument
@click.argument("mode", type=click.Choice(list(_EFFECTS)))
@json_option
@click.pass_obj
def breaker(context: Context, name: str, mode: str, json_: bool) -> None:
    """Force the breaker of the agent NAME open or closed, or leave it to itself again (auto)."""
    with context.control() as control:
        state = control.ask("breaker", name=name, mode=mode)
    if json_:
        say_json({"name": name, "mode": mode, "state": state})
    else:
        say(f"breaker of {name} is {state}: {_EFFECTS[mode]}")
