"""What the options of telemetry may say: where it listens, and where it exports to. Pure but for a look for a package.

>>> listen("127.0.0.1:9464"), listen({"address": "0.0.0.0:9464", "public": True})
('127.0.0.1:9464', '0.0.0.0:9464')
"""

from __future__ import annotations

import importlib.util
import ipaddress
from typing import Any, Final
from urllib.parse import urlsplit

from otpd.supervisor import checks
from otpd.supervisor.problems import Invalid, show

_ADDRESS: Final = 'an address such as "127.0.0.1:9464" or "[::1]:9464"'
_PUBLIC: Final = "whoever reaches this address reads the metrics, and nothing asks who it is; if that is meant, write: {}"
_OTLP: Final = 'a URL such as "http://127.0.0.1:4318"'
_NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def listen(value: Any) -> str:
    """HOST:PORT. Other than loopback only as { address = "...", public = true }."""
    table = {"address": value} if isinstance(value, str) else value
    if not isinstance(table, dict):
        raise Invalid(expected=_ADDRESS, got=show(value))
    found = checks.fields(table, {"address": _address, "public": checks.boolean})
    if "address" not in found:
        raise Invalid(what="address is missing", expected=_ADDRESS)
    host, _, _ = found["address"].rpartition(":")
    if not ipaddress.ip_address(host.strip("[]")).is_loopback and not found.get("public", False):
        meant = f'listen = {{ address = "{found["address"]}", public = true }}'
        raise Invalid(what=_PUBLIC.format(meant), expected="an address of this machine alone", got=show(found["address"]))
    return str(found["address"])


def _address(value: Any) -> str:
    text = checks.text(value)
    host, _, port = text.rpartition(":")
    nearest = f"127.0.0.1:{port or text}" if host in ("", "localhost") else ""
    try:
        version = ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).version
        if not 0 < int(port) < 65536 or (version == 6) is not host.startswith("["):
            raise ValueError
    except ValueError:
        raise Invalid(expected=_ADDRESS, got=show(value), nearest=nearest) from None
    return text


def otlp(value: Any) -> str:
    """The base URL of a collector; only where the extra is installed."""
    text = checks.text(value)
    found = urlsplit(text)
    if found.scheme not in ("http", "https") or not found.netloc:
        raise Invalid(expected=_OTLP, got=show(value))
    if not all(map(_installed, _NEEDED)):
        raise Invalid(what='OpenTelemetry is not installed here; install it with: pip install "otpd[otel]"')
    return text


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
