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
#: Numbers of letters in one request.
_PAGE: Final = 1000
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
        _replay(node, chosen, json_)


def _replay(node: Client, letters: list[int], json_: bool) -> None:
    """One that is refused ends it; those before it are told nevertheless."""
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
        else:
            say(f"replayed {len(done)} of {count(len(letters), 'letter')}" if letters else "there is none")


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
        chosen = _chosen(node, letters, target, older)
        purged = sum(_purge(node, chosen[at : at + _PAGE]) for at in range(0, len(chosen), _PAGE))
    if json_:
        say_json({"purged": purged})
    else:
        say(f"purged {count(purged, 'letter')}")


def _purge(node: Client, letters: list[int]) -> int:
    (purged,) = node.call(STORE, "purge", timeout=_TIMEOUT, seqs=letters)
    return int(purged)


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


def _chosen(node: Client, letters: tuple[int, ...], target: str, older: float | None = None) -> list[int]:
    """Those that are named, or all that there are now: one that dies again when it is replayed is a new one."""
    if letters:
        return list(letters)
    until = None if older is None else time.time() - older
    chosen: list[int] = []
    while page := _page(node, target, until, chosen[-1] if chosen else 0):
        chosen += page
    return chosen


def _page(node: Client, target: str, until: float | None, after: int) -> list[int]:
    found: list[int] = node.call(
        STORE, "letter_numbers", timeout=_TIMEOUT, target=target, until=until, after=after, limit=_PAGE
    )
    return found


def _show(found: Any, json_: bool, view: str) -> None:
    from otpd.cli import letters_view

    if json_:
        say_json(found)
    else:
        say_lines(getattr(letters_view, view)(found, time.time()))
