"""One command, as its caller holds it: waiting, running or over."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from otpd.agents.sandbox.plans import Order
from otpd.agents.sandbox.profile import Profile
from otpd.agents.sandbox.result import Result

#: Bytes that a run may have said and nobody has taken, before it has to wait; and how many are taken at a time.
UNREAD: Final = 256 * 1024
READ_SIZE: Final = 256 * 1024
#: For `stdin`: the caller writes to `Run.stdin`, a descriptor, and closes it.
PIPE: Final = object()


class Owner(Protocol):
    """What a run asks of its pool."""

    def wait(self, condition: Callable[[], bool], timeout: float | None) -> None: ...

    def cancel(self, run: Run, reason: str) -> None: ...

    def take(self, run: Run, most: int) -> list[tuple[str, bytes]]: ...


class Run:
    """One command: waiting, running or over. Made by `Pool.start`."""

    def __init__(self, pool: Owner, number: int, profile: Profile, order: Order, stdin: int, stream: bool) -> None:
        self._pool = pool
        self.id = f"r-{number}"
        self.number = number
        self.profile = profile
        self.order = order
        self.stdin = -1  # with PIPE: where to write
        self.their_stdin = stdin
        self.stream = stream
        self.submitted = time.monotonic()
        self.sent = 0.0
        self.started = False
        self.attempts = 0
        self.unread = 0  # bytes
        self._said: deque[tuple[str, bytes]] = deque()
        self.pieces: dict[str, list[bytes]] = {}
        self.cancelled = ""
        self.is_over_time = False
        self.outcome: Result | None = None

    def done(self) -> bool:
        return self.outcome is not None

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end. TimeoutError after `timeout` seconds; the run goes on."""
        self._pool.wait(self.done, timeout)
        assert self.outcome is not None
        return self.outcome

    def cancel(self, reason: str = "cancelled") -> None:
        """End it; its result says so. Nothing happens to one that is over. `reason`: "cancelled" or "owner"."""
        self._pool.cancel(self, reason)

    def events(self) -> Iterator[tuple[str, bytes]]:
        """("stdout" or "stderr", bytes) as they come, within the output limit; ends with the run. Needs `stream=True`.

        Who does not take them stops the command's pipe, not its clock.
        """
        while True:
            self._pool.wait(lambda: bool(self.unread) or self.done(), None)
            yield from self.take()
            if self.done() and not self.unread:
                return

    def take(self, most: int = READ_SIZE) -> list[tuple[str, bytes]]:
        """What it has said and nobody has taken yet, about `most` bytes. A command that says more than is taken waits."""
        return self._pool.take(self, most)

    def close_stdin(self) -> None:
        """The command's standard input ends."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    # --- for the pool ---

    def hear(self, stream: str, chunk: bytes) -> None:
        self._said.append((stream, chunk))
        self.unread += len(chunk)

    def give(self, most: int) -> list[tuple[str, bytes]]:
        found, size = [], 0
        while self._said and size < most:
            found.append(self._said.popleft())
            size += len(found[-1][1])
        self.unread -= size
        return found

    @property
    def is_full(self) -> bool:
        """So much is unread that it must not say more."""
        return self.unread >= UNREAD

    def give_stdin(self, stdin: bytes | object | None) -> None:
        """The end that the command reads, and with PIPE the one that the caller writes to. OSError."""
        if stdin is PIPE:
            self.their_stdin, self.stdin = os.pipe2(os.O_CLOEXEC)
        elif isinstance(stdin, bytes) and stdin:
            self.their_stdin = _sealed(stdin)

    def drop_stdin(self) -> None:
        """Ours of the end that the command reads; kept until it has it."""
        if self.their_stdin >= 0:
            os.close(self.their_stdin)
            self.their_stdin = -1


def _sealed(content: bytes) -> int:
    """A descriptor to read `content` from, which nobody can change any more."""
    writable = os.memfd_create("otpd-stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(content)
    while view:
        view = view[os.write(writable, view) :]
    fcntl.fcntl(
        writable, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(writable)
    return readable
