"""Telemetry without a process: what is counted, how it reads, who is told, and that the reference says all of it."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from otpd.agents.services.telemetry import picture
from otpd.agents.services.telemetry.catalogue import EVENTS, PUBLISHED, divided, told
from otpd.agents.services.telemetry.counting import Counting
from otpd.agents.services.telemetry.http import Exporter
from otpd.agents.services.telemetry.metrics import BUCKETS, LEFT_OUT, METRICS, Family, Table, as_data, from_data, render
from otpd.agents.services.telemetry.otel import MissingExtra, NotExported, Otel
from otpd.agents.services.telemetry.reference import replaced
from otpd.agents.services.telemetry.spans import SPANS, Span, Spans
from otpd.agents.services.telemetry.subscribers import LONGEST_WAIT, State, Subscribers
from otpd.agents.tasks.counters import Counters
from otpd.supervisor import listening, sections
from otpd.supervisor.notices import NOTICES
from otpd.supervisor.problems import Invalid
from otpd.supervisor.root import _EVENTS as NAMED
from tests.helpers import eventually

ROOMS = Path(__file__).parents[2]


def event(what: str, at: float, path: str = "feed", **data: Any) -> dict[str, Any]:
    return {"at": at, "event": f"otpd.{what}", "name": path.rpartition("/")[2], "path": path, "generation": 1, **data}


def value(table: Table, name: str, *labels: str) -> Any:
    return {family.name: dict(family.series) for family in table.families()}.get(name, {}).get(labels)


# --- the reference ---

#: Calls of these say the name of an event, or pass it on.
_SAYS = ("event", "_event", "_on_event", "_on_helper", "_on_state", "_note", "note", "tell", "_tell", "Tell", "send")
_NAME = re.compile(r"[a-z_]+(\.[a-z_]+)*")
SCHEDULER = {f"scheduler.{word}" for word in ("skipped", "lost", "overrun", "ended", "gone")}
#: Events whose name is not a constant where it is told: the file, words of the place in it, and what it may say.
_ELSEWHERE = (
    ("supervisor/endings.py", '"child.detached" if detached else "child.stuck"', {"child.stuck", "child.detached"}),
    ("supervisor/logevents.py", '"otpd.log.events_lost"', {"log.events_lost"}),
    ("ipc/calls.py", "breaker.", {"broker.breaker.opened", "broker.breaker.half_open", "broker.breaker.closed"}),
    ("ipc/delivery.py", "inbox.", {"broker.inbox.high", "broker.inbox.low"}),
    ("supervisor/healthlink.py", 'f"health.{state}"', {"health.healthy", "health.unhealthy"}),
    ("supervisor/healthlink.py", "f\"alert.{'raised' if raised else 'cleared'}\"", {"alert.raised", "alert.cleared"}),
    ("agents/services/store/errands.py", '"letter.dead"', {"store.letter.dead", "store.letter.dropped"}),
    ("agents/services/scheduler/telling.py", "_NOTED: Final = (", SCHEDULER),
    ("agents/tasks/dispatch.py", "self._note(",
     {f"tasks.{kind}" for kind in ("failed", "timeout", "killed", "spawned", "spawn_refused", "unguarded")}),
)


def constants(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=body, orelse=orelse):
            yield from constants(body)
            yield from constants(orelse)
        case ast.List(elts=[ast.Constant(value="event"), kind, *_]):
            yield from constants(kind)


def said_in(path: Path) -> Iterator[str]:
    """The names in the calls of a file that tell of an event, as the journal has them."""
    place = path.relative_to(ROOMS)
    service = place.parts[2] if place.parts[:2] == ("agents", "services") and len(place.parts) > 3 else ""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in _SAYS:
            continue
        arguments = node.args[1:2] if name == "note" else node.args[:3]
        for text in (text for argument in arguments for text in constants(argument)):
            if place.parts[0] == "supervisor" and "." in text and _NAME.fullmatch(text):
                yield text
            elif service and name == "note" and _NAME.fullmatch(text):
                yield f"{service}.{text}"
            elif place.parts[0] == "ipc" and name in ("tell", "send") and text != "event":
                yield f"broker.{text}"


def all_said() -> set[str]:
    files = [path for room in ("supervisor", "agents/services") for path in (ROOMS / room).rglob("*.py")]
    found = {text for path in files for text in said_in(path)}
    told_to_root = (text for path in (ROOMS / "ipc").glob("*.py") for text in said_in(path))
    of_broker = {"broker.unsent", "broker.dead_letters", "broker.strike", "broker.key_lost"}
    found |= of_broker & set(told_to_root)
    for place, words, names in _ELSEWHERE:
        assert words in (ROOMS / place).read_text(), place
        found |= names
    return found | set(NAMED.values())


def test_the_catalogue_has_every_event_that_the_code_tells_and_no_other() -> None:
    """Whoever adds an event adds a line to catalogue.EVENTS, and writes docs/telemetry.md anew."""
    assert set(EVENTS) == all_said()


def test_the_catalogue_has_all_that_a_notice_of_the_tree_says() -> None:
    for kind, (_, data) in NOTICES.items():
        known = EVENTS[NAMED[kind]]
        assert set(known.measurements) | set(known.metadata) >= data.keys(), kind


def test_the_reference_in_the_docs_is_that_of_the_code() -> None:
    page = (ROOMS / "docs" / "telemetry.md").read_text()
    assert page == replaced(page), "write it anew: python -m otpd.agents.services.telemetry.reference docs/telemetry.md"
    assert all(f"`otpd.{span}`" in page for span in SPANS)


def test_every_metric_that_the_code_counts_is_in_the_catalogue_and_every_other_way_round() -> None:
    files = (ROOMS / "agents/services/telemetry").glob("*.py")
    used = [re.findall(r"\.(?:add|set|observe|put)\(\s*\"(otpd_\w+)\"", path.read_text()) for path in files]
    assert {name for names in used for name in names} | {LEFT_OUT} == set(METRICS)


def test_an_event_is_published_in_measurements_and_metadata() -> None:
    assert divided(event("child.exited", 1.5, "s/feed", uptime=2.5, reason="killed", asked=False, life=1, seq=9)) == {
        "at": 1.5, "name": "feed", "path": "s/feed", "generation": 1, "measurements": {"uptime": 2.5},
        "metadata": {"reason": "killed", "asked": False},
    }  # fmt: skip
    assert told("otpd.nobody.knows") is None


# --- numbers ---


def test_what_is_rendered_is_read_by_prometheus_as_it_was_meant() -> None:
    table = Table()
    nasty = 'a\\b"c\nd'
    table.set("otpd_child_running", (nasty, "agent"), 1.0)
    table.add("otpd_events_total", ("otpd.child.started",), 3)
    for seconds in (0.004, 0.3, 1e6):
        table.observe("otpd_span_seconds", ("child.run",), seconds)
    found = {family.name: family for family in text_string_to_metric_families(render(table.families()))}
    running, events, spans = (found[name] for name in ("otpd_child_running", "otpd_events", "otpd_span_seconds"))
    assert (running.type, events.type, spans.type) == ("gauge", "counter", "histogram")
    assert [(each.labels, each.value) for each in running.samples] == [({"name": nasty, "kind": "agent"}, 1.0)]
    assert [each.value for each in events.samples] == [3.0]
    buckets = {each.labels["le"]: each.value for each in spans.samples if each.name.endswith("_bucket")}
    assert [buckets[edge] for edge in ("0.005", "0.5", "86400", "+Inf")] == [1, 2, 2, 3]
    assert len(buckets) == len(BUCKETS) + 1
    assert {each.name: each.value for each in spans.samples if "le" not in each.labels} == {
        "otpd_span_seconds_count": 3.0, "otpd_span_seconds_sum": 1000000.304,
    }  # fmt: skip
    assert from_data(as_data(table.families())) == table.families()


def test_labels_are_bounded_and_what_is_left_out_is_counted() -> None:
    table = Table(limit=3)
    for number in range(10):
        table.add("otpd_emits_total", (f"agent-{number}", "x" * 1000))
        table.add("otpd_emits_total", ("agent-0", "x" * 1000))
    (emits, left_out) = table.families()
    assert [(labels[0], len(labels[1]), count) for labels, count in emits.series] == [
        ("agent-0", 200, 11.0), ("agent-1", 200, 1.0), ("agent-2", 200, 1.0),
    ]  # fmt: skip
    assert left_out == Family(LEFT_OUT, ((("otpd_emits_total",), 7.0),))
    with pytest.raises(ValueError, match="expected the labels"):
        table.add("otpd_emits_total", ("one",))


def test_deaths_are_counted_by_class_and_unknown_events_as_other() -> None:
    counting = Counting(Table())
    for reason in ("error(ValueError: x)", "error(3)", "killed", "not ready within 10 s"):
        used = {"cpu_user_s": 0.5, "cpu_system_s": 0.25}
        counting.take(event("child.death", 1.0, reason=reason, kind="agent", resources=used))
    counting.take(event("some.news", 1.0))
    counting.take(event("broker.dead_letters", 1.0, noproc=3, expired=1, seq=77))
    deaths = {labels[2]: count for family in counting.table.families() if family.name == "otpd_child_deaths_total"
              for labels, count in family.series}  # fmt: skip
    assert deaths == {"error": 2.0, "killed": 1.0, "other": 1.0}
    assert value(counting.table, "otpd_child_cpu_seconds_total", "feed", "user") == 2.0
    assert value(counting.table, "otpd_events_total", "other") == 1.0
    assert value(counting.table, "otpd_dead_letters_total", "broker", "noproc") == 3.0


def test_measurements_of_agents_are_numbers_with_their_names() -> None:
    counting = Counting(Table())
    counting.emitted("shop", "shipped", {"parcels": 3, "late": True, "to": "Rome", "weight": 1.5})
    counting.emitted("shop", "shipped", {"parcels": 4, "weight": float("nan")}, missed=2)
    assert value(counting.table, "otpd_emits_missed_total") == 2.0
    assert value(counting.table, "otpd_emits_total", "shop", "shipped") == 2.0
    assert value(counting.table, "otpd_emit_value", "shop", "shipped", "parcels") == 4.0
    assert value(counting.table, "otpd_emit_sum", "shop", "shipped", "parcels") == 7.0
    assert value(counting.table, "otpd_emit_sum", "shop", "shipped", "weight") == 1.5
    assert value(counting.table, "otpd_emit_value", "shop", "shipped", "late") is None


def test_the_picture_gives_numbers_without_any_service() -> None:
    row = {"type": "worker", "kind": "agent", "restarts": 2, "path": "x"}
    worker = {**row, "name": "a", "state": "running", "uptime_s": 5.0}
    down = {**row, "name": "b", "state": "backoff", "uptime_s": None, "health": {"state": "unhealthy"}}
    sup = {"type": "supervisor", "name": "s", "path": "s", "restarts_in_window": 1, "max_restarts": 3, "children": [worker]}
    top = {**sup, "name": "shop", "path": "", "restarts_in_window": 0, "max_restarts": None, "children": [sup, down]}
    tree = {"node": {"name": "shop", "version": "1", "uptime_s": 9.0, "alerts": [{"condition": "disk"}]}, "tree": top}
    stats = [
        {"name": "a", "kind": "agent", "inbox": 7, "breaker": "half_open", "replied": 5, "failed": 1, "rejected": 2},
        {"name": "@1.1", "kind": "client", "inbox": 0},
    ]
    found = {family.name: dict(family.series) for family in picture.families(tree, stats)}
    assert found["otpd_children"] == {("agent", "running"): 1.0, ("agent", "backoff"): 1.0}
    assert found["otpd_child_running"] == {("a", "agent"): 1.0, ("b", "agent"): 0.0}
    assert found["otpd_child_healthy"] == {("b",): 0.0}
    assert found["otpd_supervisor_max_restarts"] == {("s",): 3}
    assert found["otpd_supervisor_restarts_in_window"] == {("s",): 1, ("shop",): 0}
    assert (found["otpd_inbox_messages"], found["otpd_breaker_open"]) == ({("a",): 7}, {("a",): 0.5})
    assert found["otpd_casts_total"][("a", "rejected")] == 2
    assert found["otpd_alert"] == {("disk",): 1.0}


# --- spans ---


def test_a_life_is_a_span_and_so_is_the_way_back_after_a_crash() -> None:
    spans = Spans()
    told = [
        event("child.started", 10.0), event("child.death", 12.0, reason="killed"),
        event("child.death", 12.5, reason="not ready"), event("child.started", 13.0),
        event("child.death", 20.0, reason="shutdown", asked_by="operator"), event("child.started", 30.0),
    ]  # fmt: skip
    ended = [span for each in told for span in spans.take(each)]
    assert [(span.name, span.start, span.end, span.ok, span.attributes.get("reason")) for span in ended] == [
        ("child.run", 10.0, 12.0, False, "killed"),
        ("child.recover", 12.0, 13.0, True, None),
        ("child.run", 13.0, 20.0, True, "shutdown"),
    ]


def test_a_start_is_a_span_from_its_process_on_also_one_that_fails() -> None:
    spans = Spans()
    told = [
        event("child.death", 10.0, reason="error(1)", uptime_s=2.0), event("child.started", 13.5, seconds=0.5),
        event("child.death", 15.0, reason="shutdown", asked_by="operator", uptime_s=2.0),
    ]  # fmt: skip
    ended = [(span.name, span.start, span.end, span.ok) for each in told for span in spans.take(each)]
    assert ended == [
        ("child.start", 8.0, 10.0, False), ("child.recover", 10.0, 13.5, True), ("child.start", 13.0, 13.5, True),
        ("child.run", 13.5, 15.0, True),
    ]  # fmt: skip


def test_a_supervisor_has_a_start_and_a_life_and_one_that_gives_up_has_not_ended_well() -> None:
    def lived(*told: tuple[str, float, str]) -> list[tuple[str, float, float, bool]]:
        spans = Spans()
        events = [event(f"supervisor.{what}", at, "s", reason=reason) for what, at, reason in told]
        return [(span.name, span.start, span.end, span.ok) for each in events for span in spans.take(each)]

    begun = ("init", 1.0, ""), ("started", 2.0, "")
    start = ("supervisor.start", 1.0, 2.0, True)
    assert lived(*begun, ("stopped", 9.0, "shutdown")) == [start, ("supervisor.run", 2.0, 9.0, True)]
    assert lived(*begun, ("killed", 9.0, ""), ("stopped", 9.0, "killed")) == [start, ("supervisor.run", 2.0, 9.0, False)]
    gave_up = ("gave_up", 8.0, ""), ("stopped", 9.0, "shutdown")
    assert lived(*begun, *gave_up) == [start, ("supervisor.run", 2.0, 8.0, False)]
    assert lived(begun[0], ("stopped", 3.0, "shutdown"), ("init", 5.0, ""), ("started", 6.0, "")) == [
        ("supervisor.start", 1.0, 3.0, False), ("supervisor.start", 5.0, 6.0, True),
    ]  # fmt: skip


def test_a_run_of_a_schedule_is_a_span_and_counts_with_those_that_are_not_told_one_by_one() -> None:
    counting = Counting(Table())
    run = {"id": "shop/remind/7", "schedule": "shop/remind", "generation": 3, "start": 10.0, "seconds": 0.5, "late_s": 0.25}
    counts = [
        {"schedule": "shop/remind", "outcome": "done", "count": 4, "seconds": 2.0},
        {"schedule": "shop/report", "outcome": "skipped", "count": 2, "seconds": 0.0},
    ]
    runs = [{**run, "outcome": "done"}, {**run, "outcome": "raised"}]
    for _ in range(2):
        spans = counting.ran({"counts": counts, "runs": runs, "left_out": 2})
    assert [(span.name, span.start, span.end, span.ok) for span in spans] == [
        ("schedule.run", 10.0, 10.5, True), ("schedule.run", 10.0, 10.5, False),
    ]  # fmt: skip
    assert spans[0].attributes == {
        "name": "shop", "path": "", "generation": 3, "schedule": "shop/remind", "outcome": "done", "late_s": 0.25,
    }  # fmt: skip
    assert value(counting.table, "otpd_schedule_runs_total", "shop/remind", "done") == 8
    assert value(counting.table, "otpd_schedule_runs_total", "shop/report", "skipped") == 4
    assert value(counting.table, "otpd_schedule_seconds_total", "shop/remind", "done") == 4.0
    assert value(counting.table, "otpd_schedule_late_seconds", "shop/remind") == 0.25
    assert value(counting.table, "otpd_span_seconds", "schedule.run").sum == 2.0


def test_a_pool_is_counted_as_it_tells_and_has_nothing_under_way_when_it_is_dead() -> None:
    counters, counting = Counters(submitted=9, done=3, killed=1), Counting(Table())
    counters.wait.add(0.0003)
    counters.run.add(7.0)
    spans = {name: {"counts": each.counts, "sum": each.sum} for name, each in counters.spans().items()}
    told = {"pool": "cpu", "queued": 2, "running": 3, "ended": counters.outcomes(), **spans}
    for _ in range(2):
        counting.pool(told)
    lines = set(render(from_data(as_data(counting.table.families()))).splitlines())
    assert lines >= {
        'otpd_tasks_total{pool="cpu",outcome="done"} 3', 'otpd_tasks_total{pool="cpu",outcome="killed"} 1',
        'otpd_tasks_queued{pool="cpu"} 2', 'otpd_tasks_running{pool="cpu"} 3',
        'otpd_task_wait_seconds_bucket{pool="cpu",le="0.0002"} 0', 'otpd_task_wait_seconds_bucket{pool="cpu",le="0.0005"} 1',
        'otpd_task_run_seconds_bucket{pool="cpu",le="10"} 1', 'otpd_task_run_seconds_sum{pool="cpu"} 7',
    }  # fmt: skip
    death = {"event": "otpd.child.death", "name": "tasks-cpu", "path": "tasks/tasks-cpu", "kind": "service", "at": 1.0}
    counting.take(death)
    assert (value(counting.table, "otpd_tasks_queued", "cpu"), value(counting.table, "otpd_tasks_running", "cpu")) == (0, 0)
    with pytest.raises(ValueError, match="expected 22 counts, got 1"):
        counting.table.put("otpd_task_run_seconds", ("cpu",), [1], 0.0)


def test_what_is_only_published_is_published_by_its_service_and_heard_by_telemetry() -> None:
    for topic in PUBLISHED:
        room = topic.partition(".")[0]
        service = ROOMS / ("agents/tasks/dispatcher.py" if room == "tasks" else f"agents/services/{room}/service.py")
        assert f'emit("otpd.{topic}"' in service.read_text()
        assert f'@on("otpd.{topic}")' in (ROOMS / "agents/services/telemetry/service.py").read_text()


def test_what_was_open_when_root_ended_ends_with_nothing_and_a_clock_that_was_set_back_gives_no_negative_time() -> None:
    spans = Spans(most=2)
    spans.take(event("child.started", 10.0, "a"))
    spans.take(event("child.started", 10.0, "b"))
    spans.take(event("child.started", 10.0, "c"))
    assert spans.take(event("child.death", 11.0, "c", reason="killed")) == [], "no more than so many at a time"
    (back,) = spans.take(event("child.death", 9.0, "a", reason="killed"))
    assert back.seconds == 0.0
    spans.take(event("node.starting", 20.0, ""))
    assert spans.take(event("child.death", 21.0, "b", reason="killed")) == []


# --- who is told ---


def test_a_subscriber_that_fails_is_isolated_counted_and_attached_again() -> None:
    told = Subscribers()
    told.attach("good")
    told.attach("bad")
    assert told.offer(1, now=0.0) == ["good", "bad"]
    assert told.failed("bad", "ValueError", 1, now=0.0) is True
    assert told.offer(5, now=0.5) == ["good"]
    assert told.offer(1, now=1.0) == ["good", "bad"]
    assert told.failed("bad", "ValueError", 1, now=1.0) is False, "it has not been attached meanwhile"
    assert told.offer(1, now=2.9) == ["good"]
    assert told.offer(1, now=3.0) == ["good", "bad"]
    assert (told.succeeded("good"), told.succeeded("bad")) == (None, 8)
    bad = told.table["bad"]
    assert (bad.state, bad.failures, bad.missed, bad.missed_now) == (State.ATTACHED, 2, 8, 0)


def test_the_wait_grows_up_to_a_minute() -> None:
    told = Subscribers()
    told.attach("bad")
    now = 0.0
    for _ in range(12):
        told.offer(1, now)
        told.failed("bad", "x", 1, now)
        now = told.table["bad"].until
    assert told.table["bad"].wait == LONGEST_WAIT
    assert told.table["bad"].failures == 12


# --- HTTP ---


def test_http_answers_get_metrics_and_refuses_everything_else() -> None:
    async def page() -> str:
        return "otpd_node_uptime_seconds 1\n"

    async def ask(port: int, request: bytes) -> bytes:
        incoming, outgoing = await asyncio.open_connection("127.0.0.1", port)
        outgoing.write(request)
        outgoing.write_eof()
        answer = await incoming.read()
        outgoing.close()
        await outgoing.wait_closed()
        return answer

    async def talk() -> list[bytes]:
        exporter = Exporter(page)
        port = await exporter.listen("127.0.0.1", 0)
        requests = (
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD /metrics HTTP/1.0\r\n\r\n", b"GET /secret HTTP/1.1\r\n\r\n",
            b"POST /metrics HTTP/1.1\r\n\r\n", b"\x00\xff\r\n\r\n", b"GET /" + b"a" * 20_000, b"",
        )  # fmt: skip
        answers = [await ask(port, request) for request in requests]
        exporter.close()
        return answers

    got, head, *others = asyncio.run(talk())
    assert got.startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    assert got.endswith(b"\r\n\r\notpd_node_uptime_seconds 1\n")
    assert head.endswith(b"Content-Length: 27\r\nConnection: close\r\n\r\n")
    assert [answer.split(b" ")[1] for answer in others] == [b"404", b"405", b"400", b"400", b"400"]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("127.0.0.1:9464", "127.0.0.1:9464"),
        ("[::1]:9464", "[::1]:9464"),
        ({"address": "0.0.0.0:9464", "public": True}, "0.0.0.0:9464"),
        ("0.0.0.0:9464", "public = true"),
        ({"address": "192.168.1.4:9464", "public": False}, "public = true"),
        ("localhost:9464", "127.0.0.1:9464"),
        ("9464", "127.0.0.1:9464"),
        ("127.0.0.1:99999", "expected an address"),
        (9464, "expected an address"),
    ],
)
def test_it_listens_on_loopback_unless_the_config_says_that_everybody_may_read(value: Any, found: str) -> None:
    check = sections.SERVICES["telemetry"]["listen"]
    if isinstance(value, int) or "=" in found or not (value == found or isinstance(value, dict)):
        with pytest.raises((Invalid, Exception), match=re.escape(found)):
            check(value)
    else:
        assert check(value) == found


# --- OpenTelemetry ---


class Spy:
    """An exporter of metrics that takes all."""

    _preferred_temporality: Any = None
    _preferred_aggregation: Any = None

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def export(self, data: Any, **_: Any) -> Any:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        self.seen.append(data)
        return MetricExportResult.SUCCESS

    def shutdown(self, *_: Any, **__: Any) -> None:
        pass

    def force_flush(self, *_: Any, **__: Any) -> bool:
        return True


def test_spans_and_numbers_reach_opentelemetry_with_their_times() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, metrics = InMemorySpanExporter(), Spy()
    otel = Otel("", "shop", "1", (spans, metrics))
    table = Table()
    table.add("otpd_events_total", ("otpd.child.started",), 4)
    otel.observe(table.families())
    otel.take([Span("child.run", 10.0, 12.5, False, {"name": "feed", "reason": "killed"})])
    (made,) = eventually(spans.get_finished_spans)
    otel.close()
    assert (made.name, made.start_time, made.end_time) == ("otpd.child.run", 10_000_000_000, 12_500_000_000)
    assert (dict(made.attributes), made.status.is_ok) == ({"name": "feed", "reason": "killed"}, False)
    assert made.resource.attributes["service.name"] == "shop"

    def exported() -> dict[str, Any]:
        scopes = [scope for data in metrics.seen for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {each.name: each for scope in scopes for each in scope.metrics}

    found = eventually(exported)
    (point,) = found["otpd_events_total"].data.data_points
    assert (point.value, dict(point.attributes)) == (4, {"event": "otpd.child.started"})
    assert found["otpd_span_seconds"].data.data_points[0].sum == 2.5


def test_what_waits_when_it_is_closed_is_exported_and_the_exporter_is_shut_down() -> None:
    entered, hold = threading.Event(), threading.Event()

    class Slow:
        def __init__(self) -> None:
            self.batches: list[int] = []
            self.ended = False

        def export(self, spans: Any) -> Any:
            from opentelemetry.sdk.trace.export import SpanExportResult

            entered.set()
            hold.wait(60)
            self.batches.append(len(spans))
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            self.ended = True

    slow = Slow()
    otel = Otel("", "shop", "1", (slow, Spy()))
    otel.take([Span("child.run", 1.0, 2.0, True)])
    assert entered.wait(60)
    otel.take([Span("child.run", 1.0, 2.0, True)] * 2)
    closing = threading.Thread(target=otel.close)
    closing.start()
    eventually(lambda: otel._queue.qsize() == 3)
    hold.set()
    eventually(lambda: slow.ended)
    closing.join()
    assert slow.batches == [1, 2]


def test_a_collector_that_takes_nothing_is_an_error_of_the_next_take() -> None:
    class Down:
        def export(self, _spans: Any) -> Any:
            raise ConnectionError("no collector")

        def shutdown(self) -> None:
            pass

    otel = Otel("", "shop", "1", (Down(), Spy()))
    otel.take([Span("child.run", 1.0, 2.0, True)])

    def failure() -> NotExported | None:
        try:
            otel.take([])
        except NotExported as error:
            return error
        return None

    error = eventually(failure)
    otel.close()
    assert error is not None
    assert (str(error), error.lost) == ("ConnectionError: no collector", 1)


def test_a_collector_is_refused_where_the_extra_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    check = sections.SERVICES["telemetry"]["otlp"]
    assert check("http://127.0.0.1:4318") == "http://127.0.0.1:4318"
    with pytest.raises(Invalid, match="expected a URL"):
        check("127.0.0.1:4318")
    monkeypatch.setattr(listening, "_NEEDED", ("opentelemetry_that_nobody_has.sdk",))
    with pytest.raises(Invalid, match=re.escape('pip install "otpd[otel]"')):
        check("http://127.0.0.1:4318")


def test_a_service_whose_extra_is_gone_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(MissingExtra, match=re.escape('pip install "otpd[otel]"')):
        Otel("http://127.0.0.1:4318", "shop", "1")
