"""What becomes of messages at an agent: dispatch, one at a time, refusals that teach, crashes."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest

from otpd.agents import (
    Agent,
    BadArguments,
    CallTimeout,
    Event,
    Exited,
    NoMethod,
    Reject,
    RemoteError,
    call,
    cast,
    on,
    testing,
)
from tests.agents.scenes import scene


class Inventory(Agent):
    """Keeps the stock of one warehouse."""

    def init(self, warehouse: str = "main") -> None:
        self.warehouse = warehouse
        self.stock = {"A": 10}
        self.seen: list[Any] = []
        self.threads: list[bool] = []

    @call
    async def reserve(self, sku: str, n: int = 1) -> int:
        """Take `n` of `sku`."""
        if n > self.stock[sku]:
            raise Reject("sold out", data={"left": self.stock[sku]})
        self.stock[sku] -= n
        return self.stock[sku]

    @call
    def count(self) -> int:
        self.threads.append(threading.current_thread() is threading.main_thread())
        return sum(self.stock.values())

    @call
    async def crash(self) -> None:
        raise RuntimeError("no luck")

    @call
    async def give(self, what: str) -> Any:
        return {"set": {1}, "none": None, "deep": [{"x": [1.5, b"y"]}]}[what]

    @cast
    async def restock(self, sku: str, n: int) -> None:
        self.stock[sku] = self.stock.get(sku, 0) + n

    @cast
    async def fail(self, how: str) -> None:
        raise Reject(how) if how == "reject" else ValueError(how)

    @cast
    async def slow(self, name: str) -> None:
        self.seen.append(f"{name} begins")
        await asyncio.sleep(1)
        self.seen.append(f"{name} ends")

    @on("orders.*.cancelled")
    async def cancelled(self, event: Event) -> None:
        self.seen.append((event.topic, event.sku, event.source))

    @on("orders.**")
    def any_order(self, event: Event) -> None:
        self.seen.append(("any", event["sku"]))


@scene
async def test_a_call_gives_what_the_handler_returns() -> None:
    async with testing.run(Inventory, warehouse="north") as inventory:
        assert await inventory.call("reserve", sku="A", n=3) == 7
        assert await inventory.call("reserve", sku="A") == 6
        assert await inventory.call("give", what="none") is None
        assert await inventory.call("give", what="deep") == [{"x": [1.5, b"y"]}]
        assert inventory.instance.warehouse == "north"


@scene
async def test_a_cast_is_handled_and_gives_nothing() -> None:
    async with testing.run(Inventory) as inventory:
        assert await inventory.cast("restock", sku="B", n=2) is None  # type: ignore[func-returns-value]
        assert inventory.instance.stock == {"A": 10, "B": 2}


@scene
async def test_an_event_reaches_every_handler_whose_pattern_it_meets() -> None:
    async with testing.run(Inventory) as inventory:
        await inventory.publish("orders.7.cancelled", sku="A")
        await inventory.publish("orders.8.created", sku="B")
        await inventory.publish("other.8.cancelled", sku="C")
        assert inventory.instance.seen == [("orders.7.cancelled", "A", "@test"), ("any", "A"), ("any", "B")]


@scene
async def test_handlers_run_one_at_a_time_in_the_order_of_arrival() -> None:
    async with testing.run(Inventory) as inventory:
        other = inventory.peer("other")
        for name in ("first", "second"):
            await other.cast("inventory", "slow", name=name)
        await inventory.settle()
        assert inventory.instance.seen == ["first begins", "first ends", "second begins", "second ends"]


@scene
async def test_a_plain_handler_runs_in_a_thread_and_the_loop_goes_on() -> None:
    class Sleeper(Agent):
        async def init(self) -> None:
            self.naps, self.beaten = threading.Event(), threading.Event()
            self.task = asyncio.create_task(self.beat())

        async def beat(self) -> None:
            while not self.naps.is_set():
                await asyncio.sleep(0)
            self.beaten.set()

        @call
        def nap(self) -> bool:
            self.naps.set()
            return self.beaten.wait(60)

    async with testing.run(Sleeper) as sleeper:
        assert await sleeper.call("nap") is True


@scene
async def test_plain_handlers_share_one_thread_that_is_not_the_main_one() -> None:
    async with testing.run(Inventory) as inventory:
        assert (await inventory.call("count"), await inventory.call("count")) == (10, 10)
        assert inventory.instance.threads == [False, False]


@pytest.mark.parametrize(
    ("method", "args", "kind", "text"),
    [
        (
            "reserve", {"sku": 5}, BadArguments,
            "inventory.reserve, argument sku: expected str, got int (5); it takes (sku: str, n: int = 1) -> int",
        ),
        (
            "reserve", {}, BadArguments,
            "inventory.reserve, argument sku: expected str, got nothing; it takes (sku: str, n: int = 1) -> int",
        ),
        (
            "reserve", {"sku": "A", "skus": 1}, BadArguments,
            "inventory.reserve, argument skus: expected one of sku, n, got skus; did you mean sku?; "
            "it takes (sku: str, n: int = 1) -> int",
        ),
        (
            "reserv", {}, NoMethod,
            "inventory: no call named 'reserv'; did you mean reserve? calls: reserve, count, crash, give",
        ),
        ("restock", {}, NoMethod, "inventory: restock is a cast, not a call; use the verb cast"),
        ("init", {}, NoMethod, "inventory: no call named 'init'; calls: reserve, count, crash, give"),
    ],
)  # fmt: skip
@scene
async def test_a_call_that_does_not_fit_is_answered_and_nothing_has_run(
    method: str, args: dict[str, Any], kind: type[Exception], text: str
) -> None:
    async with testing.run(Inventory) as inventory:
        with pytest.raises(kind) as caught:
            await inventory.call(method, **args)
        assert (str(caught.value), caught.value.executed) == (text, "no")  # type: ignore[attr-defined]
        assert await inventory.call("count") == 10


@scene
async def test_a_cast_that_does_not_fit_is_logged_and_counted_and_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    async with testing.run(Inventory) as inventory:
        for args in ({"sku": "A", "n": "x"}, {"sku": "A"}, {}):
            await inventory.cast("restock", **args)
        await inventory.cast("reserve", sku="A")
        assert (await inventory.call("otpd.describe"))["counts"] == {"casts dropped": 4}
    assert caplog.messages == ["cast from @test dropped: inventory.restock, argument n: expected int, got str ('x')"]


@scene
async def test_a_second_line_of_the_same_kind_comes_later_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    async with testing.run(Inventory) as inventory:
        for _ in range(3):
            await inventory.cast("nothing")
        await asyncio.sleep(6)
        await inventory.cast("nothing")
    assert caplog.messages == [
        "cast from @test dropped: inventory: no cast named 'nothing'; casts: restock, fail, slow",
        "cast from @test dropped: inventory: no cast named 'nothing'; casts: restock, fail, slow "
        "[3 casts dropped since the last such line]",
    ]


@scene
async def test_reject_is_an_answer_with_data_and_the_agent_lives() -> None:
    async with testing.run(Inventory) as inventory:
        with pytest.raises(Reject, match="sold out") as caught:
            await inventory.call("reserve", sku="A", n=11)
        assert (caught.value.data, caught.value.executed) == ({"left": 10}, "maybe")
        await inventory.cast("fail", how="reject")
        assert await inventory.call("count") == 10


@scene
async def test_a_call_whose_handler_raises_tells_its_caller_and_crashes_the_agent() -> None:
    async with testing.run(Inventory) as inventory:
        with pytest.raises(RemoteError) as caught:
            await inventory.call("crash")
        error = caught.value
        assert (error.type, error.message, error.executed) == ("RuntimeError", "no luck", "maybe")
        lines = error.traceback.splitlines()
        assert lines[0] == "Traceback (most recent call last):" and lines[1].endswith("in crash")
        assert await inventory.ended() == "error(RuntimeError: no luck)"


@scene
async def test_those_who_wait_behind_a_crash_learn_of_the_death() -> None:
    async with testing.run(Inventory) as inventory:
        other = inventory.peer("other")
        crash = asyncio.ensure_future(other.call("inventory", "crash"))
        behind = asyncio.ensure_future(other.call("inventory", "count"))
        with pytest.raises(RemoteError):
            await crash
        with pytest.raises(Exited) as caught:
            await behind
        assert (caught.value.reason, caught.value.executed) == ("error(RuntimeError: no luck)", "maybe")
        await inventory.ended()


@scene
async def test_a_cast_whose_handler_raises_crashes_the_agent() -> None:
    async with testing.run(Inventory) as inventory:
        await inventory.cast("fail", how="badly")
        assert await inventory.ended() == "error(ValueError: badly)"


@scene
async def test_a_result_that_is_no_data_is_the_fault_of_the_handler() -> None:
    async with testing.run(Inventory) as inventory:
        with pytest.raises(RemoteError) as caught:
            await inventory.call("give", what="set")
        assert caught.value.type == "NotData"
        assert caught.value.message == (
            "the result of inventory.give, its value: expected data, got set ({1}); send a list"
        )
        await inventory.ended()


@scene
async def test_a_call_whose_deadline_has_passed_while_it_waited_is_not_handled() -> None:
    async with testing.run(Inventory) as inventory:
        other = inventory.peer("other")
        await other.cast("inventory", "slow", name="first")
        await asyncio.sleep(0.1)
        with pytest.raises(CallTimeout) as caught:
            await inventory.call("reserve", timeout=0.5, sku="A")
        assert caught.value.executed == "maybe"
        await inventory.settle()
        assert inventory.instance.stock == {"A": 10}
        assert (await inventory.call("otpd.describe"))["counts"] == {"calls that nobody waited for any more": 1}


@scene
async def test_what_a_call_is_and_whether_its_caller_still_waits_can_be_seen() -> None:
    class Patient(Agent):
        async def init(self) -> None:
            self.seen: list[Any] = [self.current]

        @call
        async def wait(self) -> None:
            assert self.current is not None
            self.seen.append((self.current.caller, self.current.generation, self.current.cancelled))
            await asyncio.sleep(2)
            self.seen.append(self.current.cancelled)

    async with testing.run(Patient) as patient:
        caller = patient.peer("caller")
        task = asyncio.ensure_future(caller.call("patient", "wait", timeout=None))
        await asyncio.sleep(1)
        task.cancel()
        await patient.settle()
        assert patient.instance.seen == [None, ("caller", 1, False), True]


@scene
async def test_a_call_that_is_cancelled_while_it_waits_is_not_handled() -> None:
    async with testing.run(Inventory) as inventory:
        other = inventory.peer("other")
        await other.cast("inventory", "slow", name="first")
        task = asyncio.ensure_future(other.call("inventory", "reserve", sku="A"))
        await asyncio.sleep(0.1)
        task.cancel()
        await inventory.settle()
        assert inventory.instance.stock == {"A": 10}


@scene
async def test_describe_is_answered_while_a_handler_runs() -> None:
    async with testing.run(Inventory) as inventory:
        other = inventory.peer("other")
        await other.cast("inventory", "slow", name="first")
        await asyncio.sleep(0.1)
        told = await inventory.call("otpd.describe")
        assert inventory.instance.seen == ["first begins"]
        assert (told["name"], told["generation"], told["class"]) == ("inventory", 1, "Inventory")
        assert told["doc"] == "Keeps the stock of one warehouse."
        assert told["calls"][0] == {
            "name": "reserve", "signature": "(sku: str, n: int = 1) -> int", "doc": "Take `n` of `sku`.",
        }  # fmt: skip
        assert [row["pattern"] for row in told["topics"]] == ["orders.*.cancelled", "orders.**"]
        await inventory.settle()


@scene
async def test_nothing_is_handled_before_init_has_returned() -> None:
    class Slow(Inventory):
        async def init(self, warehouse: str = "main") -> None:
            await asyncio.sleep(1)
            super().init(warehouse)
            self.seen.append("init")

    slow = testing.run(Slow, "inventory")
    other = slow.peer("other")
    async with slow:
        await slow.call("count")
        assert slow.instance.seen == ["init"] and other.calls == []


@scene
async def test_a_stop_waits_for_what_is_being_handled_and_for_nothing_else() -> None:
    class Stopping(Inventory):
        async def terminate(self, reason: str) -> None:
            self.seen.append(reason)

    async with testing.run(Stopping, "inventory") as inventory:
        other = inventory.peer("other")
        await other.cast("inventory", "slow", name="first")
        await other.cast("inventory", "slow", name="second")
        await asyncio.sleep(0.5)
        assert await inventory.stop() == "shutdown"
        assert inventory.instance.seen == ["first begins", "first ends", "shutdown"]


@pytest.mark.parametrize(("stop", "reason"), [((), "normal"), (("bored",), "bored")])
@scene
async def test_an_agent_stops_itself_after_what_it_does(stop: tuple[str, ...], reason: str) -> None:
    class Leaving(Agent):
        @call
        async def leave_now(self) -> str:
            self.stop(*stop)
            return "bye"

        async def terminate(self, reason: str) -> None:
            self.left = reason

    async with testing.run(Leaving) as leaving:
        assert await leaving.call("leave_now") == "bye"
        assert await leaving.ended() == reason
        assert leaving.instance.left == reason


@scene
async def test_a_task_that_fails_while_nobody_awaits_it_ends_what_is_being_handled() -> None:
    class Busy(Inventory):
        @cast
        async def start(self) -> None:
            self.task = asyncio.create_task(self.work())

        async def work(self) -> None:
            await asyncio.sleep(0.5)
            raise RuntimeError("in the background")

    async with testing.run(Busy, "inventory") as busy:
        await busy.cast("start")
        other = busy.peer("other")
        await other.cast("inventory", "slow", name="first")
        assert await busy.ended() == "error(RuntimeError: in the background)"
        assert busy.instance.seen == ["first begins"]


def test_a_parameter_that_the_verb_takes_for_itself_is_refused_with_the_class() -> None:
    with pytest.raises(TypeError, match=r"Slow.waits: the parameter timeout is one of the call's own and could not be sent"):

        class Slow(Agent):
            @call
            async def waits(self, timeout: float = 1.0) -> None: ...

    with pytest.raises(TypeError, match=r"Sure.take: the parameter confirm is one of the cast's own"):

        class Sure(Agent):
            @cast
            async def take(self, confirm: bool) -> None: ...


def test_a_handler_must_not_take_the_name_of_a_verb() -> None:
    with pytest.raises(TypeError, match=r"Wrong.publish: expected a name of your own for a @call method"):

        class Wrong(Agent):
            @call
            async def publish(self, topic: str) -> None: ...  # type: ignore[override]


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        ("@on('a.**.b')\n async def h(self, event): ...", "Wrong.h: expected .* only as the last word"),
        ("@on('a')\n async def h(self): ...", "Wrong.h: expected one parameter, the event"),
        ("@call\n async def h(self, a, /): ...", "Wrong.h: expected parameters that have names, got a"),
        ("@call\n async def h(self, *a): ...", r"Wrong.h: expected parameters that have names, got \*a"),
        ("@on(5)\n async def h(self, event): ...", "@on expects a pattern, got 5"),
        ("h = call(5)", "@call expects a method, got 5"),
    ],
)
def test_what_could_not_work_is_said_when_the_class_is_made(handler: str, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        exec(f"class Wrong(Agent):\n {handler}", {"Agent": Agent, "call": call, "on": on})


@scene
async def test_an_override_is_reached_without_a_mark_of_its_own() -> None:
    class Better(Inventory):
        async def reserve(self, sku: str, n: int = 1) -> int:
            return -n

    async with testing.run(Better, "inventory") as better:
        assert await better.call("reserve", sku="A", n=5) == -5


def test_an_agent_that_does_not_run_says_how_it_is_meant() -> None:
    with pytest.raises(RuntimeError, match=r"this Inventory is not running: put its script into otpd.toml, or in a test: "):
        Inventory().stop()


@scene
async def test_rubbish_from_another_language_is_no_crash(caplog: pytest.LogCaptureFixture) -> None:
    """Each is what a foreign agent could send; none of it may end this one."""
    from otpd.ipc.endpoint import Address
    from otpd.ipc.frames import pack

    caplog.set_level(logging.WARNING)
    async with testing.run(Inventory) as inventory:
        end = inventory.peer("other")._otpd.endpoint
        values = (5, [], [5, {}], [[], {}], ["restock", []], ["restock", {5: 1}])
        for body in (b"\xc1", *map(pack, values)):
            end.cast(Address("inventory"), body)
            end.call(Address("inventory"), body, 0, 0)
        await inventory.settle()
        assert await inventory.call("count") == 10


@scene
async def test_a_handler_that_meets_a_cancellation_of_its_own_making_is_a_crash_and_no_stop() -> None:
    """CancelledError is no Exception; left to itself it would end the agent as if it had been asked to."""

    class Cancelling(Agent):
        @call
        async def wait(self) -> None:
            task = asyncio.create_task(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(task.cancel)
            await task

        @cast
        async def wait_too(self) -> None:
            await self.wait()

    async with testing.run(Cancelling) as agent:
        with pytest.raises(RemoteError) as caught:
            await agent.call("wait")
        assert caught.value.type == "asyncio.exceptions.CancelledError"
        assert (await agent.ended()).startswith("error(RuntimeError: a handler awaited what somebody has cancelled")
    async with testing.run(Cancelling) as agent:
        await agent.cast("wait_too")
        assert (await agent.ended()).startswith("error(RuntimeError: a handler awaited what somebody has cancelled")


@scene
async def test_a_crash_of_a_task_ends_what_is_being_handled_and_its_caller_learns_the_reason() -> None:
    class Busy(Agent):
        @call
        async def start(self) -> None:
            self.task = asyncio.create_task(self.work())
            await asyncio.sleep(60)

        async def work(self) -> None:
            raise RuntimeError("beside")

    async with testing.run(Busy) as busy:
        with pytest.raises(Exited, match=r"error\(RuntimeError: beside\)"):
            await busy.call("start", timeout=None)
        await busy.ended()


@scene
async def test_a_crash_of_a_task_during_init_fails_the_start() -> None:
    class Starting(Agent):
        async def init(self) -> None:
            self.task = asyncio.create_task(self.work())
            await asyncio.sleep(60)

        async def work(self) -> None:
            raise RuntimeError("beside")

    with pytest.raises(RuntimeError, match="beside"):
        async with testing.run(Starting):
            raise AssertionError("it runs")


@scene
async def test_a_reject_whose_data_can_not_be_sent_is_the_fault_of_the_handler() -> None:
    class Rejecting(Agent):
        @call
        async def ask(self) -> None:
            raise Reject("no", data={1})

    async with testing.run(Rejecting) as agent:
        with pytest.raises(RemoteError) as caught:
            await agent.call("ask")
        assert caught.value.type == "NotData"
        await agent.ended()
