"""Arguments that several commands share: names with completion, durations, signals."""

from __future__ import annotations

import signal as signals
from typing import Any

import click

from otpd.cli.context import Context


def complete_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The names in the running node; none when it can't be asked quickly."""
    from otpd.cli.client import connect

    try:
        with connect(Context(ctx.find_root().params.get("config")).paths(), grace=0) as control:
            rows: list[dict[str, Any]] = control.ask("status", timeout=1.0)
    except Exception:  # a completion must never print anything but words
        return []
    return [row["name"] for row in rows if row["name"].startswith(incomplete)]


def to_seconds(_ctx: click.Context, _param: click.Parameter, value: str) -> float:
    """`250ms 5s 2m 1h`, as in otpd.toml."""
    from otpd.supervisor.problems import Invalid
    from otpd.supervisor.units import parse_duration

    try:
        return parse_duration(value)
    except Invalid as error:
        raise click.BadParameter(str(error)) from error


def to_signal(_ctx: click.Context, _param: click.Parameter, value: str) -> signals.Signals:
    """`TERM`, `SIGTERM`, `sigterm` or `15`."""
    text = value.upper()
    try:
        return signals.Signals(int(text)) if text.isdecimal() else signals.Signals["SIG" + text.removeprefix("SIG")]
    except (ValueError, KeyError):
        raise click.BadParameter(f"there is no signal {value!r}{_meant(text)}") from None


def _meant(text: str) -> str:
    from difflib import get_close_matches

    found = get_close_matches("SIG" + text.removeprefix("SIG"), [each.name for each in signals.Signals], 1)
    return f"; did you mean {found[0]}?" if found else "; signals are named as in: kill -l"


name_argument = click.argument("name", shell_complete=complete_names)
names_argument = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_names)
json_option = click.option("--json", "json_", is_flag=True, help="Answer in JSON.")
