"""The zygote: an interpreter that has imported what agents need and forks *blanks* in about a millisecond.

It supervises nothing: a blank is root's own child (clone with CLONE_PARENT), and when the zygote is killed its blanks and
the workers that they became live on. One thread, always: a module that starts a thread on import is dropped.

Packets. From root: ["fork", n]. To root: ["blank", pid] or ["blank", pid, cgroup] with its pidfd and root's end of its
channel, and ["problem", text] (after a failed fork a blank is missing). Ends when the channel closes or root dies.
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
    options.add_argument("--cgroup", help="the node's own; blanks are born in leaves below it")
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
        return _serve(channel, given, cookie)


def _start_again(given: argparse.Namespace, preload: Sequence[str]) -> NoReturn:
    """exec this file anew: with room for the cookie in its environment, or without a module that can't be preloaded."""
    argv = zygote_argv(given.channel, given.root_pid, given.node, preload, given.cgroup)
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


def _serve(channel: socket.socket, given: argparse.Namespace, cookie: Cookie) -> int:
    nursery = Nursery(channel, given.root_pid, cookie, given.cgroup)
    while (packet := receive_packet(channel)) is not None:
        match packet[0]:
            case ["fork", int(n)]:
                for _ in range(n):
                    status = nursery.fork()
                    if status is not None:
                        return status
    return 0


class Nursery:
    """Forks blanks, each in a cgroup of its own where there is one."""

    def __init__(self, channel: socket.socket, root_pid: int, cookie: Cookie, cgroup: str | None) -> None:
        self._channel, self._root_pid, self._cookie, self._cgroup = channel, root_pid, cookie, cgroup
        self._born = 0

    def fork(self) -> int | None:
        """None in the zygote; in the blank, at the end of its life, its exit status."""
        with contextlib.ExitStack() as stack:
            leaf = self._leaf(stack)
            try:
                ours, theirs = channel_pair()
                stack.callback(ours.close)
                stack.callback(theirs.close)
                pid, pidfd = linux.clone_sibling(leaf[1] if leaf else None)
            except OSError as error:
                send_packet(self._channel, ["problem", f"can't fork: {error.strerror or error}"])
                return self._again(leaf[0]) if leaf else None
            if pid == 0:
                # The descriptors of the zygote are forgotten, not closed twice: `live` closes all but its own.
                stack.pop_all()
                self._channel.detach()
                ours.detach()
                return live(theirs, self._root_pid, self._cookie)
            stack.callback(os.close, pidfd)
            send_packet(self._channel, ["blank", pid, *(leaf[:1] if leaf else ())], (pidfd, ours.fileno()))
        return None

    def _leaf(self, stack: contextlib.ExitStack) -> tuple[str, int] | None:
        """A fresh cgroup and a descriptor of it."""
        if self._cgroup is None:
            return None
        self._born += 1
        path = os.path.join(self._cgroup, f"b-{os.getpid()}-{self._born}")
        try:
            os.mkdir(path)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            send_packet(self._channel, ["problem", f"can't make a cgroup: {error.strerror}"])
            self._cgroup = None
            return None
        stack.callback(os.close, fd)
        return path, fd

    def _again(self, leaf: str) -> int | None:
        """Without cgroups, in case that was what failed (seccomp may forbid clone3)."""
        os.rmdir(leaf)
        self._cgroup = None
        return self.fork()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        sys.exit(main())
