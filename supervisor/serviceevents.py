"""What the node's services want noted in the event log: breakers that open, dead letters, runs that were skipped. Bounded.

An event of a service is "otpd.SERVICE.KIND" with the name that it is about, so that none can pass for one of root's own. A
storm is let through up to a rate, for each service by itself; what is held back is counted and told once a second.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.frames import pack
from otpd.supervisor.flood import Flood
from otpd.supervisor.live import Live

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

PER_SECOND: Final = 20.0
BURST: Final = 100
#: Bytes that one event may bring.
MAX_DATA: Final = 4096
#: Tables and lists in each other. The logger has to write them as JSON, whatever they are.
MAX_DEPTH: Final = 8
_KIND: Final = re.compile(r"[a-z][a-z_.]{0,63}")
#: What an event has anyway.
_OWN: Final = frozenset({"at", "event", "kind", "name", "path", "generation", "group", "life", "seq"})


class ServiceEvents:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._floods: dict[str, Flood] = {}  # by service: there are as many as the node has

    def heard(self, live: Live, packet: Any) -> None:
        """A packet of any worker; only services have something to note."""
        match packet:
            case ["event", str(kind), str(name), dict(data)] if live.launch.kind == "service" and _KIND.fullmatch(kind):
                self._event(live.name.partition("-")[0], kind, name, data)  # the pools tasks-NAME are one service

    def _event(self, service: str, kind: str, name: str, data: dict[str, Any]) -> None:
        flood = self._floods.setdefault(service, Flood(PER_SECOND, BURST))
        if not flood.admits(self._root.loop.now):
            if flood.suppressed == 1:
                self._root.loop.after(1.0, lambda: self._tell_suppressed(service))
            return
        fields = {key: value for key, value in data.items() if isinstance(key, str) and key not in _OWN}
        if not _is_plain(fields, MAX_DEPTH):
            fields = {"left_out": f"data that is no JSON, or is nested more than {MAX_DEPTH} deep"}
        elif len(pack(fields)) > MAX_DATA:
            fields = {"left_out": f"more than {MAX_DATA} bytes of data"}
        self._root.journal.event(f"{service}.{kind}", name[:200], **fields)

    def _tell_suppressed(self, service: str) -> None:
        self._root.journal.event(f"{service}.suppressed", service, count=self._floods[service].take_suppressed())


def _is_plain(value: Any, depth: int) -> bool:
    """JSON has it, and whoever reads it needs no deep stack."""
    match value:
        case dict():
            return depth > 0 and all(isinstance(key, str) and _is_plain(each, depth - 1) for key, each in value.items())
        case list():
            return depth > 0 and all(_is_plain(each, depth - 1) for each in value)
    return value is None or isinstance(value, str | int | float)
