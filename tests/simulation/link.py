"""The real link between root and broker, with credentials that a seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otpd.supervisor.brokerlink import BrokerLink
from otpd.supervisor.launch import Credentials
from otpd.supervisor.spec import SPEAKING

if TYPE_CHECKING:
    from tests.simulation.workers import Live


class SimulatedLink(BrokerLink):
    def credentials(self, live: Live) -> Credentials | None:  # type: ignore[override]
        if live.launch.kind not in SPEAKING:
            return None
        random = self._root.world.identities
        return Credentials(
            life=self._root.life.number,
            identity=random.randbytes(16),
            token=random.randbytes(32),
            broker=self.endpoint() if live.name != "broker" else None,
            runtime="/simulated",
        )

    def tell_all(self) -> None:
        """The snapshot, as when too much news has gathered."""
        if self.epoch is not None:
            self.table.up(self.epoch)
            self._pump()

    def repeat(self, count: int) -> None:
        """What the broker knows already: rows are a level, and a death that is known is no news."""
        if self.epoch is None or self.table._news or self.table._behind:
            return
        rows = [row.packet() for name in self.table.names() if (row := self.table.row(name)) is not None]
        deaths = [["death", *death] for death in self.table._deaths]
        for packet in [*deaths[-count:], *rows[:count]]:
            self.send(packet)
