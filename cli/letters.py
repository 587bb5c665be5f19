"""`otpd letters`: durable messages that were given up, and what waits for whom. The store answers; it must run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import click

from otpd.cli.arguments import complete_names, json_option, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.messages import client_of
from otpd.cli.output import say, say_json, say_lines
from otpd.cli.words import count

if TYPE_CHECKING:
    from otpd.agents import Client

STORE: Final = "store"
_TIMEOUT: Final = 10.0
_MOST: Final = 10_000
_target = click.option(
    "--target", metavar="NAME", default="", shell_complete=complete_names, help="Only those that were for this agent."
)
_numbers = click.argument("letters", nargs=-1, type=click.IntRange(1), metavar="[LETTER]...")
_all = click.option("--all", "all_", is_flag=True, help="All of them; with --target all of that agent.")


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    return None if value is None else to_seconds(ctx, param, value)


@click.group("letters", invoke_without_command=True)
@click.pass_context
def letters(ctx: click.Context) -> None:
    """Dead letters: durable messages that were given up. Without a subcommand: list."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@letters.command("list")
@_target
@click.option("-n", "most", type=click.IntRange(1), default=100, show_default=True, help="The last N.")
@json_option
@click.pass_obj
def list_(context: Context, target: str = "", most: int = 100, json_: bool = False) -> None:
    """Show the dead letters, the newest last."""
    with client_of(context, _TIMEOUT) as node:
        found = node.call(STORE, "letters", timeout=_TIMEOUT, target=target, limit=most)
    _show(found, json_, "letters")


@letters.command("show")
@click.argument("letter", type=click.IntRange(1))
@json_option
@click.pass_obj
def show(context: Context, letter: int, json_: bool) -> None:
    """Show one dead letter with its arguments, and why its last attempt failed."""
    from otpd.agents.data import decode

    with client_of(context, _TIMEOUT) as node:
        found = node.call(STORE, "letter", timeout=_TIMEOUT, seq=letter)
    found["arguments"] = decode(found.pop("body"))
    _show(found, json_, "letter")


@letters.command("replay")
@_numbers
@_all
@_target
@json_option
@click.pass_obj
def replay(context: Context, letters: tuple[int, ...], all_: bool, target: str, json_: bool) -> None:
    """Send dead letters again: each is a new message, with all its attempts."""
    _expect_some(letters, all_)
    with client_of(context, _TIMEOUT) as node:
        chosen = _chosen(node, letters, target)
        done = _replay(node, chosen, json_)
    if not (done or json_):
        say("there is none")


def _replay(node: Client, letters: list[int], json_: bool) -> int:
    """How many. One that is refused ends it; those before it are told nevertheless."""
    done: list[dict[str, int]] = []
    try:
        for letter in letters:
            (message,) = node.call(STORE, "replay", timeout=_TIMEOUT, seq=letter)
            done.append({"letter": letter, "message": message})
            if not json_:
                say(f"letter {letter} is message {message} now")
    finally:
        if json_:
            say_json(done)
    return len(done)


@letters.command("purge")
@_numbers
@_all
@_target
@click.option("--older", metavar="DURATION", callback=_seconds, help="Those that died longer ago than this.")
@json_option
@click.pass_obj
def purge(
    context: Context, letters: tuple[int, ...], all_: bool, target: str, older: float | None, json_: bool
) -> None:
    """Delete dead letters for good."""
    _expect_some(letters, all_ or older is not None)
    with client_of(context, _TIMEOUT) as node:
        chosen = _chosen(node, letters, target, older or 0.0)
        (purged,) = node.call(STORE, "purge", timeout=_TIMEOUT, seqs=chosen)
    if json_:
        say_json({"purged": purged})
    else:
        say(f"purged {count(purged, 'letter')}")


@letters.command("waiting")
@json_option
@click.pass_obj
def waiting(context: Context, json_: bool) -> None:
    """Show for whom durable messages wait, how many, and since when."""
    with client_of(context, _TIMEOUT) as node:
        found = node.call(STORE, "waiting", timeout=_TIMEOUT)
    _show(found, json_, "waiting")


def _expect_some(letters: tuple[int, ...], all_: bool) -> None:
    if bool(letters) == all_:
        raise Failure(Exit.USAGE, "expected numbers of letters, or --all", "see the numbers with: otpd letters")


def _chosen(node: Client, letters: tuple[int, ...], target: str, older: float = 0.0) -> list[int]:
    """Those that are named, or all of them."""
    if letters:
        return list(letters)
    found: list[dict[str, Any]] = node.call(STORE, "letters", timeout=_TIMEOUT, target=target, limit=_MOST)
    return [each["seq"] for each in found if each["died_at"] <= time.time() - older]


def _show(found: Any, json_: bool, view: str) -> None:
    from otpd.cli import letters_view

    if json_:
        say_json(found)
    else:
        say_lines(getattr(letters_view, view)(found, time.time()))
