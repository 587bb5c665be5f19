"""`otpd tasks` and `otpd pool`: what the task pools are doing, and an operator's hand on them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from otpd.cli.arguments import json_option, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.messages import client_of
from otpd.cli.output import Line, Span, Style, columns, harmless, say, say_json, say_lines
from otpd.cli.words import count, duration

if TYPE_CHECKING:
    from otpd.agents import Client

_TIMEOUT: Final = 15.0
#: Seconds between two looks at a pool that is drained.
_LOOK: Final = 0.1
#: How the process of a pool is called in the tree.
_PREFIX: Final = "tasks-"
_COUNTS: Final = ("queued", "running", "done", "failed", "timed_out", "killed", "cancelled", "refused")


@click.command("tasks")
@click.argument("pool", required=False)
@json_option
@click.pass_obj
def tasks(context: Context, pool: str | None, json_: bool) -> None:
    """Show the task pools that run, or POOL with its tasks one by one."""
    wanted = _running(context)
    if pool is not None:
        wanted = [_named(pool, wanted)]
    with client_of(context, _TIMEOUT) as client:
        found = [client.call(f"{_PREFIX}{name}", "facts", timeout=_TIMEOUT) for name in wanted]
    if json_:
        say_json(found if pool is None else found[0])
    elif not found:
        say("no pool runs: each is started with the first task that it is given")
    else:
        say_lines(overview(found))
        if pool is not None:
            say_lines(one_by_one(found[0]))


@click.group("pool")
def pool() -> None:
    """Change a task pool that runs."""


@pool.command("resize")
@click.argument("name")
@click.argument("size", type=click.IntRange(1, 1000))
@json_option
@click.pass_obj
def resize(context: Context, name: str, size: int, json_: bool) -> None:
    """Let NAME have SIZE workers at most, until it is started anew. Workers that are too many go after their task."""
    target = f"{_PREFIX}{_named(name, _running(context))}"
    with client_of(context, _TIMEOUT) as client:
        before = client.call(target, "resize", timeout=_TIMEOUT, size=size)
    if json_:
        say_json({"pool": name, "before": before, "size": size})
    else:
        say(f"{name}: {count(size, 'worker')} at most, it was {before}")


@pool.command("drain")
@click.argument("name")
@click.option(
    "--timeout", metavar="DURATION", callback=to_seconds, default="60s", show_default=True, help="Exit 8 after it."
)  # fmt: skip
@json_option
@click.pass_obj
def drain(context: Context, name: str, timeout: float, json_: bool) -> None:
    """Let NAME finish what it has and end its workers; it takes no new tasks until then. Afterwards it begins afresh."""
    target = f"{_PREFIX}{_named(name, _running(context))}"
    with client_of(context, _TIMEOUT) as client:
        left = client.call(target, "drain", timeout=_TIMEOUT)
        _wait_until_drained(client, target, name, time.monotonic() + timeout)
    if json_:
        say_json({"pool": name, **left})
    else:
        say(f"{name}: drained, {count(left['queued'] + left['running'], 'task')} came to an end")


def _wait_until_drained(client: Client, target: str, name: str, deadline: float) -> None:
    while (facts := client.call(target, "facts", timeout=_TIMEOUT))["draining"]:
        if time.monotonic() > deadline:
            left = count(facts["queued"] + facts["running"], "task")
            raise Failure(Exit.TIMED_OUT, f"pool {name} still has {left}; it goes on draining", f"otpd tasks {name}")
        time.sleep(_LOOK)


def _running(context: Context) -> list[str]:
    with context.control() as control:
        rows = control.ask("status")
    names = [row["name"] for row in rows if row["path"].startswith(f"tasks/{_PREFIX}") and row["kind"] == "service"]
    return [str(name).removeprefix(_PREFIX) for name in names]


def _named(name: str, running: list[str]) -> str:
    if name in running:
        return name
    there = f"running: {', '.join(running)}" if running else "none runs: each is started with its first task"
    raise Failure(Exit.NO_CHILD, f"no pool '{name}' is running", there)


# --- what is shown ---


def overview(found: list[dict[str, Any]]) -> list[Line]:
    """One line for each pool."""
    head = ["POOL", "WORKERS", *(name.upper().replace("_", " ") for name in _COUNTS), "WAIT P50/P99", "RUN P50/P99"]
    return columns([[Span(word, Style.DIM) for word in head], *map(_row, found)])


def _row(facts: dict[str, Any]) -> list[Span]:
    workers = sum(facts["workers"].values())
    bad = {"failed", "timed_out", "killed", "refused"}
    counts = [Span(str(facts[each]), Style.BAD if each in bad and facts[each] else Style.PLAIN) for each in _COUNTS]
    state = " draining" if facts["draining"] else ""
    return [
        Span(harmless(facts["pool"]) + state),
        Span(f"{workers}/{facts['size']}"),
        *counts,
        Span(_times(facts["wait"]), Style.DIM),
        Span(_times(facts["run"]), Style.DIM),
    ]


def _times(spread: dict[str, Any]) -> str:
    if not spread["count"]:
        return "-"
    return f"{_short(spread['p50_s'])}/{_short(spread['p99_s'])}"


def _short(seconds: float) -> str:
    """
    >>> _short(0.0002), _short(0.05), _short(20)
    ('0.2ms', '50ms', '20s')
    """
    return f"{seconds * 1000:.3g}ms" if seconds < 1 else duration(seconds)


def one_by_one(facts: dict[str, Any]) -> list[Line]:
    """The tasks that wait and run."""
    rows = [
        [
            Span(each["state"]),
            Span(harmless(each["function"])),
            Span(harmless(f"{each['owner']} gen {each['generation']}"), Style.DIM),
            Span(each["worker"] or "-"),
            Span(f"{each['seconds']:.1f}s"),
        ]
        for each in facts["tasks"]
    ]
    return columns(rows)
