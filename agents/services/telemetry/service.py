"""Telemetry as an agent: follows root's journal, counts, publishes, exports. It decides nothing and keeps nothing.

Its numbers begin with root's life and are counted from the journal, so that a kill does not change them. Who is told
of events (the topics, OpenTelemetry) is a subscriber: one that fails is attached again after a while and hurts nobody else.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

from otpd.agents import Agent, Event, Overloaded, call, on, run
from otpd.agents.services.asking import ask
from otpd.agents.services.feed import Feed
from otpd.agents.services.journal import Cursor, Reader
from otpd.agents.services.journal import Event as Told
from otpd.agents.services.notes import note
from otpd.agents.services.telemetry import picture
from otpd.agents.services.telemetry.catalogue import divided
from otpd.agents.services.telemetry.counting import Counting
from otpd.agents.services.telemetry.http import Exporter, address
from otpd.agents.services.telemetry.metrics import Table, as_data, render
from otpd.agents.services.telemetry.spans import Span
from otpd.agents.services.telemetry.subscribers import State, Subscribers
from otpd.ipc.control import ControlError

TOPICS: Final = "topics"
OTEL: Final = "otel"
_PREFIX: Final = "otpd.emit."
#: Events between two turns of the loop.
_SLICE: Final = 200
#: Seconds until an address that could not be had is tried again; between two looks of OpenTelemetry at the numbers.
_LISTEN_AGAIN: Final = 5.0
_OBSERVE: Final = 15.0

#: Takes events and the spans that ended with them; raises when it can't.
Subscriber = Callable[[Sequence[Told], Sequence[Span]], None]


class Telemetry(Agent):
    """Says what happens in this node: on topics, as metrics, to OpenTelemetry."""

    async def init(self, state_dir: str, listen: str | None = None, otlp: str | None = None) -> None:
        self._control = os.environ["OTPD_CONTROL"]
        self._table = Table()
        self._counting = Counting(self._table)
        self._subscribers, self._tell = Subscribers(), dict[str, Subscriber]()
        self._attach(TOPICS, self._publish)
        self._tasks = [asyncio.create_task(self._follow(state_dir))]
        if listen is not None:
            self._tasks.append(asyncio.create_task(self._serve(*address(listen))))
        if otlp is not None:
            self._tasks.append(asyncio.create_task(self._begin_otel(otlp)))

    async def terminate(self, reason: str) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    @call
    async def metrics(self) -> list[dict[str, Any]]:
        """What is counted from events; `otpd metrics` adds what root knows by itself."""
        return as_data(self._families())

    @on("otpd.emit.**")
    async def emitted(self, event: Event) -> None:
        measurements = event.data.get("measurements")
        known = measurements if isinstance(measurements, dict) else {}
        self._counting.emitted(event.source, event.topic.removeprefix(_PREFIX), known, event.missed)

    @on("otpd.scheduler.ran")
    async def ran(self, event: Event) -> None:
        spans = self._counting.ran(event.data)
        for name in self._subscribers.offer(0, time.monotonic()):
            self._offer(name, (), spans)

    @on("otpd.tasks.counted")
    async def pool(self, event: Event) -> None:
        self._counting.pool(event.data)

    # --- events ---

    async def _follow(self, state_dir: str) -> None:
        reader = Reader(Cursor(self._otpd.endpoint.inc >> 32, 0))
        feed = Feed(state_dir, self._control, reader)
        begun = False  # until then it is the past, which is only counted
        async with aclosing(aiter(feed)) as following:
            async for events in following:
                begun = begun or feed.connected
                for first in range(0, len(events), _SLICE):
                    self._take(events[first : first + _SLICE], begun)
                    await asyncio.sleep(0)
                self._table.set("otpd_events_missed_total", (), reader.missed)

    def _take(self, events: Sequence[Told], tell: bool) -> None:
        spans = [span for event in events for span in self._counting.take(event)]
        if not tell:
            return
        for name in self._subscribers.offer(len(events), time.monotonic()):
            self._offer(name, events, spans)

    def _offer(self, name: str, events: Sequence[Told], spans: Sequence[Span]) -> None:
        """Whatever it raises is its own affair."""
        try:
            self._tell[name](events, spans)
        except Exception as error:
            lost, why = len(events) + getattr(error, "lost", 0), f"{type(error).__name__}: {error}"
            if self._subscribers.failed(name, why, lost, time.monotonic()):
                self.log.warning("subscriber %s: %s; attached again by itself", name, why)
                note(self, "subscriber.failed", name, why=why, failures=self._subscribers.table[name].failures)
        else:
            missed = self._subscribers.succeeded(name)
            if missed is not None:
                note(self, "subscriber.attached", name, missed=missed)

    def _attach(self, name: str, subscriber: Subscriber) -> None:
        self._tell[name] = subscriber
        self._subscribers.attach(name)

    def _publish(self, events: Sequence[Told], _spans: Sequence[Span]) -> None:
        """On the topic that is called like the event."""
        for event in events:
            if not self._otpd.endpoint.room:
                raise Overloaded("the broker takes no more for the moment")
            self._otpd.put_event(str(event["event"]), divided(event))

    # --- numbers ---

    def _families(self) -> list[Any]:
        for name, each in self._subscribers.table.items():
            self._table.set("otpd_subscriber_attached", (name,), float(each.state is State.ATTACHED))
            self._table.set("otpd_subscriber_failures_total", (name,), each.failures)
            self._table.set("otpd_subscriber_missed_total", (name,), each.missed)
        return self._table.families()

    async def _all_families(self) -> list[Any]:
        """With root's; without, when it does not answer."""
        try:
            tree = await ask(self._control, "tree")
        except (OSError, TimeoutError, ControlError):
            return self._families()
        try:
            stats = await ask(self._control, "stats")
        except (OSError, TimeoutError, ControlError):
            stats = []
        return [*picture.families(tree, stats), *self._families()]

    async def _page(self) -> str:
        return render(await self._all_families())

    # --- who reads them ---

    async def _serve(self, host: str, port: int) -> None:
        """An address that can't be had now is tried again: it must not keep the rest from working."""
        exporter, told = Exporter(self._page), False
        while True:
            try:
                await exporter.listen(host, port)
                break
            except OSError as error:
                if not told:
                    self.log.error("can't listen on %s port %d: %s; tried again", host, port, error)
                    note(self, "listen_failed", self.name, why=str(error), address=f"{host}:{port}")
                told = True
            await asyncio.sleep(_LISTEN_AGAIN)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            exporter.close()

    async def _begin_otel(self, endpoint: str) -> None:
        from otpd.agents.services.telemetry.otel import MissingExtra, Otel

        node = (await ask(self._control, "node", timeout=10.0)) or {}
        try:
            otel = Otel(endpoint, str(node.get("name")), str(node.get("version")))
        except MissingExtra as error:
            self.log.error("%s", error)
            note(self, "subscriber.failed", OTEL, why=str(error), failures=1)
            return
        self._attach(OTEL, lambda _events, spans: otel.take(spans))
        try:
            while True:
                otel.observe(await self._all_families())
                await asyncio.sleep(_OBSERVE)
        finally:
            otel.close()


if __name__ == "__main__":
    run(Telemetry)
