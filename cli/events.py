"""`otpd events`: what happened in the tree, as root remembers it; with -f as it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from otpd.cli.client import connect
from otpd.cli.context import Context
from otpd.cli.output import Line, Span, Style, coloured, harmless, plain, say, say_json, wants_colour
from otpd.ipc.control import ControlError
from otpd.supervisor.paths import NodePaths

#: All that a new root remembers: nothing is missed when heart has started root again.
_EVERYTHING = 1000
#: What an event line does not show: what it has shown already, its number, and what is too long for a line.
_KNOWN = (
    "at", "event", "name", "path", "generation", "group", "life", "seq", "lines", "traceback", "resources", "kind",
    "detached", "offender", "next_attempt",
)  # fmt: skip
_BAD = ("gave_up", "failed", "killed", "report.", "lost", "not_ended")


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on, until ^C.")
@click.option("-n", "--lines", "n", type=click.IntRange(0), default=100, show_default=True, help="The last N events.")
@click.option("--json", "json_", is_flag=True, help="A JSON list; with -f one JSON object per line.")
@click.pass_obj
def events(context: Context, follow: bool, n: int, json_: bool) -> None:
    """Show what happened in the tree: starts, exits, restarts, escalations."""
    if follow:
        for event in stream(context.paths(), n):
            say(json.dumps(event) if json_ else _text(event), now=True)
        return
    with context.control() as control:
        found = [answer["event"] for answer in control.stream("events", 10.0, follow=False, n=n) if "event" in answer]
    if json_:
        say_json(found)
    else:
        for event in found:
            say(_text(event))


def stream(paths: NodePaths, n: int) -> Iterator[dict[str, Any]]:
    """The last `n` events and then each as it happens, over restarts of root. ControlError 7 when the node has ended."""
    while True:
        try:
            with connect(paths) as control:
                for answer in control.stream("events", None, follow=True, n=n):
                    if "event" in answer:
                        yield answer["event"]
        except ControlError as error:
            if error.code != 7 or "went away" not in error.error:
                raise
        n = _EVERYTHING


def line(event: dict[str, Any]) -> Line:
    """Time, what, whom, details."""
    kind = str(event["event"]).removeprefix("otpd.")
    milliseconds = int(event["at"] * 1000) % 1000
    if kind == "child.last_lines":
        event = {**event, "last": event["lines"][-1]}
    bad = any(word in kind for word in _BAD) or (kind.endswith(".exited") and not event.get("asked"))
    shown = {key: value for key, value in event.items() if key not in _KNOWN and value not in (None, [], "")}
    details = " ".join(f"{key}={_value(value)}" for key, value in shown.items())
    return [
        Span(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['at']))}.{milliseconds:03d}", Style.DIM),
        Span(f"  {kind:<22}  ", Style.BAD if bad else Style.NAME),
        Span(harmless(event.get("path") or event.get("name") or "-")),
        Span(f"  gen {event['generation']}" if event.get("generation") else "", Style.DIM),
        Span(f"  {harmless(details)}" if details else ""),
    ]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _text(event: dict[str, Any]) -> str:
    return coloured(line(event)) if wants_colour() else plain(line(event))
