"""The reference of telemetry, made from the catalogues: docs/telemetry.md holds it between its two marks.

    python -m otpd.agents.services.telemetry.reference docs/telemetry.md    # writes it anew
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Final

from otpd.agents.services.telemetry.catalogue import EVENTS, PUBLISHED, SUPPRESSED, Told
from otpd.agents.services.telemetry.metrics import BUCKETS, METRICS
from otpd.agents.tasks.counters import EDGES

BEGIN: Final = "<!-- reference: made by otpd.agents.services.telemetry.reference -->"
END: Final = "<!-- /reference -->"


def reference() -> str:
    """Both tables, with the marks."""
    return "\n".join([BEGIN, "", *_events(), "", *_metrics(), "", END])


def _events() -> Iterator[str]:
    yield "## Events"
    yield ""
    yield "| event | about | what | measurements | metadata |"
    yield "|---|---|---|---|---|"
    yield from _rows({**EVENTS, "SERVICE.suppressed": SUPPRESSED})
    yield ""
    yield "Only published, and not in root's journal:"
    yield ""
    yield "| topic | about | what | measurements | metadata |"
    yield "|---|---|---|---|---|"
    yield from _rows(PUBLISHED)


def _rows(told: Mapping[str, Told]) -> Iterator[str]:
    for name, each in told.items():
        yield f"| `otpd.{name}` | {each.about} | {each.what} | {_words(each.measurements)} | {_words(each.metadata)} |"


def _metrics() -> Iterator[str]:
    yield "## Metrics"
    yield ""
    yield f"Buckets of histograms, in seconds: {', '.join(f'{bucket:g}' for bucket in BUCKETS)}."
    yield f"Of those of tasks: {', '.join(f'{bucket:g}' for bucket in EDGES)}."
    yield ""
    yield "| metric | type | labels | from | what |"
    yield "|---|---|---|---|---|"
    for name, metric in METRICS.items():
        yield f"| `{name}` | {metric.kind} | {_words(metric.labels)} | {metric.source} | {metric.help} |"


def _words(words: tuple[str, ...]) -> str:
    return " ".join(f"`{word}`" for word in words)


def replaced(page: str) -> str:
    """`page` with the reference of now. ValueError: it has no marks."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"expected a page with {BEGIN} and {END}")
    return before + reference() + after


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        text = replaced(file.read())
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(text)
