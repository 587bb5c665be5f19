"""`otpd state`: what agents have saved, for people: look at it, take it out, put it in, forget it, copy the whole store.

The store itself answers, so a node must run. A file that `export` writes holds the state exactly as it was saved; one with
JSON in it can be imported as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Final

import click
import msgpack

from otpd.cli.arguments import complete_names, json_option
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.messages import client_of
from otpd.cli.output import Line, Span, Style, columns, say, say_json, say_lines
from otpd.cli.words import ago, count, size

_STORE: Final = "store"
#: Seconds: a copy of a large store takes as long as reading it does.
_TIMEOUT, _LONG = 10.0, 600.0
_MARK: Final = "otpd_state"
_name = click.argument("name", shell_complete=complete_names)


@click.group("state")
def state() -> None:
    """What agents have saved with self.save(): show, export, import, drop; and a backup of the whole store."""


@state.command("show")
@click.argument("name", required=False, shell_complete=complete_names)
@json_option
@click.pass_obj
def show(context: Context, name: str | None, json_: bool) -> None:
    """Print the state of NAME as JSON; without NAME, who has one."""
    if name is not None:
        version, value = _state_of(context, name)
        say_json({"name": name, "version": version, "state": value} if json_ else value)
        return
    rows: list[dict[str, Any]] = _ask(context, "states")
    if json_:
        say_json(rows)
    else:
        say_lines(_table(rows) if rows else [[Span("nobody has saved anything")]])


@state.command("export")
@_name
@click.argument("file", default="-", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--json", "json_", is_flag=True, help="As JSON, to be read and changed by people; bytes become texts.")
@click.pass_obj
def export(context: Context, name: str, file: str, json_: bool) -> None:
    """Write the state of NAME to FILE (or stdout), exactly as it was saved."""
    version, body = _body_of(context, name)
    if json_:
        data = json.dumps(_decoded(body), indent=2, default=str).encode() + b"\n"
    else:
        data = msgpack.packb({_MARK: 1, "name": name, "version": version, "at": time.time(), "body": body})
    _write(file, data)
    if file != "-":
        say(f"state of {name}, version {version}: {file}")


@state.command("import")
@_name
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@json_option
@click.pass_obj
def import_(context: Context, name: str, file: str, json_: bool) -> None:
    """Put what FILE holds (of `export`, or JSON) in the place of the state of NAME."""
    body = _read(file)
    _changed(context, name, _ask(context, "import_state", name=name, body=body), json_, "imported")


@state.command("drop")
@_name
@json_option
@click.pass_obj
def drop(context: Context, name: str, json_: bool) -> None:
    """Forget the state of NAME, damaged or not: its next start begins anew."""
    _changed(context, name, _ask(context, "drop_state", name=name), json_, "dropped")


@state.command("backup")
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
@click.pass_obj
def backup(context: Context, file: str, json_: bool) -> None:
    """Copy the whole store, as of one commit, to FILE, which must not exist."""
    path = os.path.abspath(file)
    if os.path.lexists(path):
        raise Failure(Exit.FAILED, f"{path} is there already and is not overwritten", "name a file that does not exist")
    _ask(context, "backup", _LONG, path=path)
    if json_:
        say_json({"ok": True, "file": path, "bytes": os.path.getsize(path)})
    else:
        say(f"{path}: {size(os.path.getsize(path))}")


@state.command("accept-loss")
@json_option
@click.pass_obj
def accept_loss(context: Context, json_: bool) -> None:
    """After damage: names whose state may be lost begin anew, and damaged rows are forgotten."""
    rows = _ask(context, "accept_loss", _LONG)
    if json_:
        say_json({"ok": True, "dropped": rows})
    else:
        say(f"accepted; {count(rows, 'damaged row')} forgotten")


# --- the store ---


def _ask(context: Context, method: str, timeout: float = _TIMEOUT, **arguments: Any) -> Any:
    with client_of(context, _TIMEOUT) as node:
        return node.call(_STORE, method, timeout=timeout, **arguments)


def _body_of(context: Context, name: str) -> tuple[int, bytes]:
    version, body = _ask(context, "state_of", name=name)
    if body is None:
        raise Failure(Exit.NO_CHILD, f"{name} has no state", "see who has one with: otpd state show")
    return version, body


def _state_of(context: Context, name: str) -> tuple[int, Any]:
    version, body = _body_of(context, name)
    return version, _decoded(body)


def _decoded(body: bytes) -> Any:
    from otpd.agents.data import decode

    return decode(body)


def _changed(context: Context, name: str, version: int, json_: bool, what: str) -> None:
    """An agent that runs goes on with what it has loaded, until its next save is refused."""
    if json_:
        say_json({"ok": True, "name": name, "version": version})
        return
    say(f"state of {name} {what}, now version {version}")
    with context.control() as control:
        running = any(row["name"] == name and row["state"] == "running" for row in control.ask("status"))
    if running:
        say(f"{name} runs with what it has loaded before: otpd restart {name}")


# --- files ---


def _read(file: str) -> bytes:
    """The packed state that a file holds."""
    data = sys.stdin.buffer.read() if file == "-" else _contents(file)
    try:
        found = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        found = None
    if isinstance(found, dict) and found.get(_MARK) == 1 and isinstance(found.get("body"), bytes):
        return bytes(found["body"])
    try:
        return bytes(msgpack.packb(json.loads(data)))
    except (ValueError, OverflowError) as error:
        what = f"{file}: expected what `otpd state export` writes, or JSON: {error}"
        raise Failure(Exit.USAGE, what, "see the form with: otpd state export NAME --json") from None


def _contents(file: str) -> bytes:
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise _unusable(file, error) from None


def _write(file: str, data: bytes) -> None:
    if file == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        with open(file, "wb") as opened:
            opened.write(data)
    except OSError as error:
        raise _unusable(file, error) from None


def _unusable(file: str, error: OSError) -> Failure:
    code = Exit.PERMISSION if isinstance(error, PermissionError) else Exit.FAILED
    return Failure(code, f"{file}: {error.strerror}", "name another file")


def _table(rows: list[dict[str, Any]]) -> list[Line]:
    now = time.time()
    head = [Span(word, Style.DIM) for word in ("NAME", "VERSION", "SIZE", "SAVED", "")]
    return columns([head, *([*_cells(row, now)] for row in rows)])


def _cells(row: dict[str, Any], now: float) -> list[Span]:
    sound = Span("") if row["intact"] else Span("damaged", Style.BAD)
    saved = Span(ago(row["at"], now))
    return [Span(row["name"], Style.NAME), Span(str(row["version"])), Span(size(row["bytes"])), saved, sound]
