"""`otpd stop`: ends the node in order, says every two seconds what it waits for, and returns when nothing is left.

Root is asked first. Where root can't answer any more (it is stopped by a signal, or stuck), ^C and --now go to heart.
"""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

import click

from otpd.cli.arguments import json_option
from otpd.cli.client import connect
from otpd.cli.context import Context
from otpd.cli.failures import Exit, Failure
from otpd.cli.guardians import Guardians, asked, asked_or_found
from otpd.cli.output import harmless, say, say_json
from otpd.cli.words import duration, listed
from otpd.ipc.control import ControlError
from otpd.supervisor.paths import NodePaths

#: Seconds for which heart may be there after root's last word.
_HEART_GRACE = 15.0
#: Seconds that root gets to answer; and before heart is turned to.
_ANSWER, _ROOT_GRACE = 10.0, 5.0
#: Seconds before the first word about what is waited for; an ordinary stop is over by then.
_QUIET = 1.0


@click.command("stop")
@click.option("--now", is_flag=True, help="Kill what is left instead of waiting for it.")
@json_option
@click.pass_obj
def stop(context: Context, now: bool, json_: bool) -> None:
    """Stop the whole node in order, children in reverse start order. ^C meanwhile kills what is left."""
    paths, began = context.paths(), time.monotonic()
    with _node(paths, now) as node:
        node_id = _node_id(paths)
        try:
            if now:
                _kill(paths, node)
            else:
                _ask(paths, now=False, tell=_quiet if json_ else _tell)
        except KeyboardInterrupt:
            _tell_all("killing what is left")
            _kill(paths, node)
        _await_heart(node)
        _refuse_leftovers(node, node_id)
    seconds = time.monotonic() - began
    if json_:
        say_json({"name": node.name, "stopped": True, "left": [], "seconds": round(seconds, 3)})
    else:
        say(f"{node.name}: stopped in {duration(seconds)}, nothing is left")


def _ask(paths: NodePaths, now: bool, tell: Callable[[list[str]], None], timeout: float | None = None) -> None:
    """Return when root has had its last word or is gone; ControlError 1 with what it could not end."""
    began = time.monotonic()
    try:
        with connect(paths, grace=1.0) as control:
            for answer in control.stream("stop", timeout, now=now):
                if answer.get("waiting") and time.monotonic() - began > _QUIET:
                    tell(answer["waiting"])
    except ControlError as error:
        if error.code != Exit.NOT_RUNNING:
            raise


def _kill(paths: NodePaths, node: Guardians) -> None:
    """By root; by heart when root does not answer in time."""
    if not node.silent:
        try:
            _ask(paths, now=True, tell=_tell, timeout=_ROOT_GRACE)
            return
        except ControlError as error:
            if error.code != Exit.TIMED_OUT:
                raise
    _tell_all("root does not answer; heart kills it and all that is below")
    for _ in range(2):  # the second one means: at once
        signal.pidfd_send_signal(node.heart_fd, signal.SIGTERM)
        time.sleep(0.1)


def _node_id(paths: NodePaths) -> str | None:
    try:
        return paths.node_id.read_text(errors="replace").strip()
    except OSError:
        return None


def _refuse_leftovers(node: Guardians, node_id: str | None) -> None:
    """Whoever did the ending: "nothing is left" is said of what is seen, not of what was meant."""
    from otpd.supervisor.sweep import carriers

    left = carriers(node_id) if node_id else ()
    if left:
        names = ", ".join(f"{each.title or 'process'} (pid {each.pid})" for each in left)
        raise Failure(Exit.FAILED, f"{node.name}: could not end: {names}", "a process in state D ends with its device")


def _await_heart(node: Guardians) -> None:
    """heart ends last, when nothing is below it; where heart was killed, root does."""
    deadline = time.monotonic() + _HEART_GRACE
    if not all(_ended(fd, deadline) for fd in (node.heart_fd, node.root_fd) if fd is not None):
        raise Failure(
            Exit.FAILED,
            f"{node.name}: heart (pid {node.heart}) is still there {duration(_HEART_GRACE)} after root's last word",
            f"look at what holds it with: ps --ppid {node.heart}",
        )


def _ended(pidfd: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


@contextlib.contextmanager
def _node(paths: NodePaths, now: bool) -> Iterator[Guardians]:
    node = asked_or_found(paths, _ROOT_GRACE) if now else asked(paths, _ANSWER)
    try:
        yield node
    finally:
        node.close()


def _tell(names: list[str]) -> None:
    _tell_all(f"waiting for {harmless(listed(names))}")


def _tell_all(text: str) -> None:
    sys.stderr.write(f"otpd: {text}\n")
    sys.stderr.flush()


def _quiet(_names: list[str]) -> None:
    pass
