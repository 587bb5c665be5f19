"""What the broker wants noted in the event log: breakers that open, dead letters, strikes. Bounded, whatever it sends.

An event of the broker is "otpd.broker.KIND" with the name that it is about, so that none can pass for one of root's own. A
storm is let through up to a rate; what is held back is counted and told once a second.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otpd.ipc.frames import pack
from otpd.supervisor.flood import Flood

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

PER_SECOND: Final = 20.0
BURST: Final = 100
#: Bytes that one event may bring.
MAX_DATA: Final = 4096
_KIND: Final = re.compile(r"[a-z][a-z_.]{0,63}")
#: What an event has anyway.
_OWN: Final = frozenset({"at", "event", "kind", "name", "path", "generation"})


class BrokerEvents:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._flood = Flood(PER_SECOND, BURST)
        root.link.packets.append(self._heard)

    def _heard(self, packet: list[Any]) -> None:
        match packet:
            case ["event", str(kind), str(name), dict(data)] if _KIND.fullmatch(kind):
                self._event(kind, name, data)

    def _event(self, kind: str, name: str, data: dict[str, Any]) -> None:
        if not self._flood.admits(self._root.loop.now):
            if self._flood.suppressed == 1:
                self._root.loop.after(1.0, self._tell_suppressed)
            return
        fields = {key: value for key, value in data.items() if isinstance(key, str) and key not in _OWN}
        if len(pack(fields)) > MAX_DATA:
            fields = {"left_out": f"more than {MAX_DATA} bytes of data"}
        self._root.journal.event(f"broker.{kind}", name[:200], **fields)

    def _tell_suppressed(self) -> None:
        self._root.journal.event("broker.suppressed", "broker", count=self._flood.take_suppressed())
