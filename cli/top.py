"""`otpd top`: the table of `otpd status`, live, with cpu and memory measured here, and keys to sort, restart and ask why."""

from __future__ import annotations

import time
from typing import Any

import click

from otpd.cli.arguments import to_seconds
from otpd.cli.board import ORDERS, Board, Look
from otpd.cli.context import Context
from otpd.cli.guardians import refuse_elsewhere
from otpd.cli.output import Line, Span, Style, say
from otpd.cli.resources import Sampler
from otpd.ipc.control import ControlError


@click.command("top")
@click.option(
    "--interval", metavar="DURATION", callback=to_seconds, default="1s", show_default=True,
    help="Time between two pictures.",
)  # fmt: skip
@click.option(
    "--sort", type=click.Choice(list(ORDERS.values())), default="tree", show_default=True, help="Order of the rows."
)
@click.option("--json", "json_", is_flag=True, help="One JSON list per line and picture, until ^C.")
@click.pass_obj
def top(context: Context, interval: float, sort: str, json_: bool) -> None:
    """Show all workers live, with cpu and memory of their process trees, inbox, calls and breaker.

    \b
    Keys: c m n t i s sort by cpu, memory, name, tree, inbox, calls/s; up and down choose a row, r restarts it,
    w shows why it is as it is; q or ^C ends.
    """
    from otpd.cli import live

    refuse_elsewhere(context.paths())
    view = _View(context, Board(order=sort))
    if json_:
        _stream(view, sort, max(0.1, interval))
    else:
        view.look()
        live.watch(view.frame, max(0.1, interval), view.press)


class _View:
    """Looks at the node for a Board, and does what its keys wish."""

    def __init__(self, context: Context, board: Board) -> None:
        self._context, self._board = context, board
        self._sampler = Sampler()
        self._calls: dict[str, int] = {}
        self._at = 0.0

    def look(self) -> Look:
        with self._context.control() as control:
            rows = control.status_and_messages()
        usage = self._sampler.sample(row["pid"] for row in rows if row["pid"])
        return Look(rows, usage, self._rates(rows), time.time())

    def frame(self) -> list[Line]:
        try:
            return self._why(self._board.reading) if self._board.reading else self._board.lines(self.look())
        except ControlError as error:
            return [[Span(error.error, Style.BAD)], [Span(error.hint, Style.DIM)]]

    def press(self, key: str) -> None:
        name = self._board.press(key)
        if name is not None:
            self._restart(name)

    def _restart(self, name: str) -> None:
        try:
            with self._context.control() as control:
                control.ask("child", timeout=None, action="restart", names=[name])
            self._board.said = f"{name} was restarted"
        except ControlError as error:
            self._board.said = error.error

    def _why(self, name: str) -> list[Line]:
        from otpd.cli.why_view import render

        with self._context.control() as control:
            return [*render(control.ask("why", name=name), time.time()), [], [Span("w or escape: back", Style.DIM)]]

    def _rates(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Calls per second since the last look, by name."""
        now, before = time.monotonic(), self._calls
        passed, self._at = now - self._at, now
        self._calls = {row["name"]: row["calls"] for row in rows if isinstance(row.get("calls"), int)}
        known = self._calls.keys() & before.keys()
        return {name: max(0, self._calls[name] - before[name]) / passed for name in known if passed > 0}


def _stream(view: _View, sort: str, interval: float) -> None:
    import json

    while True:
        look = view.look()
        for row in look.rows:
            found = look.usage.get(row["pid"])
            row["cpu_percent"] = round(found.cpu_percent, 1) if found else None
            row["memory"] = found.memory if found else None
            row["calls_per_s"] = round(look.rates[row["name"]], 1) if row["name"] in look.rates else None
        say(json.dumps(look.ordered(sort)), now=True)
        time.sleep(interval)
