"""Checks of single configuration values: from what the file says to what a spec holds, or an Invalid that teaches.

A check takes a value and gives the parsed value back. The ones in capitals at the end build checks. Nothing here looks
at the machine (files, users, commands): see places.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from otpd.supervisor.problems import Invalid, Invalids, nearest, one_of, quote, show
from otpd.supervisor.services import OWN_NAMES
from otpd.supervisor.spec import BRUTAL_KILL, INFINITY, Backoff, ExecReady, HttpReady, Ready, Shutdown, TcpReady
from otpd.supervisor.units import DURATION, parse_duration, parse_size

Check: TypeAlias = Callable[[Any], Any]

MAX_NAME: Final = 64
#: Names that the node itself uses in its tree.
RESERVED: Final = OWN_NAMES | {"agents", "heart", "logger", "node", "root", "top", "zygote"}
#: What the node sets for every worker itself.
OWN_ENV: Final = frozenset(
    {"OTPD_NODE", "OTPD_CHILD", "OTPD_GENERATION", "OTPD_CONTROL", "OTPD_CONTROL_FD", "OTPD_JOB_FD", "NOTIFY_SOCKET"}
)
_MAX_INT: Final = 2**31 - 1
_UNSTOPPING: Final = {
    "SIGKILL": 'it can\'t be handled; to kill at once write shutdown = "brutal_kill"',
    "SIGSTOP": "it stops nothing for good and can't be handled",
}
_SIGNALS: Final = {item.name: item.value for item in signal.Signals}


def text(value: Any) -> str:
    """A string that the kernel takes: not empty, no NUL, encodable."""
    if not isinstance(value, str):
        raise Invalid(expected="a string", got=show(value), nearest=str(value) if _number(value) else "")
    if not value:
        raise Invalid(expected="a string", got="an empty one")
    return _storable(value)


def any_text(value: Any) -> str:
    return "" if value == "" else text(value)


def _storable(value: str) -> str:
    if "\0" in value:
        raise Invalid(expected="a string without NUL", got=show(value))
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise Invalid(expected="a string of whole characters", got=show(value))
    return value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(expected="true or false", got=show(value))
    return value


def name(value: Any) -> str:
    """A name: it is an address, a directory of logs and a part of paths."""
    if not isinstance(value, str):
        raise Invalid(expected="a name", got=show(value))
    for wrong, what in (
        (not value, "a name is empty"),
        ("/" in value, 'a name has no "/"'),
        (not value.isprintable(), "a name has no control or invisible characters"),
        (value != value.strip(), "a name neither begins nor ends with a space"),
        (value in (".", ".."), 'a name is not "." or ".."'),
        (value.startswith("-"), 'a name does not begin with "-"'),
    ):
        if wrong:
            raise Invalid(expected="a name such as feed or price-feed", got=quote(value), what=what)
    if len(value) > MAX_NAME or len(value.encode()) > 240:
        raise Invalid(expected=f"a name of at most {MAX_NAME} characters", got=f"one with {len(value)}")
    return value


def child_name(value: Any) -> str:
    if name(value) in RESERVED:
        what = "the node uses it itself"
        raise Invalid(expected="a name of your own", got=quote(value), what=what, nearest=f"my-{value}")
    return str(value)


def path(value: Any) -> str:
    found = text(value)
    if found.startswith("~"):
        raise Invalid(expected="a path", got=quote(found), what='"~" is not expanded; write the directory out')
    return found


def strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise Invalid(expected="an array of strings", got=show(value))
    return tuple(_each(any_text, value))


def command(value: Any) -> tuple[str, ...]:
    """argv: the program and its arguments. No shell is involved."""
    if isinstance(value, str):
        sample = ", ".join(map(quote, value.split()))
        raise Invalid(expected="an array of strings", got=show(value), what=f"write [{sample}]; there is no shell")
    found = strings(value)
    if not found or not found[0]:
        raise Invalid(expected='a command such as ["gunicorn", "app:app"]', got="an empty one")
    return found


def _each(check: Check, values: Iterable[Any]) -> list[Any]:
    found, wrong = [], []
    for index, value in enumerate(values):
        try:
            found.append(check(value))
        except Invalid as error:
            wrong.append(error.under(index))
    if wrong:
        raise Invalids(wrong)
    return found


def shutdown(value: Any) -> Shutdown:
    if value in (BRUTAL_KILL, INFINITY):
        return str(value)  # type: ignore[return-value]
    try:
        return parse_duration(value)
    except Invalid as error:
        words = error.nearest or (nearest(value, (BRUTAL_KILL, INFINITY)) if isinstance(value, str) else "")
        expected = f'{DURATION}, "brutal_kill" or "infinity"' if error.expected == DURATION else error.expected
        raise Invalid(error.what if "no such unit" not in error.what else "", expected, error.got, words) from None


def stop_signal(value: Any) -> int:
    if isinstance(value, str) and value in _UNSTOPPING:
        raise Invalid(expected="a signal that a worker can answer", got=quote(value), what=_UNSTOPPING[value])
    if isinstance(value, str) and value in _SIGNALS:
        return _SIGNALS[value]
    guess = ""
    if isinstance(value, str):
        guess = f"SIG{value.upper()}" if f"SIG{value.upper()}" in _SIGNALS else nearest(value, _SIGNALS)
    elif _number(value):
        guess = {number: word for word, number in _SIGNALS.items()}.get(value, "")
    raise Invalid(expected='the name of a signal such as "SIGTERM"', got=show(value), nearest=guess)


def umask(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch("0?[0-7]{3}", value):
        return int(value, 8)
    guess = f"{value:03o}" if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 0o777 else ""
    raise Invalid(expected='three octal digits as a string such as "022"', got=show(value), nearest=guess)


def environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise Invalid(expected='a table such as { PORT = "8080" }', got=show(value))
    wrong = []
    for key, item in value.items():
        try:
            variable(key)
            any_text(item)
        except Invalid as error:
            wrong.append(error.under(key))
    if wrong:
        raise Invalids(wrong)
    return dict(value)


def variable(key: str) -> str:
    """The name of an environment variable that a user may set."""
    if not key or "=" in key or "\0" in key:
        raise Invalid(expected='the name of an environment variable, without "="', got=quote(key))
    if key in OWN_ENV:
        raise Invalid(what="otpd sets this variable itself; choose another name")
    return _storable(key)


def plain(value: Any) -> Any:
    """Data that can travel: strings, numbers, booleans, arrays and tables of them."""
    match value:
        case bool() | float():
            return value
        case str():
            return _storable(value)
        case int() if -(2**63) <= value < 2**64:
            return value
        case int():
            raise Invalid(expected="an integer of 64 bits", got=show(value))
        case list():
            return _each(plain, value)
        case dict():
            return _each_of(value)
        case _:
            what = "write it as a string" if type(value).__module__ == "datetime" else ""
            expected = "a string, a number, true, false, an array or a table"
            raise Invalid(expected=expected, got=show(value), what=what)


def _each_of(value: Mapping[str, Any]) -> dict[str, Any]:
    return fields(value, dict.fromkeys(value, plain))


def arguments(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(expected='a table of arguments for init() such as { symbol = "ACME" }', got=show(value))
    return _each_of(value)


def backoff(value: Any) -> Backoff | None:
    """None for `false`: retried at once."""
    if value is False:
        return None
    if not isinstance(value, dict):
        what = "write {} for the defaults" if value is True else ""
        expected = 'a table such as { initial = "100ms", max = "30s" } or false'
        raise Invalid(expected=expected, got=show(value), what=what)
    found = Backoff(**fields(value, _BACKOFF))
    if found.max < found.initial:
        expected = "max to be at least initial"
        raise Invalid(expected=expected, got=f"{found.max:g}s, and initial is {found.initial:g}s").under("max")
    return found


def ready(value: Any) -> Ready:
    match value:
        case "spawned" | "notify":
            return cast(Ready, value)
        case "init":
            what = "only an agent has an init(); put the script under [agents.NAME]"
            raise Invalid(expected=_READY, got=show(value), what=what)
        case {"tcp": port, **rest} if not rest:
            return cast(Ready, _under("tcp", probe_tcp, port))
        case {"exec": argv, **rest} if not rest:
            return cast(Ready, _under("exec", probe_exec, argv))
        case {"http": url, **rest} if not rest:
            return cast(Ready, _under("http", probe_http, url))
        case dict():
            raise Invalid(expected=_READY, got=f"a table with {one_of(value, 'and') if value else 'nothing in it'}")
        case str():
            guess = nearest(value, ("spawned", "notify"))
            raise Invalid(expected=_READY, got=show(value), nearest=guess)
        case _:
            raise Invalid(expected=_READY, got=show(value))


_READY: Final = '"spawned", "notify", {tcp = PORT}, {exec = [COMMAND]} or {http = "http://..."}'


def _under(key: str, check: Check, value: Any) -> Any:
    return fields({key: value}, {key: check})[key]


def probe_exec(value: Any) -> ExecReady:
    return ExecReady(argv=command(value))


def probe_tcp(value: Any) -> TcpReady:
    if _number(value) and 1 <= value <= 65535 and isinstance(value, int):
        return TcpReady(port=value)
    if isinstance(value, str):
        host, colon, port = value.rpartition(":")
        if colon and host and port.isascii() and port.isdigit() and 1 <= int(port[:6]) <= 65535:
            return TcpReady(host=host.strip("[]"), port=int(port))
    raise Invalid(expected='a port from 1 to 65535 or "HOST:PORT"', got=show(value))


def probe_http(value: Any) -> HttpReady:
    if isinstance(value, str) and re.fullmatch(r"http://[^\s/?#:@]+(:[0-9]{1,5})?([/?][!-~]*)?", value):
        return HttpReady(url=value)
    expected = 'a URL such as "http://127.0.0.1:8080/health"'
    what = "only http is probed" if isinstance(value, str) and value.startswith("https:") else ""
    raise Invalid(expected=expected, got=show(value), what=what)


# --- builders of checks ---


def word(*words: str) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in words:
            return value
        guess = nearest(value, words) if isinstance(value, str) else ""
        raise Invalid(expected=one_of(words), got=show(value), nearest=guess)

    return check


def integer(low: int, high: int = _MAX_INT) -> Check:
    bounds = f"an integer from {low} to {high}" if high < _MAX_INT else f"an integer of at least {low}"

    def check(value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        guess = value if isinstance(value, str) and value.isascii() and value.isdigit() else ""
        raise Invalid(expected=bounds, got=show(value), what=f"write {guess} without quotes" if guess else "")

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if _number(value) and math.isfinite(value) and low <= value <= high:
            return float(value)
        raise Invalid(expected=f"a number from {low:g} to {high:g}", got=show(value))

    return check


def duration(low: float, at_least: str) -> Check:
    def check(value: Any) -> float:
        seconds = parse_duration(value)
        if seconds < low:
            raise Invalid(expected=f"at least {at_least}", got=show(value))
        return seconds

    return check


def size(low: int, at_least: str, high: int | None = None, at_most: str = "") -> Check:
    def check(value: Any) -> int:
        found = parse_size(value)
        if found < low:
            raise Invalid(expected=f"at least {at_least}", got=show(value))
        if high is not None and found > high:
            raise Invalid(expected=f"at most {at_most}", got=show(value))
        return found

    return check


def table(known: Mapping[str, Check]) -> Check:
    return lambda value: fields(value, known)


def fields(value: Any, known: Mapping[str, Check]) -> dict[str, Any]:
    """Every value of a table, checked; all that is wrong is reported at once."""
    found, wrong = each_field(value, known)
    if wrong:
        raise Invalids(wrong)
    return found


def each_field(value: Any, known: Mapping[str, Check]) -> tuple[dict[str, Any], list[Invalid]]:
    """The values of a table that are right, and what is wrong with the others."""
    if not isinstance(value, dict):
        return {}, [Invalid(expected=f"a table with {one_of(known, 'and')}", got=show(value))]
    found, wrong = {}, []
    for key, item in value.items():
        try:
            found[key] = known[key](item) if key in known else unknown(key, known)
        except Invalid as error:
            wrong.append(error.under(key))
        except Invalids as errors:
            wrong.extend(error.under(key) for error in errors.items)
    return found, wrong


def unknown(key: str, known: Iterable[str]) -> Any:
    """Invalid: no such key."""
    guess = nearest(key, known)
    what = "unknown key" if guess else f"unknown key; known here: {', '.join(sorted(known))}"
    raise Invalid(what=what, nearest=guess)


_BACKOFF: Final[Mapping[str, Check]] = {
    "initial": duration(0.001, "1ms"),
    "factor": number(1, 1000),
    "max": duration(0.001, "1ms"),
    "jitter": number(0, 0.99),
    "reset_after": parse_duration,
}
