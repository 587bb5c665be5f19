"""How the processes of workers go: seen by pidfd, ended by `ladder`, reaped, and swept until nothing of them is left.

Here are the pids of all workers, too: who is a child of root and none of these, nor a helper, is a stray, and reaped as one.
`starts` is the other half.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from otpd.supervisor import ladder, linux, sweep
from otpd.supervisor.incarnation import Action, Status
from otpd.supervisor.live import Live
from otpd.supervisor.loop import ONCE, READ
from otpd.supervisor.spec import Shutdown

if TYPE_CHECKING:
    from otpd.supervisor.root import Root


class Endings:
    """`act(live, actions)` carries out what an incarnation says; `last_words(live)` is called when it is dead, before
    anything else becomes of it."""

    def __init__(
        self, root: Root, act: Callable[[Live, list[Action]], None], last_words: Callable[[Live], None]
    ) -> None:
        self._root, self._loop = root, root.loop
        self._act, self._last_words = act, last_words
        self._by_pid: dict[int, Live] = {}
        self._sweeper = sweep.Sweeper()
        self._reaping = False

    def watch(self, live: Live) -> None:
        """It has a process from now on."""
        self._by_pid[live.pid] = live
        self._loop.add(live.pidfd, READ | ONCE, lambda _mask: self._died(live))

    def end(self, live: Live, shutdown: Shutdown) -> None:
        """Ended by itself: the ladder is under way already. Else: begin it, or make it harder."""
        if live.incarnation.status is None:
            self._climb(live, live.ladder or self._new_ladder(live), ladder.Stop(shutdown))

    # --- children that nobody waits for ---

    def reap_later(self) -> None:
        """On SIGCHLD: nobody waits for these."""
        if not self._reaping:
            self._reaping = True
            self._loop.defer(self.reap)

    def reap(self) -> None:
        """Strays that ended, and blanks that somebody killed. Workers are seen by their pidfd."""
        self._reaping = False
        for blank in self._root.zygote.blanks:
            found = linux.stat(blank)
            if (found is None or found.state in "ZX") and self._root.zygote.died(blank):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(blank, os.WNOHANG)
        self._sweeper.reap_dead(self._known())

    def strays(self, known: set[int]) -> tuple[ladder.Process, ...]:
        """Live children of root but `known`, for its end."""
        return self._sweeper.strays(known)

    def kill_strays(self, strays: tuple[ladder.Process, ...]) -> None:
        """They are our own children and not reaped: their pids are theirs."""
        for each in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each.pid, signal.SIGKILL)

    def _known(self) -> set[int]:
        """Children of root that are no strays."""
        return {*self._by_pid, *self._root.zygote.blanks, *self._root.helper_pids()}

    # --- the ladder ---

    def _died(self, live: Live) -> None:
        """Its last words first, then the ladder: it reaps, sweeps, and says when all is gone."""
        self._last_words(live)
        current = live.ladder or self._new_ladder(live, ladder.Process(live.pid, 0))
        self._climb(live, current, ladder.Died())

    def _new_ladder(self, live: Live, main: ladder.Process | None = None) -> ladder.Ladder:
        main = main or sweep.identify(live.pid) or ladder.Process(live.pid, 0)
        return ladder.Ladder(main, live.launch.stop_signal, live.launch.detach)

    def _climb(self, live: Live, current: ladder.Ladder, event: ladder.Event) -> None:
        live.ladder, effects = ladder.handle(current, event, self._loop.now)
        for effect in effects:
            self._do(live, effect)
        self._rearm(live)

    def _do(self, live: Live, effect: ladder.Effect) -> None:
        match effect:
            case ladder.Ask(number):
                self._announce_stop(live)
                sweep.ask(live.pidfd, number)
            case ladder.Kill(group):
                sweep.kill(live.pid, live.pidfd, group)
            case ladder.Reap(group):
                self._reaped(live, sweep.reap(live.pid, live.pidfd, group) or Status())
            case ladder.Sweep(kill):
                left = self._sweeper.sweep(self._owner(live), self._known(), kill)
                assert live.ladder is not None
                self._climb(live, live.ladder, ladder.Swept(left))
            case ladder.Done(left, detached):
                self._cleared(live, left, detached)

    def _announce_stop(self, live: Live) -> None:
        """Why, before the signal comes; and the broker hears of all deaths until then."""
        if self._root.link.is_broker(live):
            self._root.link.flush()
        if live.credentials is not None and live.channel is not None:
            live.channel.send(["stopping", live.incarnation.stop_reason])

    def _owner(self, live: Live) -> sweep.Owner:
        return sweep.Owner(
            self._root.node_id, live.name, live.generation, live.pid, live.cgroup, live.leaf.events if live.leaf else -1
        )

    def _reaped(self, live: Live, status: Status) -> None:
        self._by_pid.pop(live.pid, None)
        live.close_process(self._loop)
        actions = live.incarnation.died(status)
        self._root.link.died(live, live.incarnation.last_reason)
        self._act(live, actions)

    def _cleared(self, live: Live, left: tuple[ladder.Process, ...], detached: bool) -> None:
        live.left = [each.shown for each in left]
        if live.left:
            kind = "child.detached" if detached else "child.stuck"
            self._root.journal.event(kind, live.name, self._root.shown(live.path), live.generation, left=live.left)
        self._by_pid.pop(live.pid, None)  # one that could not be ended is a stray from now on, reaped when it goes
        live.remove_cgroup(self._loop)
        self._act(live, live.incarnation.cleared())

    def _rearm(self, live: Live) -> None:
        if live.tick is not None:
            live.tick.cancel()
            live.tick = None
        current = live.ladder
        if current is not None and current.deadline is not None:
            live.tick = self._loop.after(
                max(0.0, current.deadline - self._loop.now), lambda: self._ticked(live)
            )

    def _ticked(self, live: Live) -> None:
        if live.ladder is not None:
            self._climb(live, live.ladder, ladder.Tick())
