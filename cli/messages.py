"""`otpd call`, `cast`, `publish` and `describe`: an operator speaks to agents as another agent would, through the broker.

Arguments are `name=value`; a value that is JSON is taken as that, anything else as a text: `n=3`, `sku=A17`, `tags=["a"]`,
`code='"3"'`. What an agent answers is printed as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from otpd.cli.arguments import complete_names, json_option, name_argument, to_seconds
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.output import say, say_json, say_lines

if TYPE_CHECKING:
    from otpd.agents import Client

_timeout = click.option(
    "--timeout", metavar="DURATION", callback=to_seconds, default="5s", show_default=True,
    help="How long to wait for the node's answer at most (exit 8).",
)  # fmt: skip
#: Arguments that the verbs take for themselves, and what to write.
_OPTIONS = {
    "timeout": "write: --timeout 10s",
    "confirm": "otpd cast always waits until the broker has accepted",
    "durable": "write: --durable",
}
_durable = click.option("--durable", is_flag=True, help="Done when the store has it on disk; it is delivered at least once.")
_id = click.option("--id", "id_", metavar="ID", help="With --durable: the same ID within 10 minutes is the same message.")
_key = click.option("--key", metavar="KEY", help="With --durable: those with the same KEY come one after the other.")
_method = click.argument("method")
_arguments = click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")


@click.command("call")
@name_argument
@_method
@_arguments
@_timeout
@click.option("--raw", is_flag=True, help="A text that is answered is printed as it is.")
@json_option
@click.pass_obj
def call(
    context: Context, name: str, method: str, arguments: tuple[str, ...], timeout: float, raw: bool, json_: bool
) -> None:
    """Call METHOD of the agent NAME and print what it answers."""
    given = keywords(arguments)
    with client_of(context, timeout) as client:
        answer = client.call(name, method, timeout=timeout, **given)
    if raw and not json_ and isinstance(answer, str):
        say(answer.removesuffix("\n"))
    else:
        say_json(answer)


@click.command("cast")
@name_argument
@_method
@_arguments
@_durable
@_id
@_key
@_timeout
@json_option
@click.pass_obj
def cast(
    context: Context, name: str, method: str, arguments: tuple[str, ...], durable: bool, id_: str | None, key: str | None,
    timeout: float, json_: bool,
) -> None:  # fmt: skip
    """Send METHOD to the agent NAME one way; done when the broker has accepted it, or (--durable) the store has it."""
    given = keywords(arguments) | _own(durable, id_, key, arguments)
    with client_of(context, timeout) as client:
        client.cast(name, method, confirm=not durable and timeout, durable=durable and timeout, **given)
    _accepted(json_, f"on disk for {name}" if durable else f"accepted for {name}")


@click.command("publish")
@click.argument("topic")
@_arguments
@_durable
@_id
@_key
@json_option
@click.pass_obj
def publish(
    context: Context, topic: str, arguments: tuple[str, ...], durable: bool, id_: str | None, key: str | None, json_: bool
) -> None:
    """Publish an event on TOPIC; whoever has subscribed by now gets it."""
    given = keywords(arguments) | _own(durable, id_, key, arguments)
    with client_of(context, 5.0) as client:
        client.publish(topic, durable=durable, **given)
    _accepted(json_, f"published on {topic}")


@click.command("describe")
@click.argument("name", shell_complete=complete_names)
@_timeout
@json_option
@click.pass_obj
def describe(context: Context, name: str, timeout: float, json_: bool) -> None:
    """Show what the agent NAME can be asked: its calls, casts and topics, with signatures and docs."""
    with client_of(context, timeout) as client:
        found = client.call(name, "otpd.describe", timeout=timeout)
    if json_:
        say_json(found)
        return
    from otpd.cli.describe_view import render

    say_lines(render(found))


def keywords(arguments: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` words as keyword arguments.

    >>> keywords(("sku=A", "n=3", "deep={\\"a\\": [1]}", "empty="))
    {'sku': 'A', 'n': 3, 'deep': {'a': [1]}, 'empty': ''}
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            what = f"expected an argument such as sku=A or n=3, got {argument!r}"
            raise Failure(Exit.USAGE, what, "quote values with blanks: text='a b'")
        if name in _OPTIONS:
            what = f"an agent can't take an argument named {name}: it belongs to the message"
            raise Failure(Exit.USAGE, what, _OPTIONS[name])
        if name in found:
            raise Failure(Exit.USAGE, f"the argument {name} is given twice")
        found[name] = _value(value)
    return found


def _own(durable: bool, id_: str | None, key: str | None, arguments: tuple[str, ...]) -> dict[str, Any]:
    """What a durable message has of its own."""
    own = {name: value for name, value in (("id", id_), ("key", key)) if value is not None}
    if own and not durable:
        raise Failure(Exit.USAGE, f"--{next(iter(own))} is of a durable message", "write --durable, too")
    taken = [argument for argument in arguments if durable and argument.partition("=")[0] in ("id", "key")]
    if taken:
        what = f"the argument {taken[0]} would be the message's own: a durable message has an id and a key"
        raise Failure(Exit.USAGE, what, "write --id or --key, or call the argument otherwise")
    return own


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _accepted(json_: bool, text: str) -> None:
    if json_:
        say_json({"ok": True})
    else:
        say(text)


@contextmanager
def client_of(context: Context, timeout: float) -> Iterator[Client]:
    """A client of the node; what goes wrong with a message becomes an exit code of the table."""
    from otpd.agents import OtpdError, connect

    with context.control() as root:  # says best what is wrong when there is no node
        _refuse_without_broker(root.status("broker"))
        control = str(context.paths().control)
    try:
        with connect(control, timeout) as node:
            yield node
    except OtpdError as error:
        raise failure_of(error) from error


def _refuse_without_broker(rows: list[dict[str, Any]]) -> None:
    """One that was stopped does not come back by itself: there is nothing to wait for."""
    state = next((row["state"] for row in rows if row["name"] == "broker"), "running")
    if state in ("stopped", "failed"):
        raise Failure(Exit.STATE, f"there is no broker now: it is {state}", "start it with: otpd child start broker")


def failure_of(error: Exception) -> Failure:
    """The exit code for an error of the SDK: 4 nobody has the name, 8 too late, 2 not as the agent takes it, 3 its breaker
    is open, 7 no node, else 1. What to do next is what the error says last."""
    from otpd.agents import errors

    what, _, hint = str(error).rpartition("; ")
    what, hint = (what, hint) if what else (hint, "look with: otpd top")
    match error:
        case errors.NoProcess():
            code = Exit.NO_CHILD
        case errors.CallTimeout():
            code = Exit.TIMED_OUT
        case errors.BadArguments() | errors.NoMethod():
            code = Exit.USAGE
        case errors.CircuitOpen():
            code = Exit.STATE
        case errors.NodeNotRunning():
            code = Exit.NOT_RUNNING
        case errors.Reject():
            if "otpd " not in str(error).rpartition("; ")[2]:  # the receiver's words, whatever they are
                what, hint = str(error), "nothing has crashed: correct what it names, and ask again"
            code = Exit.FAILED
        case errors.RemoteError():
            return Failure(Exit.FAILED, str(error), "see its last lines with: otpd why NAME")
        case _:
            code = Exit.FAILED
    return Failure(code, what, hint)
