"""The health service: asks children whether they are well, looks at what they use and at the host, and tells root.

    otpd health [NAME] [--now]

Root says on a connection of its own who is to be watched (`rootline`); `ward` decides; questions are put by `asking`,
`commands` and, to agents, through the broker. What it finds it reports to root, which shows it and restarts under the normal
budget. It keeps nothing: its next incarnation looks anew.

Each question is a task of its own with its own deadline, so a slow check delays nobody, and whatever a check raises is an
answer about its child. A question that could not be put (no broker, no descriptor left) is no answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Mapping
from typing import Any, Literal

from otpd.agents import Agent, Reply, call, run
from otpd.agents.current import CURRENT
from otpd.agents.services.health import asking
from otpd.agents.services.health.alerts import DEFAULTS, Threshold
from otpd.agents.services.health.calling import CALL, Calls
from otpd.agents.services.health.commands import Command, user_of
from otpd.agents.services.health.host import PERIOD as HOST_PERIOD
from otpd.agents.services.health.host import Host
from otpd.agents.services.health.limits import Usage
from otpd.agents.services.health.probes import Ask, Drop, Verdict
from otpd.agents.services.health.rootline import RootLine
from otpd.agents.services.health.threads import Lookups
from otpd.agents.services.health.usage import Sampler, next_delay
from otpd.agents.services.health.ward import Effect, Report, Target, Ward


class Health(Agent):
    """Watches the health of children, what they use, and the host."""

    async def init(
        self, state_dir: str, alerts: Mapping[str, Mapping[str, float] | Literal[False]] | None = None
    ) -> None:
        self._ward = Ward(thresholds(alerts or {}))
        self._calls = Calls(self._otpd, lambda ask: self._ward.late(ask, self._now()))
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._lacking = False
        self._wake: asyncio.TimerHandle | None = None
        self._measured = asyncio.Event()
        self._hardware = Host(state_dir)
        self._readings: dict[str, float] = {}
        self._names, self._users = Lookups(asking.address_of), Lookups(user_of)
        self._root = RootLine(self)
        self._tasks = [asyncio.ensure_future(each) for each in (self._root.run(), self._sample(), self._look_at_host())]

    # --- what root says ---

    def heard(self, packet: list[Any]) -> None:
        self._carry_out(self._ward.heard(packet, self._now()))
        self._measured.set()

    def deaf(self, why: str) -> None:
        self.log.warning("root is not heard: %s", why)
        self._ward.deaf()

    # --- questions ---

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    self._begin(effect)
                case Drop(number):
                    if number in self._asking:
                        self._asking.pop(number).cancel()
                case Report(item):
                    self._root.report(*item)
        self._arm()

    def _begin(self, ask: Ask) -> None:
        """A port of this host answers at once: no task is needed for it, and there may be many."""
        verdict = self._at_once(ask)
        if verdict is None:
            self._asking[ask.number] = asyncio.ensure_future(self._ask(ask))
        else:
            self._answered(ask, verdict)

    def _at_once(self, ask: Ask) -> Verdict | None:
        match ask.plan.check:
            case ["tcp", str(host), int(port)]:
                try:
                    return asking.tcp_at_once(host, port)
                except OSError as error:
                    return asking.failed(error)
        return None

    def _answered(self, ask: Ask, verdict: Verdict) -> None:
        """What this process lacks is said once, until it has been able to ask again."""
        if verdict.passed is not None:
            self._lacking = False
        elif verdict.why.startswith(asking.LACKS) and not self._lacking:
            self._lacking = True
            self._root.report("problem", f"children are not asked: {verdict.why}")
        self._carry_out(self._ward.answered(ask, verdict, self._now()))

    def _arm(self) -> None:
        """One timer, for whatever is due next."""
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        at = self._ward.next
        if at is not None:
            self._wake = asyncio.get_running_loop().call_later(max(0.0, at - self._now()), self._due)

    def _due(self) -> None:
        self._carry_out(self._ward.due(self._now()))

    async def _ask(self, ask: Ask) -> None:
        CURRENT.set(None)  # who has asked for it now may give up sooner than the plan does
        verdict = await self._verdict(ask)
        self._asking.pop(ask.number, None)
        self._answered(ask, verdict)

    async def _verdict(self, ask: Ask) -> Verdict:
        try:
            if ask.plan.check == CALL:
                return await self._calls.put(ask)
            async with asyncio.timeout(ask.plan.timeout):
                return await self._put(ask)
        except TimeoutError:
            return self._ward.late(ask, self._now())
        except Exception as error:
            return asking.failed(error)

    def _put(self, ask: Ask) -> Coroutine[Any, Any, Verdict]:
        match ask.plan.check:
            case ["tcp", str(host), int(port)]:
                return asking.tcp(self._names, host, port)
            case ["http", str(url)]:
                return asking.http(self._names, url)
            case ["exec", list(argv), dict(env), str(cwd), user]:
                return self._run(argv, env, cwd, user)
        raise ValueError(f"no such check: {ask.plan.check!r}")

    async def _run(self, argv: list[str], env: dict[str, str], cwd: str, user: str | None) -> Verdict:
        command = Command(argv, env, cwd, None if user is None else await self._users.find(user))
        try:
            return await command.wait()
        finally:
            command.end()

    # --- what they use ---

    async def _sample(self) -> None:
        """In a thread, because a look at many processes takes its time."""
        sampler = Sampler(os.getppid())
        while True:
            await self._measured.wait()
            targets = self._ward.targets()
            if not targets:
                self._measured.clear()
                continue
            found, cost = await asyncio.to_thread(_timed_look, sampler, targets)
            for target, usage in found:
                self._carry_out(self._ward.sampled(target.name, target.generation, usage, self._now()))
            await asyncio.sleep(next_delay(cost))

    # --- the host ---

    async def _look_at_host(self) -> None:
        while True:
            self._readings = self._hardware.read()
            self._carry_out(self._ward.host(self._readings, self._now()))
            await asyncio.sleep(HOST_PERIOD)

    # --- what others ask ---

    @call
    async def check(self, names: list[str] | None = None) -> None:
        """As `report`, after all who are meant have answered a question that is put at once, or one that is out. It keeps
        nobody else waiting."""
        self._carry_out(self._ward.ask_now(names, self._now()))
        self._readings = self._hardware.read()
        rows = filter(None, map(self._ward.probes.row, self._ward.probes.names if names is None else names))
        under_way = [self._asking[row.asking] for row in rows if row.asking in self._asking]
        answering = asyncio.ensure_future(self._answer_after(under_way, self.defer(), names))
        self._answering.add(answering)
        answering.add_done_callback(self._answering.discard)

    async def _answer_after(self, questions: list[asyncio.Task[None]], reply: Reply, names: list[str] | None) -> None:
        if questions:
            await asyncio.wait(questions)
        if reply.waiting:
            reply.answer(self._shown(names))

    @call
    async def report(self, names: list[str] | None = None) -> dict[str, Any]:
        """What is known: of all who are watched, or of `names`; and of the host."""
        return self._shown(names)

    def _shown(self, names: list[str] | None) -> dict[str, Any]:
        return {
            "children": self._ward.rows(names, self._now()),
            "host": {condition: round(value, 1) for condition, value in self._readings.items()},
            "alerts": self._ward.raised,
        }

    @staticmethod
    def _now() -> float:
        """Root's clock, too."""
        return time.monotonic()


def thresholds(given: Mapping[str, Mapping[str, float] | Literal[False]]) -> dict[str, Threshold]:
    """The defaults with what the config says; false switches a condition off. One that is raised below where the default is
    cleared is cleared there, too."""
    found = dict(DEFAULTS)
    for condition, values in given.items():
        if values is False:
            del found[condition]
        else:
            before = DEFAULTS[condition]
            raise_at = values.get("raise", before.raise_at)
            clear_at = min(raise_at, values.get("clear", before.clear_at))
            found[condition] = Threshold(raise_at, clear_at, values.get("hold", before.hold))
    return found


def _timed_look(sampler: Sampler, targets: list[Target]) -> tuple[list[tuple[Target, Usage]], float]:
    """What is found, and the processor time that it took."""
    before = time.thread_time()
    found = sampler.look(targets)
    return found, time.thread_time() - before


if __name__ == "__main__":
    run(Health)
