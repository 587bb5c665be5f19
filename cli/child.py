"""`otpd child ...` and `otpd restart`: OTP's management requests by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click

from otpd.cli.arguments import json_option, names_argument
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say, say_json

_DONE: Final = {"start": "started", "stop": "stopped", "restart": "restarted", "delete": "deleted"}


@click.group("child", invoke_without_command=True)
@click.pass_context
def child(ctx: click.Context) -> None:
    """Start, stop, restart or delete children of the running node."""
    if ctx.invoked_subcommand is None:
        raise click.UsageError("expected one of: otpd child start|stop|restart|delete NAME...", ctx)


@child.command("start")
@names_argument
@json_option
@click.pass_obj
def start(context: Context, names: Sequence[str], json_: bool) -> None:
    """Start children that are stopped (OTP's restart_child)."""
    act(context, "start", names, json_)


@child.command("stop")
@names_argument
@json_option
@click.pass_obj
def stop(context: Context, names: Sequence[str], json_: bool) -> None:
    """Stop children; they stay down until they are started (OTP's terminate_child)."""
    act(context, "stop", names, json_)


@child.command("restart")
@names_argument
@json_option
@click.pass_obj
def restart_child(context: Context, names: Sequence[str], json_: bool) -> None:
    """Stop children and start them again; it counts for no budget."""
    act(context, "restart", names, json_)


@child.command("delete")
@names_argument
@json_option
@click.pass_obj
def delete(context: Context, names: Sequence[str], json_: bool) -> None:
    """Forget children that are stopped (OTP's delete_child)."""
    act(context, "delete", names, json_)


@click.command("restart")
@names_argument
@json_option
@click.pass_obj
def restart(context: Context, names: Sequence[str], json_: bool) -> None:
    """Stop children and start them again; it counts for no budget."""
    act(context, "restart", names, json_)


def act(context: Context, action: str, names: Sequence[str], json_: bool) -> None:
    """Answered when it is done; a stop takes as long as the child's `shutdown` allows."""
    with context.control() as control:
        rows: list[dict[str, Any]] = control.ask("child", timeout=None, action=action, names=list(names))
    if json_:
        say_json(rows)
    else:
        for row in rows:
            if row["ok"]:
                say(f"{row['name']}: {_DONE[action]}")
    failed = [row for row in rows if not row["ok"]]
    if failed:
        raise Failure(
            Exit.FAILED, "; ".join(f"{row['name']}: {row.get('error', 'failed')}" for row in failed),
            f"look with: otpd why {failed[0]['name']}",
        )  # fmt: skip
