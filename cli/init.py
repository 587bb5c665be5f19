"""`otpd init`: a commented otpd.toml and a first agent, in a directory that has none."""

from __future__ import annotations

from pathlib import Path

import click

from otpd.cli.arguments import json_option
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say, say_json


@click.command("init")
@click.argument("directory", default=".", metavar="[DIR]", type=click.Path(file_okay=False))
@json_option
def init(directory: str, json_: bool) -> None:
    """Write otpd.toml and agents/hello.py into DIR (default: here). Nothing that is there is overwritten."""
    from otpd.supervisor.initnode import InitError, init_node

    try:
        written = [str(path) for path in init_node(directory)]
    except InitError as error:
        raise Failure(Exit.FAILED, str(error)) from error
    if json_:
        say_json({"written": written})
        return
    for path in written:
        say(f"wrote {path}")
    go = "" if Path(directory).samefile(".") else f"cd {directory} && "
    say(f"next: {go}otpd start")
