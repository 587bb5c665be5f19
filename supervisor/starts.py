"""How the processes of workers come: the job of each, and the way in which it is started. Decides nothing about whether.

Three ways: in one call that comes back when exec has happened (`nativespawn`), in a process that was forked ahead
(`spares`), or by a fork of root (`execspawn`), where the others can't be had. `endings` is the other half.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from otpd.supervisor import cgroup, execspawn, launch, spares, sweep
from otpd.supervisor.channel import Channel
from otpd.supervisor.helpers import Blank
from otpd.supervisor.incarnation import Action
from otpd.supervisor.live import REASON_LIMIT, Live
from otpd.supervisor.loop import READ
from otpd.supervisor.nativespawn import NativeSpawner, Plan
from otpd.supervisor.spec import Launch

if TYPE_CHECKING:
    from otpd.supervisor.root import Root


class Starts:
    """`act(live, actions)` carries out what an incarnation says, `born(live)` is told when it has a process, `hear(live,
    value, fds)` of each packet on its channel."""

    def __init__(
        self,
        root: Root,
        act: Callable[[Live, list[Action]], None],
        born: Callable[[Live], None],
        hear: Callable[[Live, Any, list[int]], None],
    ) -> None:
        self._root, self._loop = root, root.loop
        self._act, self._born, self._hear = act, born, hear
        self._pid = os.getpid()
        self._base = root.environment()
        self.native = NativeSpawner(self._base)
        self._plans: dict[str, tuple[Launch, Plan | None]] = {}

    def begin(self, live: Live) -> None:
        """Make its process, now or when there is a blank."""
        what = live.launch
        try:
            live.output = self._root.logger.open(live.name, live.generation)
        except OSError as error:
            self._act(live, live.incarnation.launch_failed(f"no pipe for its output: {error.strerror}"))
            return
        # To look up a user may ask a directory service: a blank does that, root never waits for one.
        is_program = what.command is not None and what.kind == "program" and what.user is None
        try:
            plan = self._plan(live) if is_program else None
        except launch.LaunchError as error:
            self._act(live, live.incarnation.launch_failed(str(error)))
            return
        if plan is not None or (is_program and not self._root.zygote.blanks):
            self._exec(live, plan)
        else:
            self._root.zygote.take(live, lambda blank: self._assign(live, blank))

    def settle(self, live: Live) -> None:
        """It is dead; what its start has left unsaid is said now."""
        if live.errors >= 0:
            self._exec_went(live)
        self._has_execed(live)

    def forget(self, path: str) -> None:
        """The child was deleted."""
        self._plans.pop(path, None)

    def job(self, live: Live) -> launch.Job:
        """LaunchError when there can be no socket for its notifications."""
        what = live.launch
        if what.limits.files is None:
            what = replace(what, limits=replace(what.limits, files_soft=self._root.usual_files))
        notify = self._notify_address(live) if what.ready == "notify" or _beats_by_notify(what) else None
        if notify is not None and what.watchdog is not None:
            what = replace(what, env={**what.env, "WATCHDOG_USEC": str(int(what.watchdog * 1e6))})
        node_id, credentials = self._root.node_id, live.credentials
        return launch.job_of(what, live.name, live.generation, node_id, self._pid, live.cgroup, notify, credentials)

    def _notify_address(self, live: Live) -> str:
        try:
            return self._root.notify.address(live.path, live.launch.user is not None)
        except OSError as error:
            raise launch.LaunchError(f"no socket for sd_notify: {error.strerror}") from error

    # --- exec by root ---

    def _plan(self, live: Live) -> Plan | None:
        """How root execs it at once; made again when the launch is another one. None: a blank or a fork shall do it."""
        what, plan = self._plans.get(live.path, (None, None))
        if what is not live.launch:
            plan = self.native.plan(self.job(live))
            if live.launch.user is None:
                self._plans[live.path] = live.launch, plan
        return plan if plan is not None and self.native.takes(plan) else None

    def _exec(self, live: Live, plan: Plan | None) -> None:
        """The tree hears of it in a turn of its own, so that a thousand starts, or failures, can't hold the loop up."""
        live.leaf = self._root.fresh_cgroup()
        try:
            if plan is None:
                spawned = execspawn.spawn(self.job(live), live.output, self._base)
            else:
                spawned = self.native.spawn(plan, live.generation, live.output, live.leaf)
        except (execspawn.SpawnError, launch.LaunchError) as error:
            why = str(error)[:REASON_LIMIT]
            live.remove_cgroup(self._loop)
            self._loop.after(0.0, lambda: self._act(live, live.incarnation.launch_failed(why)))
            return
        if live.leaf is not None:
            self._loop.defer(live.leaf.born)
        self._adopt(live, spawned.pid, spawned.pidfd)
        live.errors, live.execed = spawned.error_fd, spawned.error_fd < 0
        if live.execed:
            self._loop.after(0.0, lambda: self._has_execed(live))
        else:
            self._loop.add(live.errors, READ, lambda _mask: self._exec_went(live))

    def _has_execed(self, live: Live) -> None:
        if live.execed:
            live.execed = False
            self._act(live, live.incarnation.set_up())

    def _exec_went(self, live: Live) -> None:
        """End of file: exec has happened. Else the one line that says why not."""
        text = os.read(live.errors, 4096)
        live.close_errors(self._loop)
        incarnation = live.incarnation
        self._act(live, incarnation.failed(text.decode(errors="replace")) if text else incarnation.set_up())

    # --- a blank ---

    def _assign(self, live: Live, blank: Blank) -> None:
        live.credentials = self._root.link.credentials(live)
        try:
            spares.assign(blank.channel, self.job(live), live.output)
        except launch.LaunchError as error:
            sweep.ask(blank.pidfd, signal.SIGKILL)
            if isinstance(error.__cause__, ConnectionError):  # somebody killed the blank: no fault of the child's
                blank.close()
                self._root.zygote.take(live, lambda other: self._assign(live, other))
                return
            live.incarnation.failed(str(error)[:REASON_LIMIT])
        live.channel = Channel(
            self._loop, blank.channel, lambda value, fds: self._hear(live, value, fds), lambda: self._hung_up(live)
        )
        live.leaf = None if blank.cgroup is None else cgroup.Leaf(blank.cgroup)
        self._adopt(live, blank.pid, blank.pidfd)

    def _hung_up(self, live: Live) -> None:
        """A program's channel closes at exec; an agent's, when it ends or closes what it should not."""
        if live.launch.kind == "program" and live.launch.command is not None and live.incarnation.cause is None:
            self._act(live, live.incarnation.set_up())

    def _adopt(self, live: Live, pid: int, pidfd: int) -> None:
        live.pid, live.pidfd, live.began = pid, pidfd, self._loop.now
        self._born(live)
        self._act(live, live.incarnation.launched())


def _beats_by_notify(what: Launch) -> bool:
    return what.watchdog is not None and what.kind == "program"
