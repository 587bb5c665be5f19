"""The zygote: an interpreter that has imported what agents need and forks *blanks* in about a millisecond.

It supervises nothing: a blank is root's own child (clone with CLONE_PARENT), and when the zygote is killed its blanks and
the workers that they became live on. One thread, always: a module that starts a thread on import is dropped.

Packets. From root: ["fork", n]. To root: ["blank", pid] with its pidfd and root's end of its channel, and
["problem", text]. Ends when the channel closes or root dies.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from otpd.ipc.frames import channel_pair, receive_packet, send_packet
from otpd.supervisor import launch, linux
from otpd.supervisor.blank import Cookie, describe, live
from otpd.supervisor.spares import zygote_argv, zygote_environment


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(prog="otpd zygote", description=__doc__)
    options.add_argument("--channel", type=int, required=True)
    options.add_argument("--root-pid", type=int, required=True)
    options.add_argument("--node", required=True)
    options.add_argument("--preload", nargs="*", default=[])
    given = options.parse_args(argv)
    launch.bind_to(given.root_pid)
    cookie = Cookie.locate()
    if cookie is None or not sys.flags.safe_path:
        _start_again(given, given.preload)
    with socket.socket(fileno=given.channel) as channel:
        channel.set_inheritable(True)
        usable = _preload(channel, given.preload)
        if len(usable) < len(given.preload):
            _start_again(given, usable)
        channel.set_inheritable(False)
        _settle()
        return _serve(channel, given.root_pid, cookie)


def _start_again(given: argparse.Namespace, preload: Sequence[str]) -> NoReturn:
    """exec this file anew: with room for the cookie in its environment, or without a module that can't be preloaded."""
    argv = zygote_argv(given.channel, given.root_pid, given.node, preload)
    os.execve(argv[0], argv, zygote_environment(os.environ, given.node))


def _preload(channel: socket.socket, modules: Sequence[str]) -> list[str]:
    """Import them. Those that leave threads behind must go; one that can't be imported is reported and no harm."""
    usable = list(modules)
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:
            send_packet(channel, ["problem", f"can't preload {name}: {describe(error)}"])
        if _threads() > 1:
            send_packet(channel, ["problem", f"can't preload {name}: it starts threads, which forbids to fork"])
            usable.remove(name)
            break
    return usable


def _threads() -> int:
    """Of any language."""
    return max(len(os.listdir("/proc/self/task")), threading.active_count())


def _settle() -> None:
    """The heap is shared with every child from now on; collections must not touch it."""
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    launch.default_signals()
    linux.set_title("otpd: zygote")
    gc.collect()
    gc.freeze()


def _serve(channel: socket.socket, root_pid: int, cookie: Cookie) -> int:
    while (packet := receive_packet(channel)) is not None:
        match packet[0]:
            case ["fork", int(n)]:
                for _ in range(n):
                    status = _fork_blank(channel, root_pid, cookie)
                    if status is not None:
                        return status
    return 0


def _fork_blank(channel: socket.socket, root_pid: int, cookie: Cookie) -> int | None:
    """None in the zygote; in the blank, at the end of its life, its exit status."""
    try:
        ours, theirs = channel_pair()
        try:
            pid, pidfd = linux.clone_sibling()
        except OSError:
            ours.close()
            theirs.close()
            raise
    except OSError as error:
        send_packet(channel, ["problem", f"can't fork: {error.strerror or error}"])
        return None
    if pid == 0:
        # The sockets of the zygote are forgotten, not closed twice: `live` closes every descriptor but its own.
        channel.detach()
        ours.detach()
        return live(theirs, root_pid, cookie)
    theirs.close()
    try:
        send_packet(channel, ["blank", pid], (pidfd, ours.fileno()))
    finally:
        os.close(pidfd)
        ours.close()
    return None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sys.exit(main())
