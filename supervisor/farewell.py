"""The end of the node, when the tree has ended: what is left below root, then the logger, then root itself.

The tree has stopped its workers in order before this. Each step is looked at again and again, never waited for, and none
can hold the node up for ever: what could not be ended is named, to whoever asked for the stop and in the exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otpd.supervisor import cgroup
from otpd.supervisor.paths import remove_traces

if TYPE_CHECKING:
    from otpd.supervisor.root import Root

#: Seconds for what is left after the tree has ended: blanks, helpers, strays; the first of them to go by themselves.
_LAST_GRACE: Final = 3.0
_POLITE: Final = 0.3
#: And for the logger, to store what it was told: one that was killed a moment ago starts anew first. One that hangs holds
#: up the end of the node for so long.
_LOGGER_GRACE: Final = 15.0
#: And for the answers to whoever asked.
_ANSWER_GRACE: Final = 1.0
#: Between two looks.
_AGAIN: Final = 0.005


class Farewell:
    """`begin` once; root's loop is stopped in the end."""

    def __init__(self, root: Root) -> None:
        self._root, self._loop = root, root.loop

    def begin(self) -> None:
        self._root.zygote.close()
        self._root.zygote.drop_blanks()
        self._end_strays(self._loop.now + _POLITE, self._loop.now + _LAST_GRACE)

    def _end_strays(self, polite: float, deadline: float) -> None:
        """Until nothing is left below root but the logger."""
        endings, now = self._root.workers.endings, self._loop.now
        endings.reap()
        strays = endings.strays({self._root.logger.pid or 0})
        if not strays or now >= deadline:
            self._end_logger([each.shown for each in strays], now + _LOGGER_GRACE)
            return
        if now > polite:
            endings.kill_strays(strays)
        self._again(lambda: self._end_strays(polite, deadline))

    def _end_logger(self, left: list[str], deadline: float) -> None:
        """When it has stored all that it was told."""
        self._root.journal.settle()
        logger, late = self._root.logger, self._loop.now >= deadline
        if late or not logger.behind:
            logger.close()
        if (logger.alive or logger.behind) and not late:
            self._again(lambda: self._end_logger(left, deadline))
            return
        logger.kill()
        self._root.ended(left)
        self._end_root(self._loop.now + _ANSWER_GRACE)

    def _end_root(self, deadline: float) -> None:
        """When the answers have reached the kernel: then the socket goes, and all else that others could see."""
        root = self._root
        if root.server.unwritten and self._loop.now < deadline:
            self._again(lambda: self._end_root(deadline))
            return
        root.server.close()
        root.notify.close()
        if root.cgroups is not None:
            root.cgroups.sweep(patience=0.2)
        cgroup.remove_abandoned()
        remove_traces(root.paths)  # heart may be gone
        self._loop.stop()

    def _again(self, look: Callable[[], None]) -> None:
        self._loop.after(_AGAIN, look)
