"""`otpd errors`: what died or went wrong, grouped, over every restart. From the files of the node, which needn't run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from otpd.cli import words
from otpd.cli.arguments import complete_names, json_option, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say_json, say_lines

if TYPE_CHECKING:
    from otpd.agents.services.errors.database import Database

_SHOW: Final = "show"


def _since(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    return 0.0 if value is None else time.time() - to_seconds(ctx, param, value)


def _kinds(_ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from otpd.agents.services.errors.records import KINDS

    for kind in value:
        if kind not in KINDS:
            raise click.BadParameter(f"expected one of {', '.join(KINDS)}, got {kind!r}")
    return value


@click.command("errors")
@click.argument("names", nargs=-1, metavar="[NAME]... | show ID", shell_complete=complete_names)
@click.option("--since", callback=_since, metavar="DURATION", help="Only errors of this last time, such as 90s, 10m, 2h.")
@click.option("--kind", "kinds", multiple=True, callback=_kinds, help="Only of this kind: crash, dead_letter, breaker, ...")
@click.option("-a", "--all", "all_", is_flag=True, help="Clean ends, too.")
@click.option("-n", "most", type=click.IntRange(1), default=50, show_default=True, help="The last N.")
@click.option("--each", is_flag=True, help="Each error by itself, not grouped.")
@json_option
@click.pass_obj
def errors(
    context: Context, names: tuple[str, ...], since: float, kinds: tuple[str, ...], all_: bool, most: int, each: bool,
    json_: bool,
) -> None:  # fmt: skip
    """Show what died or went wrong: all of it, or that of each NAME. `otpd errors show ID` shows one with all its details.

    Errors that are the same are one line with their count. Works while the node is down, and while its services are.
    """
    from otpd.agents.services.errors.records import KINDS
    from otpd.cli import errors_view

    with _store(context) as store:
        _tell_damaged(store.damaged())
        if names[:1] == (_SHOW,) and len(names) == 2:
            found = _one(store, names[1])
            lines = errors_view.one(found, time.time())
        else:
            chosen = KINDS if all_ and not kinds else kinds
            found = (store.records if each else store.groups)(names, since, chosen, most)
            lines = (errors_view.records if each else errors_view.groups)(found, time.time())
    if json_:
        say_json(found)
    else:
        say_lines(lines)


def _tell_damaged(count: int) -> None:
    if count:
        text = f"{words.count(count, 'damaged row')} of errors.db left out"
        click.echo(f"otpd: {text}; the service forgets them when it starts: otpd restart errors", err=True)


def _one(store: Database, which: str) -> Any:
    found = store.show(which)
    if found is None:
        raise Failure(Exit.NO_CHILD, f"there is no error {which!r}, or it is no longer kept", "see them with: otpd errors")
    return {**found, "group": store.group(found["fingerprint"])}


@contextlib.contextmanager
def _store(context: Context) -> Iterator[Database]:
    import sqlite3

    from otpd.agents.services.errors.database import FILE, Unusable
    from otpd.agents.services.errors.view import look

    state_dir = context.paths().state_dir
    try:
        with contextlib.closing(look(str(state_dir))) as store:
            yield store
    except (Unusable, sqlite3.Error) as error:
        why = str(error) if isinstance(error, Unusable) else f"it can't be read: {error}"
        hint = f"a service that starts sets it aside: otpd restart errors; or by hand: mv {state_dir / FILE} /tmp"
        raise Failure(Exit.FAILED, f"{state_dir / FILE}: {why}", hint) from error


def history(context: Context, name: str) -> list[dict[str, Any]]:
    """The groups of errors of `name`, for `otpd why`; none when they can't be read."""
    try:
        with _store(context) as store:
            return store.groups([name], most=10)
    except (Failure, OSError):
        return []
