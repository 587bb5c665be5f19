"""OpenTelemetry: spans and metrics of the node over OTLP/HTTP. Only with the extra: pip install "otpd[otel]".

What is exported waits in a bounded queue for a thread, because exporters block. What they do not take is an error at the
next `take`, so that it is counted like any failure of a subscriber.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final

from otpd.agents.services.telemetry.metrics import METRICS, Family, Histogram
from otpd.agents.services.telemetry.spans import Span

#: Spans that wait for the thread.
_WAITING: Final = 10_000
_BATCH: Final = 512
#: Seconds between exports of metrics, and for the last export.
_EVERY: Final = 30.0
_LAST: Final = 2.0
_MISSING: Final = 'OpenTelemetry is asked for ({}) and not installed; install it with: pip install "otpd[otel]"'


class MissingExtra(RuntimeError):
    """The extra is not installed; says how to."""


class NotExported(Exception):
    """An exporter did not take what it was given; `lost` spans are lost with it."""

    def __init__(self, why: str, lost: int = 0) -> None:
        super().__init__(why)
        self.lost = lost


class Otel:
    """`take` and `observe` never block. `close` gives what waits two seconds."""

    def __init__(self, endpoint: str, node: str, version: str, exporters: tuple[Any, Any] | None = None) -> None:
        """`exporters`: of spans and of metrics, instead of those of `endpoint`. MissingExtra when they can't be had."""
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider

            spans, metrics = exporters or _over_http(endpoint)
        except ImportError as error:
            raise MissingExtra(_MISSING.format(error.name)) from error
        resource = Resource.create({"service.name": node, "service.namespace": "otpd", "service.version": version})
        self._tracer = TracerProvider(resource=resource, shutdown_on_exit=False).get_tracer("otpd", version)
        self._exporter = spans
        self._metrics = _Metrics(resource, metrics, version)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failure: NotExported | None = None
        self._thread = threading.Thread(target=self._export, name="otpd otel", daemon=True)
        self._thread.start()
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is told by `take`

    def take(self, spans: Iterable[Span]) -> None:
        """NotExported: what was given before did not arrive, or no more can wait; then none of these is taken."""
        failure = self._failure or self._metrics.failure
        self._failure = self._metrics.failure = None
        if failure is not None:
            raise failure
        made = list(spans)
        if self._queue.qsize() + len(made) > _WAITING:
            raise NotExported(f"{_WAITING} spans wait for the collector")
        for span in made:
            self._metrics.record(span)
            self._queue.put(self._made(span))

    def observe(self, families: Sequence[Family]) -> None:
        """The values that are exported next."""
        self._metrics.families = {family.name: family for family in families}

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join(_LAST)
        self._metrics.close()

    def _made(self, span: Span) -> Any:
        from opentelemetry.trace import StatusCode

        made = self._tracer.start_span(f"otpd.{span.name}", attributes=span.attributes, start_time=int(span.start * 1e9))
        made.set_status(StatusCode.OK if span.ok else StatusCode.ERROR)
        made.end(int(max(span.start, span.end) * 1e9))
        return made

    def _export(self) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        while (span := self._queue.get()) is not None:
            batch = self._batch(span)
            try:
                if self._exporter.export(batch) is not SpanExportResult.SUCCESS:
                    self._failure = NotExported("the collector did not take spans", len(batch))
            except Exception as error:
                self._failure = NotExported(f"{type(error).__name__}: {error}", len(batch))
        self._exporter.shutdown()

    def _batch(self, first: Any) -> list[Any]:
        """What waits, up to the end: that stays in the queue."""
        batch = [first]
        while len(batch) < _BATCH and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                self._queue.put(None)
                break
            batch.append(more)
        return batch


class _Metrics:
    """Observable instruments over the last families; read by the exporter's own thread, so they are replaced whole."""

    def __init__(self, resource: Any, exporter: Any, version: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        self.families: dict[str, Family] = {}
        self.failure: NotExported | None = None
        reader = PeriodicExportingMetricReader(_telling(exporter, self), export_interval_millis=_EVERY * 1000)
        self._provider = MeterProvider(metric_readers=[reader], resource=resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("otpd", version)
        for name, metric in METRICS.items():
            if metric.kind == "counter":
                meter.create_observable_counter(name, [self._observed(name)], description=metric.help)
            elif metric.kind == "gauge":
                meter.create_observable_gauge(name, [self._observed(name)], description=metric.help)
        self._seconds = meter.create_histogram("otpd_span_seconds", "s", METRICS["otpd_span_seconds"].help)

    def record(self, span: Span) -> None:
        self._seconds.record(span.seconds, {"span": span.name})

    def close(self) -> None:
        self._provider.shutdown(timeout_millis=_LAST * 1000)

    def _observed(self, name: str) -> Any:
        from opentelemetry.metrics import Observation

        def observe(_options: Any) -> list[Any]:
            family = self.families.get(name)
            series = () if family is None else family.series
            keys = METRICS[name].labels
            return [
                Observation(value, dict(zip(keys, labels, strict=True)))
                for labels, value in series
                if not isinstance(value, Histogram)
            ]

        return observe


def _telling(exporter: Any, metrics: _Metrics) -> Any:
    """The exporter of metrics, whose failures are told."""
    from opentelemetry.sdk.metrics.export import MetricExportResult

    export = exporter.export

    def told(data: Any, **options: Any) -> Any:
        try:
            result = export(data, **options)
        except Exception as error:
            metrics.failure = NotExported(f"{type(error).__name__}: {error}")
            return MetricExportResult.FAILURE
        if result is not MetricExportResult.SUCCESS:
            metrics.failure = NotExported("the collector did not take the metrics")
        return result

    exporter.export = told
    return exporter


def _over_http(endpoint: str) -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    base = endpoint.rstrip("/")
    return OTLPSpanExporter(endpoint=f"{base}/v1/traces"), OTLPMetricExporter(endpoint=f"{base}/v1/metrics")
