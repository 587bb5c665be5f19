"""`otpd why` in words: what a child is doing, what its supervisor's budget allows, how it ended each time. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from otpd.agents.services.journal import crashed
from otpd.cli.output import Line, Span, Style, harmless
from otpd.cli.tree_view import state_span
from otpd.cli.words import ago, count, duration, ending, signal_name, when


def render(found: Mapping[str, Any], now: float) -> list[Line]:
    """`found` is root's answer; `now` the wall clock."""
    return [line for part in (_head(found), _history(found, now), _deaths(found, now)) for line in part]


def _head(found: Mapping[str, Any]) -> Iterator[Line]:
    what = f" ({harmless(str(found['what']))})" if found.get("what") else ""
    yield [
        Span(harmless(found["path"]), Style.BOLD),
        Span(" is "),
        state_span(found["state"]),
        Span(what),
        Span(f", generation {found['generation']}" if found.get("generation") is not None else ""),
    ]
    yield [Span("budget        ", Style.DIM), Span(_budget(found))]
    if found.get("backoff"):
        yield [Span("back-off      ", Style.DIM), Span(_backoff(found["backoff"]))]
    if found.get("next_attempt_s") is not None:
        yield [Span("next attempt  ", Style.DIM), Span(f"in {duration(found['next_attempt_s'])}", Style.BUSY)]
    if found.get("waits_for"):
        yield [Span("waits for     ", Style.DIM), Span(_above(found["waits_for"]), Style.BUSY)]
    yield from _spawned(found.get("spawn"))


def _above(supervisor: Mapping[str, Any]) -> str:
    """
    >>> _above({"name": "pricing", "state": "backoff", "next_attempt_s": 8.0})
    'pricing, which is backoff and is started again in 8s'
    """
    again = supervisor["next_attempt_s"]
    then = "" if again is None else f" and is started again in {duration(again)}"
    return f"{harmless(supervisor['name'])}, which is {supervisor['state']}{then}"


def _spawned(spawn: Mapping[str, Any] | None) -> Iterator[Line]:
    """What it has started by itself, past its supervisor."""
    if not spawn or not spawn["seen"]:
        return
    done = f"{spawn['refused']} of them refused" if spawn["refused"] else "reported, not refused"
    yield [Span("by itself     ", Style.DIM), Span(f"{count(spawn['seen'], 'process', 'processes')}, {done}", Style.BUSY)]
    if spawn["last"]:
        last = spawn["last"]
        yield [Span(harmless(f"              {last['call']}({last['program']}) at {last['place']}"))]
        yield [Span(harmless(f"              {last['instead']}"))]


def _history(found: Mapping[str, Any], now: float) -> Iterator[Line]:
    """Of the error store, which remembers longer than root."""
    for group in found.get("errors") or []:
        times = _times(group, found["name"])
        first = f", first {ago(group['first_seen'], now)}" if group["count"] > 1 else ""
        yield [
            Span(f"{group['kind']:<13} ", Style.DIM),
            Span(f"{times}{harmless(group['summary'])}, last {ago(group['last_seen'], now)}{first}"),
            Span(f"  otpd errors show {group['fingerprint']}", Style.DIM),
        ]


def _times(group: Mapping[str, Any], name: str) -> str:
    """Of this instance, and of all of its group.

    >>> _times({"count": 1}, "feed"), _times({"count": 7, "name": "feed", "instances": {"feed-1": 2}}, "feed-1")
    ('', '2x (7x in feed) ')
    """
    own = (group.get("instances") or {}).get(name, group["count"])
    if own != group["count"]:
        return f"{own}x ({group['count']}x in {group['name']}) "
    return f"{own}x " if own > 1 else ""


def supervisor_of(found: Mapping[str, Any]) -> str:
    """The name of the supervisor: the last but one part of the path, or "the top supervisor"."""
    return found["path"].rpartition("/")[0].rpartition("/")[2] or "the top supervisor"


def _budget(found: Mapping[str, Any]) -> str:
    name, used, most = supervisor_of(found), found["restarts_in_window"], found["max_restarts"]
    if most is None:
        return f"{name} ({found['strategy']}) has no restart limit"
    window = f"within {duration(found['max_seconds'])}"
    return f"{name} ({found['strategy']}) has used {used} of {most} restarts {window}; {_left(used, most, name)}"


def _left(used: int, most: int, name: str) -> str:
    left = most - used
    if left <= 0:
        return f"one more and {name} gives up"
    return f"{left} more {'is' if left == 1 else 'are'} allowed before {name} gives up"


def _backoff(backoff: Mapping[str, Any]) -> str:
    return (
        f"from {duration(backoff['initial'])} by {backoff['factor']:g} up to {duration(backoff['max'])}, "
        f"from the start again after {duration(backoff['reset_after'])} of running"
    )


def _deaths(found: Mapping[str, Any], now: float) -> Iterator[Line]:
    if found.get("type") == "supervisor":
        text = f"how a supervisor ends: otpd errors {found['name']}; why its children do: otpd why CHILD"
        yield [Span(harmless(text), Style.DIM)]
    elif not found["deaths"]:
        yield [Span("it has not ended since the node was started", Style.DIM)]
    for death in found["deaths"]:
        yield []
        yield from _death(death, found, now)


def _death(death: Mapping[str, Any], found: Mapping[str, Any], now: float) -> Iterator[Line]:
    clean = death["reason"] == "normal" or death["reason"].startswith("shutdown")
    yield [
        Span(f"generation {death['generation']}", Style.BOLD),
        Span(" ended "),
        Span(harmless(ending(death["reason"], death.get("signal"))), Style.GOOD if clean else Style.BAD),
        Span(f" {ago(death['at'], now)}, at {when(death['at'])}, after {duration(death['uptime_s'])}{_how(death)}"),
    ]
    yield [Span(f"  {_who(death)}")]
    if not death.get("asked_by") or crashed(dict(death)):
        yield [Span(f"  {_arithmetic(death, clean, found)}")]
    if death.get("stacks"):
        yield [Span("  it was silent for too long: the stacks of its threads are among its last lines")]
    if death.get("left"):
        yield [Span(f"  left behind: {harmless(', '.join(death['left']))}", Style.BAD)]
    yield from _tail(death.get("tail") or [])


def _how(death: Mapping[str, Any]) -> str:
    if death.get("signal") is not None:
        return f", by {signal_name(death['signal'])}"
    return f", with status {death['status']}" if death.get("status") is not None else ""


def _who(death: Mapping[str, Any]) -> str:
    cause = f": {harmless(str(death['cause']))}" if death.get("cause") else ""
    return f"asked by {harmless(str(death['asked_by']))}{cause}" if death.get("asked_by") else f"nobody had asked{cause}"


def _arithmetic(death: Mapping[str, Any], clean: bool, found: Mapping[str, Any]) -> str:
    """What followed from this end; root notes how many restarts were in the window before it."""
    restart = found.get("restart", "permanent")
    if restart == "temporary" or (restart == "transient" and clean):
        return f"not restarted: it is {restart}{' and its end was clean' if restart == 'transient' else ''}"
    name, most, window = supervisor_of(found), found["max_restarts"], duration(found["max_seconds"])
    number = death["restarts_in_window"] + 1
    if most is None:
        return f"{name} restarts without a limit"
    if number > most:
        return f"{most} of {most} restarts within {window} were used; this was one more, and {name} gave up"
    return f"restart {number} of {most} within {window}{f'; one more and {name} gives up' if number == most else ''}"


def _tail(lines: list[str]) -> Iterator[Line]:
    if not lines:
        yield [Span("  it printed nothing", Style.DIM)]
        return
    yield [Span(f"  last {count(len(lines), 'line')}:", Style.DIM)]
    for line in lines:
        yield [Span("  | ", Style.DIM), Span(harmless(line))]
