"""Metrics from root's own table, the picture of `otpd tree --json`, and what the broker adds of each name. Pure.

They need no service: `otpd metrics` shows them while every one is down.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from otpd.agents.services.telemetry.metrics import Family, Table

_BREAKER: Final = {"open": 1.0, "half_open": 0.5, "closed": 0.0}
#: What became of a message, as the broker's rows have it.
_CALLS: Final = ("replied", "failed")
_CASTS: Final = ("processed", "rejected", "dropped", "expired", "lost")


def families(tree: Mapping[str, Any], stats: Iterable[Mapping[str, Any]] = ()) -> list[Family]:
    """`tree`: root's answer to "tree"; `stats`: the rows of its answer to "stats", where there is a broker."""
    table = Table()
    node = tree["node"]
    table.set("otpd_node_info", (node["name"], node["version"]))
    table.set("otpd_node_uptime_seconds", (), node["uptime_s"])
    for alert in node.get("alerts") or ():
        table.set("otpd_alert", (alert["condition"],))
    for row in _walk(tree["tree"]):
        if row["type"] == "supervisor":
            _supervisor(table, row)
        else:
            _worker(table, row)
    for row in stats:
        if row.get("kind") != "client":  # their names are new ones each time
            _messages(table, row)
    return table.families()


def _walk(row: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield row
    for child in row.get("children") or ():
        yield from _walk(child)


def _supervisor(table: Table, row: Mapping[str, Any]) -> None:
    path = row["path"] or row["name"]
    table.set("otpd_supervisor_restarts_in_window", (path,), row["restarts_in_window"])
    if row["max_restarts"] is not None:
        table.set("otpd_supervisor_max_restarts", (path,), row["max_restarts"])


def _worker(table: Table, row: Mapping[str, Any]) -> None:
    who = (row["name"], row["kind"])
    table.add("otpd_children", (row["kind"], row["state"]))
    table.set("otpd_child_running", who, float(row["state"] == "running"))
    table.set("otpd_child_restarts_total", who, row["restarts"])
    if row["uptime_s"] is not None:
        table.set("otpd_child_uptime_seconds", who, row["uptime_s"])
    if row.get("health"):
        table.set("otpd_child_healthy", (row["name"],), float(row["health"]["state"] == "healthy"))


def _messages(table: Table, row: Mapping[str, Any]) -> None:
    name = row["name"]
    table.set("otpd_inbox_messages", (name,), row.get("inbox", 0))
    table.set("otpd_breaker_open", (name,), _BREAKER.get(row.get("breaker", "closed"), 0.0))
    for outcome in _CALLS:
        table.set("otpd_calls_total", (name, outcome), row.get(outcome, 0))
    for outcome in _CASTS:
        table.set("otpd_casts_total", (name, outcome), row.get(outcome, 0))
