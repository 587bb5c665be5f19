"""Starts a nest and asks it for slots: the outside of `template` and `nest`.

As root the nest lives on a uid that nobody has, as an ordinary user on the user's own. The worker stays outside, with the
rights of who started it: it opens what a command may see and hands over detached mounts. As an ordinary user it enters a
user namespace of its own for that.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
from typing import Any, Final, NoReturn

from otpd.agents.sandbox import bundle, kernel, nest
from otpd.agents.sandbox.cgroup import Leaf
from otpd.agents.sandbox.errors import NotInTime, SandboxUnavailable
from otpd.agents.sandbox.grants import IdMaps
from otpd.agents.sandbox.profile import Settings
from otpd.agents.sandbox.slot import Slot
from otpd.agents.sandbox.view import DIES_FIRST, YIELDS, Layout, layout

_NEST: Final = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS
_PATIENCE: Final = 20.0
LAUNCHER: Final = os.path.join(os.path.dirname(__file__), "_nest")


def enter_user_namespace() -> None:
    """For an ordinary user: the right to mount, for this process and its children, who are uid 0 in there. OSError.

    With another uid the right would end at exec.
    """
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"0 {uid} 1")
    _write("/proc/self/gid_map", f"0 {gid} 1")
    kernel.mount("none", "/", "none", kernel.MS_REC | kernel.MS_SLAVE)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


class Nest:
    """One nest and the slots that it makes. Start it once; afterwards only `close`."""

    def __init__(
        self, settings: Settings, slot_uid: int, *, launcher: str = "", leaf: Leaf | None = None, plain: bool = False
    ) -> None:
        self.settings = settings
        self.slot_uid = slot_uid  # 0: run as who we are
        self.maps = IdMaps(slot_uid) if slot_uid else None
        self.launcher = launcher if not settings.python else ""
        self.leaf = leaf
        self.plain = plain  # no namespaces and no view
        self.proc = True
        self.pid = 0
        self._control: socket.socket | None = None
        self._pidfd = -1

    def start(self) -> None:
        """SandboxUnavailable says which step this machine does not allow. NotInTime; BrokenPipeError: it was killed."""
        while True:
            try:
                return self._start()
            except _Refused as refused:
                self.close()
                why = str(refused.args[0])
                if why.startswith("proc:") and self.proc:
                    self.proc = False  # masked, as in many containers: a view without /proc is better than the outer one
                elif why.startswith("launcher:") and self.launcher:
                    self.launcher = ""  # built from other sources than these; the nest in Python always fits
                else:
                    raise SandboxUnavailable(why, layer="nest", fix=_fix(why)) from None

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        view = Layout("", base=[DIES_FIRST, YIELDS]) if self.plain else self._view()
        fds = {"control": theirs.fileno(), "launcher": self._open_launcher(), "template": memory(b"".join(view.template))}
        fds["base"] = memory(b"".join(view.base))
        try:
            setup = self._setup(fds, view.trees, view.stage)
            self._spawn([*(fd for fd in fds.values() if fd >= 0), *view.trees], setup)
        except OSError as error:
            raise _Refused(f"clone: {error.strerror}") from error
        finally:
            view.close()
            theirs.close()
            for name in ("launcher", "template", "base"):
                if fds[name] >= 0:
                    os.close(fds[name])
        self._greet()

    def _view(self) -> Layout:
        return layout(self.settings, self.maps, interpreter_paths(self.settings.python), proc=self.proc)

    def _open_launcher(self) -> int:
        return os.open(self.launcher, os.O_RDONLY | os.O_CLOEXEC) if self.launcher else -1

    def _setup(self, fds: dict[str, int], trees: list[int], stage: str) -> dict[str, Any]:
        host_network = self.settings.net == "host"
        return {
            **fds, "mode": "plain" if self.plain else "namespaces", "trees": trees, "stage": stage, "proc": self.proc,
            "slot_uid": self.slot_uid, "host_network": host_network, "python": self.settings.python, "boot": bundle.BOOT,
        }  # fmt: skip

    def _spawn(self, inherited: list[int], setup: dict[str, Any]) -> None:
        """In an interpreter that knows nothing of this one; pid 1 of a new pid namespace, unless it is plain."""
        python, packed = interpreter(), memory(bundle.pack())
        inherited = [*inherited, packed, memory(json.dumps({**setup, "bundle": packed}).encode())]
        words = boot_words(python, *inherited[-2:])
        self.pid = kernel.clone(0 if self.plain else _NEST)
        if self.pid == 0:
            _exec_nest(python, words, inherited)
        self._pidfd = os.pidfd_open(self.pid)
        if self.leaf is not None:
            self.leaf.add(self.pid)
        for fd in inherited[-2:]:
            os.close(fd)

    def _greet(self) -> None:
        """Write the maps when the nest asks for them; return when it stands."""
        said = self._hear()
        if said == "map":
            uid, gid = (self.slot_uid, self.slot_uid) if self.slot_uid else (os.geteuid(), os.getegid())
            try:
                if not self.slot_uid:
                    _write(f"/proc/{self.pid}/setgroups", "deny")
                _write(f"/proc/{self.pid}/uid_map", f"0 {uid} 1")
                _write(f"/proc/{self.pid}/gid_map", f"0 {gid} 1")
            except OSError as error:
                self._lost(f"user namespace: {error.strerror}")
            self._say(b"mapped")
            said = self._hear()
        if said != nest.GREETING.decode():
            self._lost(f"launcher: it says {said!r}, expected {nest.GREETING.decode()!r}")

    def _hear(self) -> str:
        assert self._control is not None
        if not select.select([self._control], [], [], _PATIENCE)[0]:
            raise NotInTime(
                f"a nest was not ready within {_PATIENCE:g} s", layer="nest", fix="look at the load of the machine"
            )
        text = self._control.recv(4096).decode(errors="replace")
        if not text:
            raise BrokenPipeError(errno.EPIPE, "a nest ended before it was ready")
        if text.startswith("!"):
            self._lost(text[1:])
        return text

    def _say(self, word: bytes) -> None:
        assert self._control is not None
        self._control.send(word)

    def _lost(self, why: str) -> NoReturn:
        raise _Refused(why)

    def request(self, kind: type[Slot] = Slot) -> Slot:
        """Ask for a slot, which is then made beside us. OSError: the nest is gone."""
        assert self._control is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            socket.send_fds(self._control, [b"+"], [theirs.fileno()])
        finally:
            theirs.close()
        return kind(ours)

    def fileno(self) -> int:
        """Readable when a slot that was requested is there, or about to be."""
        return self._control.fileno() if self._control is not None else -1

    def receive(self, slot: Slot) -> None:
        """Complete the slot that was requested first. SetupFailed; OSError: the nest is gone."""
        assert self._control is not None
        _, fds, _, _ = socket.recv_fds(self._control, 16, 1, socket.MSG_CMSG_CLOEXEC)
        if not fds:
            raise BrokenPipeError(errno.EPIPE, "the nest is gone")
        slot.init = fds[0]
        slot.await_ready()

    def close(self) -> None:
        """Kill it with all its slots, and wait."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._pidfd)
            self._pidfd = -1
        if self.maps is not None:
            self.maps.close()


class _Refused(Exception):
    """Args: "STEP: why"."""


def _exec_nest(python: str, words: list[str], inherited: list[int]) -> None:
    """In the child. The descriptors stay; standard output is not one of the nest's."""
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        for fd in inherited:
            os.set_inheritable(fd, True)
        os.execve(python, words, {})
    finally:
        os._exit(127)


def memory(content: bytes) -> int:
    """A descriptor of a file in memory that holds `content`. The caller closes it."""
    fd = os.memfd_create("otpd-plan", os.MFD_CLOEXEC)
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def boot_words(python: str, bundle_fd: int, setup_fd: int) -> list[str]:
    """The command line of an interpreter that runs the modules of the nest."""
    return [python, "-I", "-S", "-B", "-c", bundle.BOOT, str(bundle_fd), str(setup_fd)]


def interpreter(python: str = "") -> str:
    """A path to execute; without a name, that of the one we run on, outside of any virtual environment."""
    return python or os.path.realpath(sys._base_executable)  # type: ignore[attr-defined]


def interpreter_paths(python: str) -> list[str]:
    """What must be in sight for an interpreter to import its library: its prefix, and that of its virtual environment."""
    if not python:
        return []
    found = [os.path.dirname(os.path.dirname(os.path.realpath(python)))]
    environment = os.path.dirname(os.path.dirname(os.path.abspath(python)))
    if os.path.exists(os.path.join(environment, "pyvenv.cfg")):
        found.append(environment)
    return found


_FIXES: Final = {
    "clone": "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone), or run as root",
    "user namespace": "allow user namespaces (sysctl user.max_user_namespaces), or a security profile that does",
    "proc": "run the container with an unmasked /proc",
    "interpreter": "name one that everybody may run as `python` of the profile, such as /usr/bin/python3",
}


def _fix(why: str) -> str:
    return next((fix for step, fix in _FIXES.items() if why.startswith(step)), "otpd doctor says what this machine lacks")
