"""Timers of agents, with the real scheduler in memory: declared and one-shot ones, their handlers, their ends."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from otpd.agents import Agent, BadArguments, CallTimeout, NoMethod, Reject, call, cron, every, testing, testing_scheduler
from otpd.agents.conversation import Conversation
from otpd.agents.services.scheduler import service
from otpd.agents.timed import FIRE, SCHEDULER
from otpd.ipc.endpoint import Address
from tests.agents.scenes import scene


class Ticker(Agent):
    async def init(self) -> None:
        self.seen: list[str] = []

    @every("10s")
    async def tick(self) -> None:
        self.seen.append("tick")

    @cron("0 * * * *")
    def hourly(self) -> None:
        self.seen.append("hourly")

    async def remind(self, who: str, n: int = 1) -> None:
        self.seen.append(f"{who} {n}")

    @call
    async def later(self, who: str) -> str:
        return await self.schedule(after="5s", method="remind", who=who)

    @call
    def from_a_thread(self, who: str) -> bool:
        return self.sync.cancel(self.sync.schedule(after=5, method="remind", who=who))


@scene
async def test_declared_schedules_run_between_messages_on_the_clock_that_jumps() -> None:
    async with testing.run(Ticker) as ticker:
        await asyncio.sleep(65)
        assert ticker.instance.seen.count("tick") == 6
        await asyncio.sleep(3600)
        assert ticker.instance.seen.count("hourly") in (1, 2), "the wall clock begins somewhere in an hour"
        assert (ticker.calls, ticker.monitors) == ([], []), "what it says to the scheduler is nobody's business"


@scene
async def test_a_timer_runs_once_with_its_arguments_and_not_when_it_was_cancelled() -> None:
    async with testing.run(Ticker) as ticker:
        first, second = await ticker.call("later", who="ann"), await ticker.call("later", who="bob")
        assert first.startswith("ticker/remind/") and first != second
        assert await ticker.instance.cancel(second)
        assert not await ticker.instance.cancel(second)
        await asyncio.sleep(6)
        assert ticker.instance.seen == ["ann 1"]
        assert not await ticker.instance.cancel(first), "it has run"


class Meddler(Agent):
    async def init(self) -> None:
        self.timer = await self.schedule(after="1h", method="rest")

    async def rest(self) -> None: ...

    @call
    async def order(self, what: str, id: str) -> None:
        await self.call("scheduler", what, id=id)


@scene
@pytest.mark.parametrize("what", ["pause", "resume", "run_now"])
async def test_an_agent_touches_its_own_schedules_and_none_of_others(what: str) -> None:
    async with testing.run(Meddler) as meddler:
        await meddler.call("order", what=what, id=meddler.instance.timer)
        taught = "meddler may run, pause and resume what begins with meddler/, got ticker/tick; .*otpd schedule"
        with pytest.raises(Reject, match=taught):
            await meddler.instance.order(what, "ticker/tick")


@scene
async def test_a_timer_at_a_time_of_day_and_one_of_a_key() -> None:
    async with testing.run(Ticker) as ticker:
        agent = ticker.instance
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=3)
        await agent.schedule(at=soon, method="remind", who="at")
        for n in (1, 2, 3):
            await agent.schedule(after=4, method="remind", key="poll", who="key", n=n)
        await asyncio.sleep(9)
        assert agent.seen == ["at 1", "key 3"]


@scene
async def test_plain_handlers_have_the_verbs_too() -> None:
    async with testing.run(Ticker) as ticker:
        assert await ticker.call("from_a_thread", who="x")


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"method": "remin", "after": 1}, NoMethod, "no method of its own named 'remin'; did you mean remind?"),
        ({"method": "schedule", "after": 1}, NoMethod, "no method of its own named 'schedule'"),
        ({"method": "remind", "after": 1}, BadArguments, "ticker.remind, argument who: expected str, got nothing"),
        ({"method": "tick"}, BadArguments, 'expected one of after="5m" and at=datetime, got none'),
        ({"method": "tick", "after": "5 parsecs"}, BadArguments, "after: expected a duration"),
        ({"method": "tick", "at": datetime.datetime(2026, 1, 1)}, BadArguments, "expected a datetime with a time zone"),
    ],
)  # fmt: skip
def test_what_could_not_run_is_refused_where_it_is_said(wrong: dict[str, Any], error: type[Exception], said: str) -> None:
    async def play() -> None:
        async with testing.run(Ticker) as ticker:
            with pytest.raises(error, match=said.replace("(", r"\(")):
                await ticker.instance.schedule(**wrong)

    asyncio.run(play())


def test_a_method_with_parameters_can_t_be_declared_and_neither_can_a_wrong_plan() -> None:
    with pytest.raises(TypeError, match="expected no parameter but self, time has none"):

        class _Wrong(Agent):
            @every("1s")
            async def tick(self, n: int) -> None: ...

    with pytest.raises(ValueError, match="every: expected a duration of at least 10ms"):
        every("1ms")
    with pytest.raises(ValueError, match=r"every, overlap: expected one of skip, queue\(n\), allow, kill_previous"):
        every("1s", overlap="queue")
    with pytest.raises(ValueError, match="cron: expected five fields"):
        cron("soon")


@scene
async def test_a_handler_that_raises_is_a_crash_and_one_that_rejects_is_none() -> None:
    class Angry(Agent):
        done = 0

        @every("10s")
        async def no(self) -> None:
            raise Reject("not today")

        @every("25s")
        async def crash(self) -> None:
            self.done = 1
            raise ValueError("too much")

    async with testing.run(Angry) as angry:
        assert await angry.ended() == "error(ValueError: too much)"
        assert angry.elapsed == pytest.approx(25, abs=1)


@scene
async def test_a_run_that_overlaps_is_skipped_and_messages_are_handled_in_between() -> None:
    class Slow(Agent):
        async def init(self) -> None:
            self.begun: list[float] = []

        @every("10s")
        async def work(self) -> None:
            self.begun.append(asyncio.get_running_loop().time())
            await asyncio.sleep(15)

        @call
        async def count(self) -> int:
            return len(self.begun)

    async with testing.run(Slow) as slow:
        await asyncio.sleep(61)
        assert await slow.call("count", timeout=20) == 3, "at 10, 30 and 50 s"


@scene
async def test_a_run_that_takes_too_long_is_cancelled_and_its_agent_lives() -> None:
    class Long(Agent):
        async def init(self) -> None:
            self.ends: list[str] = []

        @every("10s", max_runtime="2s")
        async def work(self) -> None:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.ends.append("cancelled")
                raise

    async with testing.run(Long) as long:
        await asyncio.sleep(35)
        assert long.instance.ends == ["cancelled"] * 3


@scene
async def test_one_that_goes_on_after_it_was_cancelled_is_a_crash() -> None:
    class Deaf(Agent):
        @every("10s", overlap="kill_previous")
        async def work(self) -> None:
            for _ in range(2):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(3600)

    async with testing.run(Deaf) as deaf:
        reason = await deaf.ended()
        assert reason.startswith("error(TimeoutError: deaf/work: went on 5 s after it was cancelled;")
        assert deaf.elapsed == pytest.approx(25, abs=1)


@scene
async def test_a_new_broker_changes_nothing_and_a_run_that_goes_on_is_not_begun_again() -> None:
    class Slow(Agent):
        async def init(self) -> None:
            self.begun: list[int] = []

        @every("10s")
        async def work(self) -> None:
            self.begun.append(round(slow.elapsed))
            await asyncio.sleep(7)

    slow = testing.run(Slow)
    async with slow:
        while slow.elapsed < 60:
            await asyncio.sleep(3)
            await slow.new_broker()
        assert slow.instance.begun[:6] == [10, 20, 30, 40, 50, 60]


@scene
async def test_the_death_of_the_scheduler_ends_no_run_and_the_next_one_hears_of_its_end() -> None:
    class Slow(Agent):
        async def init(self) -> None:
            self.ends: list[str] = []

        async def toil(self) -> None:
            await asyncio.sleep(60)
            self.ends.append("done")

    async with testing.run(Slow) as slow:
        run = {"id": "slow/toil/1", "run": 1, "method": "toil", "args": b""}
        asked = asyncio.create_task(scheduler(slow).call(Address("slow"), FIRE, run | {"only": None}, None))
        await asyncio.sleep(1)
        asked.cancel()
        slow._node.died(SCHEDULER, "killed")
        answer = await scheduler(slow).call(Address("slow"), FIRE, run | {"only": 1}, None)
        assert (answer, slow.instance.ends) == ({"outcome": "done"}, ["done"])


def scheduler(of: testing.Running[Any]) -> Conversation:
    """An incarnation of it that a test speaks for."""
    conversation, _ = of.join_service(SCHEDULER)
    of.service_ready(SCHEDULER)
    return conversation


@scene
async def test_schedules_are_described() -> None:
    async with testing.run(Ticker) as ticker:
        described = await ticker.call("otpd.describe")
        plans = [(each["name"], each["plan"]) for each in described["schedules"]]
        assert plans == [("tick", "every 10s"), ("hourly", "cron 0 * * * * (UTC)")]


@scene
async def test_a_wrong_declaration_is_refused_and_the_scheduler_lives() -> None:
    plan = {"kind": "cron", "expression": "bad", "rules": {}, "timezone": "UTC"}
    wrong = {"id": "ticker/x", "method": "x", "plan": plan, "since": 0, "last": None, "ended": None, "running": []}
    async with testing.run(Ticker) as ticker:
        with pytest.raises(Reject, match="expected five fields"):
            await ticker.instance.call("scheduler", "declare", schedules=[wrong])
        await ticker.call("later", who="ann")
        await asyncio.sleep(6)
        assert ticker.instance.seen == ["ann 1"], "its own schedules and timers go on"


class HeldDisk:
    """Writes when it is told to, in order, as one thread does."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[str | None], None]] = []

    def write(self, _changes: Any, then: Callable[[str | None], None]) -> None:
        self.waiting.append(then)

    def end(self, why: str | None = None) -> None:
        """That of the first."""
        self.waiting.pop(0)(why)

    def close(self) -> None: ...


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> HeldDisk:
    made = HeldDisk()
    monkeypatch.setattr(testing_scheduler.MemoryScheduler, "_keeper", lambda _self, _state_dir: made)
    return made


class Reminder(Agent):
    async def init(self) -> None:
        self.seen: list[str] = []

    async def remind(self, who: str) -> None:
        self.seen.append(who)


async def said_twice(reminder: testing.Running[Reminder], question: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """The broker dies while the first one waits for the disk, and the SDK says it again."""
    task = asyncio.create_task(question)
    await asyncio.sleep(1)
    await reminder.new_broker()
    await asyncio.sleep(1)
    return task


def soon() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)


@scene
async def test_a_timer_that_is_said_again_is_accepted_only_when_it_is_on_disk(disk: HeldDisk) -> None:
    async with testing.run(Reminder) as reminder:
        setting = await said_twice(reminder, reminder.instance.schedule(at=soon(), method="remind", who="ann"))
        assert (setting.done(), len(disk.waiting)) == (False, 1)
        disk.end()
        assert (await setting).startswith("reminder/remind/")
        await asyncio.sleep(3700)
        assert len(disk.waiting) == 1, "its run waits for the disk"
        disk.end()
        await asyncio.sleep(1)
        assert reminder.instance.seen == ["ann"]


@scene
async def test_a_timer_that_is_said_again_is_refused_when_its_write_fails(disk: HeldDisk) -> None:
    async with testing.run(Reminder) as reminder:
        setting = await said_twice(reminder, reminder.instance.schedule(at=soon(), method="remind", who="ann"))
        disk.end("disk full")
        with pytest.raises(Reject, match="it can't be kept: disk full"):
            await setting
        await asyncio.sleep(3700)
        assert reminder.instance.seen == []


@scene
async def test_a_timer_that_replaces_one_whose_write_fails_goes_on(disk: HeldDisk) -> None:
    async with testing.run(Reminder) as reminder:
        agent = reminder.instance
        first = asyncio.create_task(agent.schedule(after="1h", key="k", method="remind", who="ann"))
        await asyncio.sleep(1)
        second = asyncio.create_task(agent.schedule(after="1h", key="k", method="remind", who="bob"))
        await asyncio.sleep(1)
        disk.end("disk full")
        disk.end()
        with pytest.raises(Reject, match="disk full"):
            await first
        assert await second == "reminder/remind/k"
        await asyncio.sleep(3700)
        disk.end()
        await asyncio.sleep(1)
        assert agent.seen == ["bob"]


@scene
async def test_cancel_that_is_said_again_has_the_answer_of_the_first_when_that_is_on_disk(disk: HeldDisk) -> None:
    async with testing.run(Reminder) as reminder:
        setting = asyncio.create_task(reminder.instance.schedule(at=soon(), method="remind", who="ann"))
        await asyncio.sleep(1)
        disk.end()
        id_ = await setting
        cancelling = await said_twice(reminder, reminder.instance.cancel(id_))
        assert (cancelling.done(), len(disk.waiting)) == (False, 2)
        disk.end()
        disk.end()
        assert await cancelling is True
        another = asyncio.create_task(reminder.instance.cancel(id_))
        await asyncio.sleep(1)
        disk.end()
        assert await another is False, "another question"


@pytest.mark.parametrize("what", ["root", "broker"])
def test_what_has_become_of_a_name_is_asked_until_somebody_says_it(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Root, or the broker, does not say it the first time: the name's schedules go all the same when it is known."""
    asked: list[str] = []

    def node_stops() -> bool:
        asked.append("root")
        return asked == ["broker", "root"] and what == "root"

    async def whereis(_name: str) -> None:
        asked.append("broker")
        if asked == ["broker"] and what == "broker":
            raise CallTimeout("it stands still")

    async def play() -> None:
        async with testing.run(Ticker) as ticker:
            await ticker.call("later", who="ann")
            host = ticker._scheduler._host
            assert host is not None
            scheduler: Any = host.agent
            monkeypatch.setattr(service, "_node_stops", node_stops)
            monkeypatch.setattr(scheduler, "whereis", whereis)
            scheduler._look("ticker")
            deadline = time.monotonic() + 30
            while "ticker" in scheduler._table.machine.owners:
                assert time.monotonic() < deadline, asked
                await asyncio.sleep(1)

    asyncio.run(play())
    assert asked == {"root": ["broker", "root"] * 2, "broker": ["broker", "broker", "root"]}[what]


def test_who_speaks_while_it_is_asked_for_keeps_its_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody had the name when the broker answered; it is there when root has said that the node goes on."""

    async def play() -> None:
        async with testing.run(Ticker) as ticker:
            timer = await ticker.call("later", who="ann")
            host = ticker._scheduler._host
            assert host is not None
            scheduler: Any = host.agent
            machine, whereis = scheduler._table.machine, scheduler.whereis
            answers: list[Any] = [None]

            async def answered(name: str) -> Any:
                return answers.pop() if answers else await whereis(name)

            async def speaks_meanwhile() -> bool:
                machine.presence("ticker", "ready", ticker.instance.generation + 1, scheduler._now())
                return False

            monkeypatch.setattr(scheduler, "whereis", answered)
            monkeypatch.setattr(scheduler, "_node_is_stopping", speaks_meanwhile)
            machine.presence("ticker", "restarting", ticker.instance.generation, scheduler._now())
            await scheduler._ask("ticker")
            await asyncio.gather(*scheduler._looking)
            assert (answers, timer in machine.jobs) == ([], True)

    asyncio.run(play())
