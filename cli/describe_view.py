"""What an agent can be asked, as lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otpd.cli.output import Line, Span, Style, harmless

_SECTIONS = (("calls", "calls"), ("casts", "casts"), ("topics", "topics"))


def render(found: Mapping[str, Any]) -> list[Line]:
    """Name, class and doc; then a section for each kind of message that it takes."""
    head = [Span(harmless(str(found["name"])), Style.BOLD), Span(f"  {harmless(str(found['class']))}", Style.DIM)]
    lines: list[Line] = [head, *_doc(found.get("doc"), "")]
    for key, title in _SECTIONS:
        if found.get(key):
            lines += [[], [Span(title, Style.DIM)], *_entries(found[key])]
    return lines


def _entries(entries: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines: list[Line] = []
    for entry in entries:
        pattern = [Span(harmless(str(entry["pattern"])), Style.NAME), Span(" -> ")] if "pattern" in entry else []
        name = Span(harmless(str(entry["name"])), Style.NAME)
        lines.append([Span("  "), *pattern, name, Span(harmless(str(entry["signature"])))])
        lines += _doc(entry.get("doc"), "      ")
    return lines


def _doc(text: Any, indent: str) -> list[Line]:
    return [[Span(f"{indent}{harmless(line)}")] for line in str(text or "").splitlines()]
