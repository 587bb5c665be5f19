"""`otpd tree`: the picture of the node, as root's own table has it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from otpd.cli.context import Context
from otpd.cli.output import Line, Span, Style, coloured, say, say_json, say_lines, wants_colour, wants_unicode
from otpd.ipc.control import ControlError

if TYPE_CHECKING:
    from otpd.cli.resources import Sampler
    from otpd.cli.tree_view import Usage

#: Seconds over which cpu is measured for a single picture.
_MEASURE = 0.3


@click.command("tree")
@click.option("-w", "--watch", is_flag=True, help="Draw it again each second, until q or ^C.")
@click.option("--resources", is_flag=True, help="Add cpu and memory of each worker's process tree.")
@click.option("--json", "json_", is_flag=True, help="The tree as JSON.")
@click.pass_obj
def tree(context: Context, watch: bool, resources: bool, json_: bool) -> None:
    """Show the picture of the tree.

    Of a supervisor: state, strategy, restarts used of its budget. Of a worker: state, pid, generation, restarts,
    uptime, last exit, and the time to the next attempt.
    """
    sampler = _sampler(context) if resources else None
    if not watch:
        _show(_ask(context), sampler, json_)
    elif json_:
        _stream(context, sampler)
    else:
        from otpd.cli import live

        live.watch(lambda: _frame(context, sampler))


def _ask(context: Context) -> dict[str, Any]:
    with context.control() as control:
        found: dict[str, Any] = control.ask("tree")
    return found


def _show(answer: dict[str, Any], sampler: Sampler | None, json_: bool) -> None:
    usage = None
    if sampler is not None:
        sampler.sample(())
        time.sleep(_MEASURE)
        usage = sampler.sample(_pids(answer["tree"]))
    if json_:
        say_json(_with_usage(answer, usage))
        return
    lines = _lines(answer, usage)
    if wants_colour():
        width = shutil.get_terminal_size().columns
        say("\n".join(coloured(line, width) for line in lines))
    else:
        say_lines(lines)


def _lines(answer: dict[str, Any], usage: Mapping[int, Usage] | None) -> list[Line]:
    from otpd.cli.tree_view import render

    return render(answer, time.time(), wants_unicode(), usage)


def _frame(context: Context, sampler: Sampler | None) -> list[Line]:
    """One picture; while heart starts root again, the reason why there is none."""
    try:
        answer = _ask(context)
    except ControlError as error:
        return [[Span(error.error, Style.BAD)], [Span(error.hint, Style.DIM)]]
    usage = sampler.sample(_pids(answer["tree"])) if sampler is not None else None
    return _lines(answer, usage)


def _stream(context: Context, sampler: Sampler | None) -> None:
    """One JSON value per line and second."""
    import json

    while True:
        answer = _ask(context)
        usage = sampler.sample(_pids(answer["tree"])) if sampler is not None else None
        say(json.dumps(_with_usage(answer, usage)), now=True)
        time.sleep(1.0)


def _pids(node: Mapping[str, Any]) -> list[int]:
    own = [node["pid"]] if node.get("pid") else []
    return own + [pid for child in node.get("children", ()) for pid in _pids(child)]


def _with_usage(answer: dict[str, Any], usage: Mapping[int, Usage] | None) -> dict[str, Any]:
    """What root answered; with --resources each worker that runs has the key "resources" besides."""
    if usage is not None:
        _add_usage(answer["tree"], usage)
    return answer


def _add_usage(node: dict[str, Any], usage: Mapping[int, Usage]) -> None:
    found = usage.get(node["pid"]) if node.get("pid") else None
    if found is not None:
        node["resources"] = {
            "cpu_percent": round(found.cpu_percent, 1),
            "memory": found.memory,
            "processes": found.processes,
        }
    for child in node.get("children", ()):
        _add_usage(child, usage)


def _sampler(context: Context) -> Sampler:
    from otpd.cli.guardians import refuse_elsewhere
    from otpd.cli.resources import Sampler

    refuse_elsewhere(context.paths())
    return Sampler()
