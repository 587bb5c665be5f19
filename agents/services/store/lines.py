"""The order of what waits for one agent: one line per key, lines by turns, and how much may be with the agent at once.

A line sends its messages one after the other (messaging.md, E4); other lines go on meanwhile. How many may be with the agent
(`window`) begins at 1, grows with each acknowledgement, and begins anew when an incarnation dies of what it had. All that
it had is suspect from then on, and each of that is sent alone: so the message that kills is charged for every death but its
first, also when the last words about those before it die with the process.
"""

from __future__ import annotations

from collections import deque

from otpd.agents.services.store.messages import Message


class Line:
    """Those of one key. `current` has been taken out; a line with `due` in the future pauses."""

    __slots__ = ("current", "due", "is_ready", "key", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.waiting: deque[Message] = deque()
        self.current: Message | None = None
        self.due = 0
        self.is_ready = False


class Target:
    """One name. `inc`: of the incarnation that takes messages, 0: none. `flight`: what is with it, as it was dispatched."""

    __slots__ = ("count", "flight", "inc", "lines", "name", "ready", "remind_at", "window")

    def __init__(self, name: str) -> None:
        self.name = name
        self.inc = 0
        self.window = 1
        self.count = 0  # live messages
        self.flight: dict[int, Message] = {}
        self.lines: dict[str, Line] = {}
        self.ready: deque[Line] = deque()
        self.remind_at = 0

    def line(self, key: str) -> Line:
        found = self.lines.get(key)
        if found is None:
            found = self.lines[key] = Line(key)
        return found

    def join(self, message: Message) -> None:
        """At the end of its line."""
        line = self.line(message.key)
        line.waiting.append(message)
        self._ready(line)

    def give_back(self, message: Message, due: int, now: int) -> None:
        """To the front of its line, which goes on at `due`."""
        line = self.line(message.key)
        line.waiting.appendleft(message)
        line.due = max(line.due, due)
        self.free(message, now)

    def free(self, message: Message, now: int) -> None:
        """It holds its line up no longer."""
        line = self.line(message.key)
        if line.current is message:
            line.current = None
        self.flight.pop(message.seq, None)
        self.wake(line, now)

    def wake(self, line: Line, now: int) -> None:
        if line.due <= now:
            line.due = 0
        self._ready(line)
        if not line.waiting and line.current is None and self.lines.get(line.key) is line:
            del self.lines[line.key]

    def _ready(self, line: Line) -> None:
        if line.waiting and line.current is None and not line.due and not line.is_ready:
            line.is_ready = True
            self.ready.append(line)

    def next(self) -> Message | None:
        """Whose turn it is, if there is room at the agent; it is counted as with it from now on."""
        if not self.inc or not self.ready or len(self.flight) >= self.window or self._is_kept_apart():
            return None
        line = self.ready.popleft()
        line.is_ready = False
        message = line.current = line.waiting.popleft()
        self.flight[message.seq] = message
        return message

    def _is_kept_apart(self) -> bool:
        """A suspect shares the agent with nobody: a first one that is with it is the only one."""
        with_it = next(iter(self.flight.values()), None)
        return with_it is not None and (with_it.suspect or self.ready[0].waiting[0].suspect)

    def drop(self, message: Message, now: int) -> None:
        """One that waits is taken out of its line."""
        line = self.line(message.key)
        line.waiting.remove(message)
        if not line.waiting and line.is_ready:
            line.is_ready = False
            self.ready.remove(line)
        self.wake(line, now)
