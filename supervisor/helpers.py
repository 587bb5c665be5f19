"""root's links to its two helpers, zygote and logger: started again whenever they end, with back-off, never waited for.

Both are processes of root's own, outside the tree: the tree can't start anything without them. What must survive them is
kept here: the blanks that a zygote has made, and the read ends of the pipes that a logger reads.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from otpd.ipc.frames import channel_pair, close_all
from otpd.supervisor import cgroup, spares
from otpd.supervisor.channel import Channel
from otpd.supervisor.loop import READ, Loop, Timer

#: Seconds until a zygote that could not fork is asked again.
RETRY = 0.2
#: Seconds until a logger without free descriptors is asked again.
REOPEN = 1.0
#: Seconds between the use of a blank and the request for another.
REFILL = 0.005
#: Events that wait for a logger; of more the oldest are given up, and missed by their number.
EVENTS_KEPT = 5000
_FIRST_DELAY, _LONGEST_DELAY, _STABLE = 0.05, 5.0, 10.0


class Helper:
    """A helper process. `command(fd)` gives its argv; `on_up` is called with its fresh channel in place."""

    def __init__(
        self,
        loop: Loop,
        name: str,
        command: Callable[[int], list[str]],
        env: dict[str, str],
        on_packet: Callable[[Any, list[int]], None],
        on_up: Callable[[], None],
        on_event: Callable[[str, str], None],
        lazy: bool = False,
    ) -> None:
        self._lazy = lazy
        self._loop, self.name, self._command, self._env = loop, name, command, env
        self._on_packet, self._on_up, self._on_event = on_packet, on_up, on_event
        self._failures = 0
        self._began = 0.0
        self._pidfd = -1
        self._wanted = True
        self.pid: int | None = None
        self.channel: Channel | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a failure (EAGAIN, EMFILE) is tried again later."""
        if not self._wanted:
            return
        try:
            ours, theirs = channel_pair()
        except OSError as error:
            self._put_off(error)
            return
        try:
            self._process = subprocess.Popen(
                self._command(theirs.fileno()), stdin=subprocess.DEVNULL, env=self._env,
                pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError as error:
            ours.close()
            self._put_off(error)
            return
        finally:
            theirs.close()
        self._began, self.pid = self._loop.now, self._process.pid
        self.channel = Channel(self._loop, ours, self._on_packet, lambda: None, lazy=self._lazy)
        self.channel.on_dropped = self._dropped
        self._loop.add(self._pidfd, READ, lambda _mask: self._died())
        self._on_event("helper.started", self.name)
        self._on_up()

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        if self.channel is not None:
            self.channel.send(value, fds)

    def _dropped(self, count: int) -> None:
        self._on_event("helper.problem", f"{self.name}: {count} packets for it were dropped while it did not read")

    def retire(self) -> None:
        """No restart from now on."""
        self._wanted = False

    def close(self) -> None:
        """End it: it sees its channel close, does what is left to do, and exits."""
        self._wanted = False
        if self.channel is not None:
            self.channel.close()

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    @property
    def alive(self) -> bool:
        return self.pid is not None

    def _died(self) -> None:
        assert self._process is not None and self.channel is not None
        self._process.wait()
        self._loop.remove(self._pidfd)
        os.close(self._pidfd)
        self.channel.drain()
        self.channel.close()
        self.pid = None
        if self._wanted:
            self._on_event("helper.exited", f"{self.name}: status {self._process.returncode}")
            self._failures = 0 if self._loop.now - self._began > _STABLE else self._failures + 1
            self._again()

    def _put_off(self, error: OSError) -> None:
        self._failures += 1
        self._on_event("helper.failed", f"{self.name}: {error}")
        self._again()

    def _again(self) -> None:
        delay = 0.0 if self._failures <= 1 else min(_LONGEST_DELAY, _FIRST_DELAY * 2.0**self._failures)
        self._loop.after(delay, self.start)


@dataclass(slots=True)
class Blank:
    """A process without a job: root's own child, waiting on its channel."""

    pid: int
    pidfd: int
    channel: socket.socket
    cgroup: str | None = None  # of its own, where there are any

    def close(self) -> None:
        self.channel.close()
        os.close(self.pidfd)
        if self.cgroup is not None:
            cgroup.remove(self.cgroup)


class Zygote(Helper):
    """Keeps a few blanks ready and hands them out in order of request."""

    #: Blanks kept ready. One is enough for one crash at a time; two crashes at once are common (group restarts).
    SPARE = 2

    def __init__(
        self,
        loop: Loop,
        node_id: str,
        own_cgroup: str | None,
        env: dict[str, str],
        on_event: Callable[[str, str], None],
    ) -> None:
        def command(fd: int) -> list[str]:
            return spares.zygote_argv(fd, os.getpid(), node_id, cgroup=own_cgroup)

        env = spares.zygote_environment(env, node_id)
        super().__init__(loop, "zygote", command, env, self._packet, self._up, on_event)
        self._blanks: deque[Blank] = deque()
        self._waiting: deque[tuple[object, Callable[[Blank], None]]] = deque()
        self._coming = 0
        self._asking: Timer | None = None

    def take(self, key: object, use: Callable[[Blank], None]) -> None:
        """Call `use(blank)` now or as soon as there is one; `use` owns it."""
        self._waiting.append((key, use))
        self._match()

    def withdraw(self, key: object) -> None:
        """A request that isn't wanted any more."""
        if self._waiting:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not key)

    def died(self, pid: int) -> bool:
        """A blank was killed before it had a job; true if there was one with this pid."""
        for blank in self._blanks:
            if blank.pid == pid:
                self._blanks.remove(blank)
                blank.close()
                self._ask()
                return True
        return False

    @property
    def blanks(self) -> list[int]:
        return [blank.pid for blank in self._blanks]

    def drop_blanks(self) -> list[int]:
        """Let the blanks go: each sees its channel close and exits. Gives their pids."""
        pids = self.blanks
        for blank in self._blanks:
            blank.close()
        self._blanks.clear()
        return pids

    def _up(self) -> None:
        self._coming = 0
        self._ask()

    def _ask_later(self) -> None:
        """A fork takes a core for a millisecond; the worker that has just been given a blank needs it more."""
        if self._asking is None:
            self._asking = self._loop.after(REFILL, self._ask)

    def _packet(self, value: Any, fds: list[int]) -> None:
        match value:
            case ["blank", int(pid), *leaf] if len(fds) == 2:
                self._coming = max(0, self._coming - 1)
                self._blanks.append(Blank(pid, fds[0], socket.socket(fileno=fds[1]), str(leaf[0]) if leaf else None))
                self._match()
            case ["blank", int(), *_]:  # root had no descriptor free for it; the blank sees its channel close and ends
                close_all(fds)
                self._lost()
            case ["problem", str(text)]:
                close_all(fds)
                if text.startswith("can't fork"):
                    self._lost()
                self._on_event("helper.problem", f"zygote: {text}")
            case _:
                close_all(fds)

    def _lost(self) -> None:
        """One of those that were asked for does not come."""
        self._coming = max(0, self._coming - 1)
        self._loop.after(RETRY, self._ask)

    def _match(self) -> None:
        while self._waiting and self._blanks:
            _, use = self._waiting.popleft()
            use(self._blanks.popleft())
        if self._waiting:
            self._ask()
        else:
            self._ask_later()

    def _ask(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
        if not self._wanted or not self.alive:
            return
        missing = len(self._waiting) + self.SPARE - len(self._blanks) - self._coming
        if missing > 0:
            self._coming += missing
            self.send(["fork", missing])


class Logger(Helper):
    """Holds the read end of every incarnation's pipe until the logger has stored its last byte."""

    def __init__(
        self,
        loop: Loop,
        command: Callable[[int], list[str]],
        env: dict[str, str],
        on_tail: Callable[[str, int, list[str]], None],
        on_state: Callable[[str, dict[str, Any]], None],
        on_event: Callable[[str, str], None],
    ) -> None:
        super().__init__(loop, "logger", command, env, self._packet, self._up, on_event, lazy=True)
        self._pipes: dict[tuple[str, int], int] = {}
        self._events: deque[tuple[int, dict[str, Any]]] = deque(maxlen=EVENTS_KEPT)  # not known to be stored
        self._on_tail, self._on_state = on_tail, on_state

    def open(self, name: str, generation: int) -> int:
        """A new pipe; gives the write end, which the caller passes to the child and closes. OSError when there is none."""
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        self._pipes[name, generation] = read_end
        self._hand_over(name, generation)
        return write_end

    def _hand_over(self, name: str, generation: int) -> None:
        """Later, when root or the logger has no descriptor free for it; until then the pipe holds what is printed."""
        fd = self._pipes.get((name, generation))
        if fd is None:
            return
        try:
            self.send(["open", name, generation], (fd,))
        except OSError:
            self._loop.after(REOPEN, lambda: self._hand_over(name, generation))

    def exited(self, name: str, generation: int) -> None:
        """The main process is gone; what it printed is complete but for what others write into its pipe."""
        self.send(["exited", name, generation])

    def write_event(self, event: dict[str, Any]) -> None:
        """It outlives a logger that is killed before it has stored it."""
        number = event["seq"]
        self._events.append((number, event))
        self.send(["event", number, event])

    @property
    def pending(self) -> int:
        """Pipes whose last byte isn't stored yet."""
        return len(self._pipes)

    @property
    def behind(self) -> bool:
        """What it was told waits for it to read, or to be there again: a channel that is closed takes that along."""
        return self._wanted and (self.channel is None or self.channel.full or (bool(self._events) and not self.alive))

    def _up(self) -> None:
        for name, generation in self._pipes:
            self._hand_over(name, generation)
        for number, event in self._events:
            self.send(["event", number, event])

    def _packet(self, value: Any, fds: list[int]) -> None:
        close_all(fds)
        match value:
            case ["eof", str(name), int(generation), list(lines)]:
                fd = self._pipes.pop((name, generation), -1)
                if fd >= 0:
                    os.close(fd)
                self._on_tail(name, generation, [str(line) for line in lines])
            case ["stored", int(number)]:
                while self._events and self._events[0][0] <= number:
                    self._events.popleft()
            case ["refused", str(name), int(generation)]:
                self._loop.after(REOPEN, lambda: self._hand_over(name, generation))
            case ["tail", str(name), int(generation), list(lines)]:
                self._on_tail(name, generation, [str(line) for line in lines])
            case ["full", str(reason)]:
                self._on_state("log.full", {"reason": reason})
            case ["recovered", int(dropped)]:
                self._on_state("log.recovered", {"bytes_dropped": dropped})
