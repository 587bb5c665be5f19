"""heart: the guardian above root, after OTP's `heart`. Parent and subreaper of everything; does as little as possible.

It holds the node's lock, starts root, and sleeps in sigtimedwait. An ordered stop reaches it as a signal and goes on to
root as a byte; root says by a byte that its coming end is ordered. Any other end of root makes heart kill everything that
is left below it, wait until it is gone, and start root again with back-off. It never reads configuration, never serves a
socket and imports nothing but the standard library and the two modules for paths and kernel calls.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from otpd.supervisor import linux
from otpd.supervisor.paths import NodePaths, PathError, is_original, make_private, make_runtime, place_of, remove_traces

#: Bytes between heart and root.
STOP, KILL, ORDERED, GAVE_UP = b"s", b"k", b"o", b"g"
EXIT_ALREADY_RUNNING, EXIT_GAVE_UP = 9, 70
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
#: Seconds. A root that lived longer had a stable run; the next restart is at once.
_STABLE, _FIRST_DELAY, _LONGEST_DELAY = 60.0, 0.1, 10.0
#: Seconds that root gets to end by itself after KILL before heart does it.
_KILL_GRACE = 5.0


def main() -> None:
    options = argparse.ArgumentParser(prog="otpd heart")
    options.add_argument("--state-dir", required=True)
    options.add_argument("--runtime-dir", required=True)
    options.add_argument("--spec", required=True, help="the resolved node; becomes the node's own when the lock is taken")
    options.add_argument("--console", action="store_true", help="show the children's output on this terminal")
    given = options.parse_args()
    sys.exit(Heart(NodePaths(Path(given.state_dir), Path(given.runtime_dir)), Path(given.spec), given.console).run())


class Heart:
    """One life of the node, from lock to last child."""

    def __init__(self, paths: NodePaths, spec: Path, console: bool) -> None:
        self._paths, self._spec, self._with_console = paths, spec, console
        self._root: subprocess.Popen[bytes] | None = None
        self._console: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._stops = 0  # ordered stops asked for
        self._strangers = {found for pid in linux.children(os.getpid()) if (found := _identity(pid))}
        self._lock = -1

    def run(self) -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where a parent had it ignored, no end of root would be told
        linux.default_libc_signals()  # for all that is started from here
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            make_private(self._paths.state_dir)
            make_runtime(self._paths)
            if not self._take_lock():
                self._remove_draft()
                return EXIT_ALREADY_RUNNING
            os.replace(self._spec, self._paths.spec)
            self._spec = self._paths.spec
            self._write_node_id()
            _write(self._paths.runtime_record, os.fsencode(self._paths.runtime_dir))
        except (PathError, OSError) as error:
            linux.complain(f"otpd: {error}")
            self._remove_draft()
            return 1
        linux.set_child_subreaper()
        linux.set_title("otpd: heart")
        if self._with_console:
            self._start_console()
        try:
            return self._guard()
        finally:
            self._end_console()
            remove_traces(self._paths)  # a root that was killed could not

    def _remove_draft(self) -> None:
        with contextlib.suppress(OSError):
            self._spec.unlink()

    def _take_lock(self) -> bool:
        """The lock comes before anything visible; root inherits it, so that it outlives a heart that was killed."""
        self._lock = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            linux.complain(
                f"otpd: a node is already running with {self._paths.state_dir} (pid {holder}); "
                "look at it with: otpd tree, or end it with: otpd stop"
            )
            return False
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return True

    def _write_node_id(self) -> None:
        """Made once per state directory; the cookie by which a later start finds what an earlier life left."""
        path, state = self._paths.node_id, self._paths.state_dir
        with contextlib.suppress(FileNotFoundError):
            if re.fullmatch(rb"[0-9a-f]{32}\s*", path.read_bytes()) and is_original(state):
                return
        _write(path, uuid.uuid4().hex.encode() + b"\n")
        _write(self._paths.place, place_of(state).encode())

    def _guard(self) -> int:
        failures = 0
        while True:
            began = time.monotonic()
            code = self._life_of_root()
            if code is not None:
                return code
            failures = 0 if time.monotonic() - began > _STABLE else failures + 1
            if failures > 1 and self._sleep(min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (failures - 2))):
                return 1

    def _life_of_root(self) -> int | None:
        """The node's exit code, or None when there must be another root."""
        try:
            self._start_root()
        except OSError as error:
            linux.complain(f"otpd: heart: can't start root: {error.strerror}; trying again")
            return None
        status = self._wait_for_root()
        word = self._last_word()
        left_clean = self._kill_everything()
        if word == ORDERED:
            return status if left_clean and status >= 0 and self._stops < 2 else 1
        if word == GAVE_UP:
            return EXIT_GAVE_UP
        if self._stops:
            return 1
        linux.complain(f"otpd: heart: root ended ({_named(status)}); starting it again")
        return None

    def _start_root(self) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable, "-P", "-m", "otpd.supervisor.root", "--channel", str(theirs.fileno()),
            "--state-dir", str(self._paths.state_dir), "--runtime-dir", str(self._paths.runtime_dir),
            "--lock", str(self._lock), "--heart-pid", str(os.getpid()),
        ]  # fmt: skip
        try:
            self._root = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(theirs.fileno(), self._lock)
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        if self._channel is not None:
            self._channel.close()
        self._channel = ours

    def _wait_for_root(self) -> int:
        """Root's wait status as subprocess names it (-n: signal n). Passes stops on and reaps strangers meanwhile."""
        deadline = None
        while True:
            wait = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
            got = signal.sigtimedwait(_SIGNALS, wait)
            if got is None and deadline is not None:
                self._signal_root(signal.SIGKILL)
            elif got is not None and self._is_stop(got.si_signo):
                self._stops += 1
                self._tell(STOP if self._stops == 1 else KILL)
                deadline = deadline if self._stops < 2 else time.monotonic() + _KILL_GRACE
            status = self._reap()
            if status is not None:
                return status

    def _is_stop(self, number: int) -> bool:
        """A terminal that closes hangs up more than once (the kernel, then the shell): that is one stop, and no kill."""
        return number != signal.SIGCHLD and not (number == signal.SIGHUP and self._stops)

    def _reap(self) -> int | None:
        """Collect every dead child; the status of root if it is among them."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if self._root is not None and pid == self._root.pid:
                found = self._root.returncode = os.waitstatus_to_exitcode(status)
            elif self._console is not None and pid == self._console.pid:
                self._console.returncode = os.waitstatus_to_exitcode(status)
                self._console = None

    def _tell(self, word: bytes) -> None:
        assert self._channel is not None
        with contextlib.suppress(OSError):
            self._channel.send(word, socket.MSG_NOSIGNAL)

    def _last_word(self) -> bytes:
        """What root said of its end; nothing when it was killed."""
        assert self._channel is not None
        with contextlib.suppress(OSError):
            return self._channel.recv(64)[-1:]
        return b""

    def _signal_root(self, number: int) -> None:
        assert self._root is not None
        if self._root.returncode is None:
            os.kill(self._root.pid, number)

    def _kill_everything(self) -> bool:
        """SIGKILL to every child until none is left; false when something (in state D) did not go within 5 s.

        Only direct children are signalled: they can't be reaped by anybody else, so their pids are theirs. Their own
        children come to us as they die, because we are the subreaper.
        """
        deadline = time.monotonic() + 5.0
        while time.monotonic() < deadline:
            left = [pid for pid in linux.children(os.getpid()) if self._is_ours(pid)]
            if not left:
                return True
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)
            self._reap()
        return False

    def _is_ours(self, pid: int) -> bool:
        """Not what this process had for children before it became heart (a shell that exec'd `otpd start`)."""
        return (self._console is None or pid != self._console.pid) and _identity(pid) not in self._strangers

    def _sleep(self, seconds: float) -> bool:
        """True when a stop came meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            got = signal.sigtimedwait(_SIGNALS, left)
            self._reap()
            if got is not None and got.si_signo != signal.SIGCHLD:
                return True
        return False

    def _start_console(self) -> None:
        command = [
            sys.executable, "-P", "-m", "otpd.cli.console",
            "--state-dir", str(self._paths.state_dir), "--runtime-dir", str(self._paths.runtime_dir),
        ]  # fmt: skip
        self._console = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def _end_console(self) -> None:
        """It gets a moment to show the last lines, never more: a terminal under ^S must not hold the stop."""
        if self._console is None:
            return
        self._console.terminate()
        try:
            self._console.wait(2.0)
        except subprocess.TimeoutExpired:
            self._console.kill()
            self._console.wait()


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing, whenever the power goes (T28)."""
    draft = path.with_suffix(".new")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def _identity(pid: int) -> tuple[int, int] | None:
    found = linux.stat(pid)
    return None if found is None else (pid, found.started)


def _named(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"status {status}"


if __name__ == "__main__":
    main()
