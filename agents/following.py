"""What a client follows: deaths and topics, for threads that wait for them.

Filled on the loop of the client, emptied by its threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Final, Self

from otpd.agents.conversation import Conversation
from otpd.agents.data import UNDECODABLE, decode
from otpd.agents.errors import BadArguments, CallTimeout, OtpdError
from otpd.agents.values import Event
from otpd.ipc.happenings import Down, EventReceived, Gap
from otpd.ipc.topics import TopicError, Trie, words_of_pattern

#: Events that wait for a thread, and the bytes that they came in; the oldest are dropped and counted in `missed`.
_WAITING: Final = 1000
_WAITING_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a monitored incarnation; reason noproc and generation 0 when there was none."""

    name: str
    generation: int
    reason: str


class Monitor:
    """Of one incarnation of `name`. `death`: None while it lives."""

    def __init__(self, name: str, cancel: Callable[[], None]) -> None:
        self.name = name
        self.death: Death | None = None
        self._cancel = cancel
        self._told = threading.Event()
        self._error: OtpdError | None = None

    def wait(self, timeout: float | None = None) -> Death:
        """Until it dies. CallTimeout after `timeout` seconds: it lives."""
        if not self._told.wait(timeout):
            raise CallTimeout(f"monitor {self.name}: it lives, and did so for {timeout:g} s; wait longer", "no")
        if self._error is not None:
            raise type(self._error)(str(self._error))
        assert self.death is not None
        return self.death

    def close(self) -> None:
        """Nothing is heard of it after this."""
        self._cancel()

    def tell(self, told: Death | OtpdError) -> None:
        if isinstance(told, Death):
            self.death = told
        else:
            self._error = told
        self._told.set()


class Events:
    """`for event in client.events(pattern):`. Ends when it is closed, or nothing has come for `timeout` seconds."""

    def __init__(self, pattern: str, timeout: float | None, cancel: Callable[[], None]) -> None:
        self.pattern, self._timeout, self._cancel = pattern, timeout, cancel
        self._waiting: deque[tuple[Event, int]] = deque()  # with their bytes
        self._size = 0
        self._missed = 0
        self._changed = threading.Condition()
        self._closed = False
        self._error: OtpdError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, self._timeout)
            if self._waiting:
                return self._take()
            if self._error is not None:
                raise type(self._error)(str(self._error))
            raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No more events; those that have come can still be read."""
        self._cancel()
        self.end(None)

    def put(self, topic: str, data: Any, source: str, generation: int, size: int = 0) -> None:
        """`size`: the bytes of it, which are the bulk of what is kept."""
        with self._changed:
            self._waiting.append((Event(topic, data, source, generation, self._missed), size))
            self._size += size
            self._missed = 0
            while len(self._waiting) > _WAITING or (self._size > _WAITING_BYTES and len(self._waiting) > 1):
                dropped = self._take()
                next_one, its_size = self._waiting.popleft()
                self._waiting.appendleft((replace(next_one, missed=next_one.missed + dropped.missed + 1), its_size))
            self._changed.notify()

    def _take(self) -> Event:
        event, size = self._waiting.popleft()
        self._size -= size
        return event

    def gap(self, count: int) -> None:
        """So many were dropped before they came here."""
        with self._changed:
            self._missed += count

    def end(self, error: OtpdError | None) -> None:
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()


class Following:
    """On the loop: which death and which topic is whose."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._monitors: dict[int, Monitor] = {}
        self._events: dict[int, Events] = {}
        self._topics: Trie[int] = Trie()
        conversation.hears.update({Down: self._down, EventReceived: self._event, Gap: self._gap})
        conversation.at_end = self._ended

    def monitor(self, name: str, monitor: Monitor) -> int:
        ref = self._conversation.monitor(name, follow=False)
        self._monitors[ref] = monitor
        return ref

    def demonitor(self, ref: int) -> None:
        if self._monitors.pop(ref, None) is not None:
            self._conversation.demonitor(ref)

    async def subscribe(self, events: Events) -> int:
        """When it returns, what is published from now on is heard. BadArguments for a pattern that is none."""
        try:
            words_of_pattern(events.pattern)
        except (TopicError, AttributeError) as error:
            raise BadArguments(f"events: {error}") from None
        ref, answer = self._conversation.subscribe(events.pattern)
        self._events[ref] = events
        self._topics.add(events.pattern, ref)
        try:
            await answer
        except BaseException:
            self.unsubscribe(ref)
            raise
        return ref

    def unsubscribe(self, ref: int) -> None:
        events = self._events.pop(ref, None)
        if events is not None:
            self._topics.remove(events.pattern, ref)
            self._conversation.endpoint.unsubscribe(ref)

    def _down(self, down: Down) -> None:
        monitor = self._monitors.pop(down.ref, None)
        if monitor is not None:
            monitor.tell(Death(down.name, down.generation, down.reason))

    def _event(self, received: EventReceived) -> None:
        """Counted as handled at once: a slow thread loses its own events and holds up nobody else's."""
        self._conversation.endpoint.handled(1, len(received.body))
        try:
            data, refs = decode(received.body), self._topics.find(received.topic)
        except (*UNDECODABLE, TopicError):
            return
        for ref in refs:
            self._events[ref].put(received.topic, data, received.source, received.generation, len(received.body))

    def _gap(self, gap: Gap) -> None:
        if gap.ref in self._events:
            self._events[gap.ref].gap(gap.count)

    def _ended(self, error: OtpdError) -> None:
        for monitor in self._monitors.values():
            monitor.tell(error)
        for events in self._events.values():
            events.end(error)
