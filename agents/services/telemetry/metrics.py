"""The metrics of a node: their names, and tables of their values with bounded labels. Pure.

A metric has a fixed name, type and set of labels, listed here and nowhere else. What labels may say is bounded by the number
of series per metric: further ones are left out and counted in `otpd_metrics_left_out_total`, never in silence.

>>> table = Table(limit=1)
>>> table.add("otpd_events_total", ("otpd.child.started",)); table.add("otpd_events_total", ("otpd.child.death",))
>>> print(render(table.families()), end="")
# HELP otpd_events_total Events of the node since root started.
# TYPE otpd_events_total counter
otpd_events_total{event="otpd.child.started"} 1
# HELP otpd_metrics_left_out_total Values of further label sets that were left out, by metric.
# TYPE otpd_metrics_left_out_total counter
otpd_metrics_left_out_total{metric="otpd_events_total"} 1
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from otpd.agents.tasks.counters import EDGES

#: Series of one metric.
LIMIT: Final = 1000
#: Characters of the value of a label.
_LABEL: Final = 200
#: Seconds, from a fast restart to a long life.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0, 86400.0)
LEFT_OUT: Final = "otpd_metrics_left_out_total"

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """`source`: "root" works while every service is down, "telemetry" needs the service of that name."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    source: Literal["root", "telemetry"] = "root"
    buckets: Sequence[float] = BUCKETS


METRICS: Final[Mapping[str, Metric]] = {
    # --- from root's table and the broker's ---
    "otpd_node_info": Metric("gauge", "1; the node and its version.", ("node", "version")),
    "otpd_node_uptime_seconds": Metric("gauge", "Seconds since root started."),
    "otpd_children": Metric("gauge", "Workers by kind and state.", ("kind", "state")),
    "otpd_child_running": Metric("gauge", "Whether a worker is ready.", ("name", "kind")),
    "otpd_child_restarts_total": Metric("counter", "Automatic restarts since root started.", ("name", "kind")),
    "otpd_child_uptime_seconds": Metric("gauge", "Seconds since its process was made.", ("name", "kind")),
    "otpd_child_healthy": Metric("gauge", "Whether the probes of a worker that has any succeed.", ("name",)),
    "otpd_supervisor_restarts_in_window": Metric("gauge", "Restarts that count now.", ("path",)),
    "otpd_supervisor_max_restarts": Metric("gauge", "Restarts that are allowed in its window.", ("path",)),
    "otpd_alert": Metric("gauge", "1 while a condition of the machine is raised.", ("condition",)),
    "otpd_inbox_messages": Metric("gauge", "Messages that wait for a name.", ("name",)),
    "otpd_breaker_open": Metric("gauge", "1 open, 0.5 half open, 0 closed.", ("name",)),
    "otpd_calls_total": Metric("counter", "Calls to a name, by what became of them.", ("name", "outcome")),
    "otpd_casts_total": Metric("counter", "Casts to a name, by what became of them.", ("name", "outcome")),
    # --- from events ---
    "otpd_events_total": Metric("counter", "Events of the node since root started.", ("event",), "telemetry"),
    "otpd_child_deaths_total": Metric("counter", "Ends of incarnations.", ("name", "kind", "reason"), "telemetry"),
    "otpd_child_cpu_seconds_total": Metric("counter", "CPU of incarnations that have ended.", ("name", "mode"), "telemetry"),
    "otpd_span_seconds": Metric("histogram", "Durations of what begins and ends.", ("span",), "telemetry"),
    "otpd_dead_letters_total": Metric("counter", "Messages that reached nobody.", ("source", "code"), "telemetry"),
    "otpd_breaker_changes_total": Metric("counter", "Changes of circuit breakers.", ("name", "state"), "telemetry"),
    "otpd_schedule_runs_total": Metric("counter", "Runs by how they ended; skipped.", ("schedule", "outcome"), "telemetry"),
    "otpd_schedule_seconds_total": Metric("counter", "Seconds that they took.", ("schedule", "outcome"), "telemetry"),
    "otpd_schedule_late_seconds": Metric("gauge", "How late the last run began.", ("schedule",), "telemetry"),
    "otpd_tasks_total": Metric("counter", "Tasks by how they ended; refused.", ("pool", "outcome"), "telemetry"),
    "otpd_tasks_queued": Metric("gauge", "Tasks that wait.", ("pool",), "telemetry"),
    "otpd_tasks_running": Metric("gauge", "Tasks that run.", ("pool",), "telemetry"),
    "otpd_task_wait_seconds": Metric("histogram", "How long tasks waited.", ("pool",), "telemetry", EDGES),
    "otpd_task_run_seconds": Metric("histogram", "How long tasks ran.", ("pool",), "telemetry", EDGES),
    "otpd_emits_total": Metric("counter", "Events that agents emitted.", ("name", "event"), "telemetry"),
    "otpd_emits_missed_total": Metric("counter", "Emitted events that came too fast to be counted.", (), "telemetry"),
    "otpd_emit_value": Metric("gauge", "Last value emitted.", ("name", "event", "measurement"), "telemetry"),
    "otpd_emit_sum": Metric("gauge", "Sum of values emitted.", ("name", "event", "measurement"), "telemetry"),
    "otpd_subscriber_attached": Metric("gauge", "Whether it is told of events.", ("subscriber",), "telemetry"),
    "otpd_subscriber_failures_total": Metric("counter", "How often it raised.", ("subscriber",), "telemetry"),
    "otpd_subscriber_missed_total": Metric("counter", "Events that it has missed.", ("subscriber",), "telemetry"),
    "otpd_events_missed_total": Metric("counter", "Events of the journal that could not be read any more.", (), "telemetry"),
    LEFT_OUT: Metric("counter", "Values of further label sets that were left out, by metric.", ("metric",)),
}  # fmt: skip

Labels: TypeAlias = tuple[str, ...]


@dataclass(slots=True)
class Histogram:
    """`counts[i]`: values up to the i-th bucket of its metric and over the one before; the last: those over all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    sum: float = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(BUCKETS, value)] += 1
        self.sum += value


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its series, in the order of their labels."""

    name: str
    series: tuple[tuple[Labels, float | Histogram], ...]


class Table:
    """Values by metric and labels. KeyError, ValueError: a metric or labels that METRICS does not have."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, Histogram]] = {}
        self._left_out: dict[str, int] = {}

    def add(self, metric: str, labels: Sequence[str] = (), value: float = 1.0) -> None:
        series = self._values.setdefault(metric, {})
        key = self._admitted(metric, labels, series)
        if key is not None:
            series[key] = series.get(key, 0.0) + value

    def set(self, metric: str, labels: Sequence[str] = (), value: float = 1.0) -> None:
        series = self._values.setdefault(metric, {})
        key = self._admitted(metric, labels, series)
        if key is not None:
            series[key] = value

    def observe(self, metric: str, labels: Sequence[str], value: float) -> None:
        series = self._histograms.setdefault(metric, {})
        key = self._admitted(metric, labels, series)
        if key is not None:
            series.setdefault(key, Histogram()).observe(value)

    def put(self, metric: str, labels: Sequence[str], counts: Sequence[int], total: float) -> None:
        """A histogram that somebody else has counted, in the buckets of METRICS."""
        series = self._histograms.setdefault(metric, {})
        key = self._admitted(metric, labels, series)
        if len(counts) != len(METRICS[metric].buckets) + 1:
            raise ValueError(f"{metric}: expected {len(METRICS[metric].buckets) + 1} counts, got {len(counts)}")
        if key is not None:
            series[key] = Histogram(list(counts), total)

    def families(self) -> list[Family]:
        """In the order of METRICS; those without a value are not there."""
        left_out: dict[Labels, float] = {(metric,): float(count) for metric, count in self._left_out.items()}
        values: dict[str, dict[Labels, Any]] = {**self._values, **self._histograms, LEFT_OUT: left_out}
        return [Family(name, tuple(sorted(values[name].items(), key=_labels))) for name in METRICS if values.get(name)]

    def _admitted(self, metric: str, labels: Sequence[str], series: Mapping[Labels, Any]) -> Labels | None:
        if len(labels) != len(METRICS[metric].labels):
            raise ValueError(f"{metric}: expected the labels {METRICS[metric].labels}, got {labels!r}")
        key = tuple(str(label)[:_LABEL] for label in labels)
        if key in series or len(series) < self._limit:
            return key
        self._left_out[metric] = self._left_out.get(metric, 0) + 1
        return None


def _labels(series: tuple[Labels, Any]) -> Labels:
    return series[0]


# --- as Prometheus reads them, text format 0.0.4 ---


def render(families: Iterable[Family]) -> str:
    return "".join(f"{line}\n" for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    metric = METRICS[family.name]
    yield f"# HELP {family.name} {metric.help}"
    yield f"# TYPE {family.name} {metric.kind}"
    for labels, value in family.series:
        said = [_label(name, label) for name, label in zip(metric.labels, labels, strict=True)]
        if isinstance(value, Histogram):
            yield from _histogram(family.name, said, value)
        else:
            yield f"{family.name}{_braced(said)} {_number(value)}"


def _histogram(name: str, said: list[str], value: Histogram) -> Iterator[str]:
    total = 0
    for edge, count in zip((*(f"{bucket:g}" for bucket in METRICS[name].buckets), "+Inf"), value.counts, strict=True):
        total += count
        yield f"{name}_bucket{_braced([*said, _label('le', edge)])} {total}"
    yield f"{name}_sum{_braced(said)} {_number(value.sum)}"
    yield f"{name}_count{_braced(said)} {total}"


def _braced(said: list[str]) -> str:
    return f"{{{','.join(said)}}}" if said else ""


def _number(value: float) -> str:
    """
    >>> _number(3.0), _number(8.725), _number(float("inf")), _number(float("nan"))
    ('3', '8.725', '+Inf', 'NaN')
    """
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return repr(int(value)) if value == int(value) else repr(value)


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


# --- as data, for `otpd metrics --json` and for whoever asks the service ---


def as_data(families: Iterable[Family]) -> list[dict[str, Any]]:
    return [
        {
            "name": family.name,
            "type": METRICS[family.name].kind,
            "help": METRICS[family.name].help,
            "series": [
                {"labels": dict(zip(METRICS[family.name].labels, labels, strict=True)), **_as_data(value)}
                for labels, value in family.series
            ],
        }
        for family in families
    ]


def _as_data(value: float | Histogram) -> dict[str, Any]:
    if isinstance(value, Histogram):
        return {"counts": list(value.counts), "sum": value.sum}
    return {"value": value}


def from_data(data: Iterable[Mapping[str, Any]]) -> list[Family]:
    """What `as_data` gave; metrics that are not known here (of another version) are passed over."""
    return [
        Family(each["name"], tuple((tuple(row["labels"].values()), _from_data(row)) for row in each["series"]))
        for each in data
        if each["name"] in METRICS
    ]


def _from_data(row: Mapping[str, Any]) -> float | Histogram:
    return Histogram(list(row["counts"]), row["sum"]) if "counts" in row else row["value"]
