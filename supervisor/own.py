"""A worker's own children: the supervisor below one incarnation of a worker, made when it asks for its first child. Pure.

A DynamicSupervisor that is linked to its worker, as an Elixir process has it that starts one for itself; only that its
children are meant by name. It differs from other supervisors in how it ends, never in how it supervises:

| what happens                       | what follows                                                                       |
|------------------------------------|------------------------------------------------------------------------------------|
| the worker ends, for any reason    | its end is held back (`Child.end`), the children stop all at once, each with its    |
|                                    | `shutdown`, a start is given up; then the supervisor of the worker hears of its end |
| the worker is asked to stop        | nothing yet: it may use its children to the last; then as above                     |
| the supervisor above it is killed  | worker and children are killed, all at once                                         |
| the children restart too often     | they are stopped, and the worker is ended (EndWorker): "children: shutdown"         |
| the tree stops urgently            | the worker's requests are answered until it ends, but nobody is started any more    |

So the next incarnation of a worker starts after all that the last one had started is gone, and without children.
"""

from __future__ import annotations

from typing import ClassVar, Final

from otpd.supervisor import answers
from otpd.supervisor.answers import Answer
from otpd.supervisor.child import Child, ChildState
from otpd.supervisor.events import EndWorker, Exited
from otpd.supervisor.job import Doing
from otpd.supervisor.spec import ChildSpec, Dynamic, SupervisorSpec
from otpd.supervisor.supervision import Supervisor

#: Children that one incarnation of a worker may have at a time.
MAX_CHILDREN: Final = 1000
_SPEC: Final = SupervisorSpec(dynamic=Dynamic.DYNAMIC, max_children=MAX_CHILDREN)
#: Told of the worker already, or of its children one by one.
_UNSAID: Final = frozenset({"supervisor_stopped", "supervisor_killed"})


class OwnSupervisor(Supervisor):
    """`seat` is the row of the worker. Once ended it stays in the ledger until the worker has ended too: it has no other."""

    __slots__ = ("_keeper",)
    by_name: ClassVar[bool] = True

    def __init__(self, keeper: Supervisor, seat: Child) -> None:
        super().__init__(keeper.ledger, keeper, seat, _SPEC)
        self._keeper = keeper
        self.ledger.own[self.path] = self

    def row(self, spec: ChildSpec) -> Child:
        child = super().row(spec)
        self.ledger.enlist(child.path)
        return child

    def remove(self, child: Child) -> None:
        super().remove(child)
        self.ledger.retire(child.path)

    def notice(self, kind: str, **data: object) -> None:
        if kind not in _UNSAID:
            super().notice(kind, **data)

    def _restart(self, child: Child) -> None:
        if self.ledger.closing:
            self.forget(child)
        else:
            super()._restart(child)

    def _close(self, event: Answer) -> None:
        self.job.doing = Doing.ENDED
        self.refuse_all()
        for child in list(self.children.values()):
            self.remove(child)
        end, self.seat.end = self.seat.end, None
        if end is not None:
            del self.ledger.own[self.path]
            self.notice("children_ended")
            answers.handle(self._keeper, self.seat, end)
        elif self.seat.state in (ChildState.STARTING, ChildState.RUNNING):
            assert isinstance(event, Exited)
            self.ledger.emit(EndWorker(self.path, self.generation, f"children: {event.reason}"))

    @property
    def _waits_to_leave(self) -> bool:
        """Never: while its worker lives, it is there for it."""
        return False
