"""What an agent says to others: each verb, its outcome and its errors, through the broker's own router in memory."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest

from otpd.agents import (
    Agent,
    AlreadyRegistered,
    BadArguments,
    BrokerLost,
    CallTimeout,
    Deadlock,
    Entry,
    Exited,
    NoProcess,
    NotData,
    Overloaded,
    Refused,
    Reject,
    RemoteError,
    TooLarge,
    Whereabouts,
    call,
    cast,
    testing,
)
from tests.agents.scenes import scene


class Shop(Agent):
    """Says what the test wants said: `act` runs a function of the test with this agent."""

    async def init(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self.gate = asyncio.Event()

    @call
    async def nothing(self) -> None: ...

    @cast
    async def hold(self) -> None:
        """Handled until the gate opens."""
        await self.gate.wait()

    async def handle_down(self, name: str, generation: int, reason: str) -> None:
        self.heard.append(("down", name, generation, reason))

    async def handle_up(self, name: str, generation: int) -> None:
        self.heard.append(("up", name, generation))

    async def handle_exit(self, name: str, generation: int, reason: str) -> None:
        self.heard.append(("exit", name, generation, reason))

    async def handle_rejected(self, name: str, method: str, reason: str) -> None:
        self.heard.append(("rejected", name, method, reason))


async def never(method: str, args: dict[str, Any]) -> None:
    await asyncio.get_running_loop().create_future()


def echo(method: str, args: dict[str, Any]) -> Any:
    return [method, args]


# --- calls ---


@scene
async def test_a_call_gives_the_result_of_the_other() -> None:
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", echo)
        assert await shop.instance.call("prices", "get", sku="A", name="n", method="m") == [
            "get", {"sku": "A", "name": "n", "method": "m"},
        ]  # fmt: skip
        assert prices.calls == [("get", {"sku": "A", "name": "n", "method": "m"})]


@scene
async def test_a_call_to_a_name_that_nobody_has_fails_at_once() -> None:
    """Rule 123."""
    async with testing.run(Shop) as shop:
        with pytest.raises(NoProcess, match=r"call of prices\.get: nobody has this name") as caught:
            await shop.instance.call("prices", "get", timeout=None)
        assert (caught.value.executed, shop.elapsed) == ("no", pytest.approx(0))


@scene
async def test_a_call_ends_at_its_deadline_and_the_late_reply_is_dropped() -> None:
    """D1, D5, D7, rule 122."""

    async def late(method: str, args: dict[str, Any]) -> str:
        await asyncio.sleep(6)
        return "late"

    async with testing.run(Shop) as shop:
        shop.peer("prices", late)
        with pytest.raises(CallTimeout, match=r"call of prices\.get: no answer within the deadline") as caught:
            await shop.instance.call("prices", "get")
        assert (caught.value.executed, round(shop.elapsed, 2)) == ("maybe", 5.0)
        await asyncio.sleep(2)
        assert await shop.instance.call("prices", "get", timeout=7) == "late"


@scene
async def test_a_call_without_a_timeout_waits_for_as_long_as_it_takes() -> None:
    """D7: infinity must be explicit."""

    async def late(method: str, args: dict[str, Any]) -> str:
        await asyncio.sleep(100_000)
        return "late"

    async with testing.run(Shop) as shop:
        shop.peer("prices", late)
        assert await shop.instance.call("prices", "get", timeout=None) == "late"


@scene
async def test_a_call_to_oneself_fails_at_once() -> None:
    """Rule 124."""
    async with testing.run(Shop) as shop:
        with pytest.raises(Deadlock) as caught:
            await shop.instance.call("shop", "nothing", timeout=None)
        assert caught.value.executed == "no"


@scene
async def test_the_death_of_the_other_ends_the_call_with_its_reason() -> None:
    """D6, rule 123."""
    async with testing.run(Shop) as shop:
        shop.peer("prices", never)
        task = asyncio.ensure_future(shop.instance.call("prices", "get", timeout=None))
        await asyncio.sleep(1)
        await shop.down("prices", "killed")
        with pytest.raises(Exited, match="killed") as caught:
            await task
        assert (caught.value.reason, caught.value.executed) == ("killed", "maybe")


@scene
async def test_nothing_is_tried_again_by_itself() -> None:
    """D8."""
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", never)
        task = asyncio.ensure_future(shop.instance.call("prices", "get", timeout=None))
        await asyncio.sleep(1)
        await shop.down("prices")
        await shop.up("prices")
        with pytest.raises(Exited):
            await task
        await asyncio.sleep(60)
        assert prices.calls == [("get", {})]


@scene
async def test_what_the_other_raises_or_rejects_reaches_the_caller() -> None:
    def answers(method: str, args: dict[str, Any]) -> None:
        raise Reject("not today", data=[1]) if method == "reject" else ValueError("bad")

    async with testing.run(Shop) as shop:
        shop.peer("prices", answers)
        with pytest.raises(Reject, match="not today") as rejected:
            await shop.instance.call("prices", "reject")
        assert rejected.value.data == [1]
        with pytest.raises(RemoteError) as remote:
            await shop.instance.call("prices", "get")
        assert (remote.value.type, remote.value.message) == ("ValueError", "bad")


@scene
async def test_a_nested_call_inherits_what_is_left_of_the_deadline() -> None:
    """D4."""

    class Middle(Agent):
        async def init(self) -> None:
            self.seen: list[Any] = []

        @call
        async def ask(self) -> Any:
            await asyncio.sleep(1)
            try:
                return await self.call("far", "get", timeout=60)
            except CallTimeout as error:
                self.seen.append((error.executed, asyncio.get_running_loop().time()))

    async with testing.run(Middle) as middle:
        middle.peer("far", never)
        begin = asyncio.get_running_loop().time()
        with pytest.raises(CallTimeout):
            await middle.call("ask", timeout=3)
        await middle.settle()
        [(executed, at)] = middle.instance.seen
        assert (executed, round(at - begin, 2)) == ("maybe", 3.0)


@scene
async def test_what_a_handler_asks_after_its_deadline_fails_at_once() -> None:
    class Middle(Agent):
        async def init(self) -> None:
            self.seen: list[Any] = []

        @call
        async def ask(self) -> None:
            await asyncio.sleep(4)
            for verb in (self.call("far", "get"), self.whereis("far"), self.cast("far", "put", confirm=True)):
                try:
                    await verb
                except CallTimeout as error:
                    self.seen.append((str(error), error.executed))

    async with testing.run(Middle) as middle:
        far = middle.peer("far", echo)
        with pytest.raises(CallTimeout):
            await middle.call("ask", timeout=3)
        await middle.settle()
        late = ": the call that it serves has passed its deadline; return"
        verbs = ("call of far.get", "whereis far", "cast to far.put")
        assert middle.instance.seen == [(f"{verb}{late}", "no") for verb in verbs]
        assert (far.calls, far.casts) == ([], [])


@scene
async def test_a_task_that_outlives_the_call_inherits_nothing() -> None:
    class Middle(Agent):
        @call
        async def start(self) -> None:
            self.task = asyncio.create_task(self.later())

        async def later(self) -> Any:
            await asyncio.sleep(10)
            return await self.call("far", "get")

    async with testing.run(Middle) as middle:
        middle.peer("far", echo)
        await middle.call("start", timeout=1)
        assert await middle.instance.task == ["get", {}]


@scene
async def test_a_cancelled_call_tells_the_other() -> None:
    """D5."""
    async with testing.run(Shop) as shop:
        other = shop.peer("other")
        waiting = asyncio.ensure_future(other.call("shop", "nothing", timeout=None))
        waiting.cancel()
        await shop.settle()
        assert (await shop.call("otpd.describe"))["counts"] in ({}, {"calls that nobody waited for any more": 1})


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ({"sku": {1}}, "call of prices.get, argument sku: expected data, got set ({1}); send a list"),
        (
            {"sku": "A", "order": {"items": [1, 2j]}},
            "call of prices.get, argument order['items'][1]: expected data, got complex (2j); send its fields as a dict",
        ),
        (
            {"n": 1 << 64},
            f"call of prices.get, argument n: expected data, got int ({1 << 64}); "
            "it needs more than 64 bits, send it as text",
        ),
    ],
)  # fmt: skip
@scene
async def test_what_is_no_data_is_refused_with_the_way_to_it(args: dict[str, Any], text: str) -> None:
    """DESIGN 9.10: only data crosses."""
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", echo)
        with pytest.raises(NotData) as caught:
            await shop.instance.call("prices", "get", **args)
        assert (str(caught.value), caught.value.executed) == (text, "no")
        assert prices.calls == []


@scene
async def test_what_is_too_large_is_refused_before_anything_is_sent() -> None:
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", echo)
        for verb in (shop.instance.call, shop.instance.cast):
            with pytest.raises(TooLarge, match="expected a message of at most 16777216 bytes"):
                await verb("prices", "get", blob=b"x" * (16 * 1024 * 1024))
        assert (prices.calls, prices.casts) == ([], [])


@pytest.mark.parametrize(("to", "timeout"), [(5, 1), (None, 1), ("prices", "soon"), ("prices", float("inf"))])
@scene
async def test_wrong_use_is_a_type_error(to: Any, timeout: Any) -> None:
    async with testing.run(Shop) as shop:
        with pytest.raises(TypeError, match="expected"):
            await shop.instance.call(to, "get", timeout)


@scene
async def test_a_name_that_is_no_utf8_is_refused_here_and_not_a_strike_at_the_broker() -> None:
    async with testing.run(Shop) as shop:
        for _ in range(4):
            with pytest.raises(ValueError, match=r"bytes of UTF-8, got '\\udcff'"):
                await shop.instance.call("\udcff", "get")
        assert await shop.call("nothing") is None


@scene
async def test_a_call_to_all_keeps_its_deadline_also_while_there_is_no_broker() -> None:
    async with testing.run(Shop) as shop:
        it = shop.instance
        it._otpd.endpoint.lost(it._otpd.clock())
        with pytest.raises(CallTimeout):
            await it.call(it.group("g", "all"), "get", timeout=0.5)
        assert shop.elapsed < 1


# --- casts ---


@scene
async def test_casts_arrive_in_order_and_once() -> None:
    """Rule 126, C1."""
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices")
        for n in range(500):
            await shop.instance.cast("prices", "put", n=n)
        await asyncio.sleep(0.1)
        assert prices.casts == [("put", {"n": n}) for n in range(500)]


@scene
async def test_a_cast_that_nobody_takes_reaches_handle_rejected() -> None:
    async with testing.run(Shop) as shop:
        await shop.instance.cast("nobody", "put", n=1)
        await shop.settle()
        assert shop.instance.heard == [("rejected", "nobody", "put", "noproc")]


@scene
async def test_by_default_a_rejected_cast_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Plain(Agent):
        pass

    async with testing.run(Plain) as plain:
        for n in range(3):
            await plain.instance.cast("nobody", "put", n=n)
        await plain.settle()
        assert (await plain.call("otpd.describe"))["counts"] == {"casts rejected": 3}
    assert caplog.messages == ["cast to nobody.put rejected: noproc"]


@scene
async def test_a_confirmed_cast_waits_for_the_brokers_word_and_raises_what_it_says() -> None:
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices")
        await shop.instance.cast("prices", "put", confirm=True, n=1)
        assert prices.casts == [("put", {"n": 1})]
        with pytest.raises(NoProcess, match=r"cast to nobody\.put") as caught:
            await shop.instance.cast("nobody", "put", confirm=True)
        assert caught.value.executed == "no"
        await shop.settle()
        assert shop.instance.heard == []


@scene
async def test_casts_to_a_name_that_restarts_are_buffered_and_the_next_incarnation_gets_them() -> None:
    """C3, C6."""
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", echo)
        await shop.down("prices")
        for n in range(3):
            await shop.instance.cast("prices", "put", n=n)
        asked = asyncio.ensure_future(shop.instance.call("prices", "get"))
        await asyncio.sleep(1)
        await shop.up("prices")
        assert await asked == ["get", {}]
        assert prices.casts == [("put", {"n": n}) for n in range(3)]


@scene
async def test_a_full_restart_buffer_rejects() -> None:
    """DESIGN 9.3: 100 messages by default."""
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        await shop.down("prices")
        for n in range(100):
            await shop.instance.cast("prices", "put", n=n)
        with pytest.raises(Overloaded):
            await shop.instance.cast("prices", "put", confirm=True, n=100)
        with pytest.raises(Overloaded):
            await shop.instance.call("prices", "get")


@scene
async def test_a_sender_that_outruns_the_broker_waits_for_room() -> None:
    """Backpressure: what waits here is bounded."""
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices")
        backlog = []
        for n in range(5000):
            await shop.instance.cast("prices", "put", n=n)
            backlog.append(shop.instance._otpd.endpoint._outbox.count)
        await asyncio.sleep(1)
        assert max(backlog) <= 1024
        assert [args["n"] for _, args in prices.casts] == list(range(5000))


@scene
async def test_an_event_is_published_and_a_topic_that_is_none_refused() -> None:
    async with testing.run(Shop) as shop:
        await shop.instance.publish("shop.sold", sku="A")
        assert shop.published == [("shop.sold", {"sku": "A"})]
        for topic in ("a..b", "a.*", "", 5):
            with pytest.raises(BadArguments, match="publish: "):
                await shop.instance.publish(topic)  # type: ignore[arg-type]
        for durable in (False, True):
            with pytest.raises(BadArguments, match="what begins with otpd"):
                await shop.instance.publish("otpd.child.death", durable=durable)
        await shop.instance.publish("otpd.emit.sold")
        assert [topic for topic, _ in shop.published] == ["shop.sold", "otpd.emit.sold"]


# --- proxies, groups ---


@scene
async def test_a_proxy_calls_and_casts_by_name() -> None:
    async with testing.run(Shop) as shop:
        prices = shop.peer("prices", echo)
        proxy = shop.instance.agent("prices", timeout=1)
        assert await proxy.get(sku="A") == ["get", {"sku": "A"}]
        await proxy.cast.put(n=1)
        await asyncio.sleep(0.1)
        assert prices.casts == [("put", {"n": 1})]
        with pytest.raises(TypeError, match=r"get: expected arguments by name, such as get\(sku='A'\)"):
            proxy.get("A")
        with pytest.raises(AttributeError):
            _ = proxy._private


@scene
async def test_a_group_is_called_by_any_all_or_key() -> None:
    """G2, G3."""
    async with testing.run(Shop) as shop:
        names = ["w1", "w2", "w3"]
        for name in names:
            peer = shop.peer(name, lambda method, args, name=name: name)  # type: ignore[misc]
            peer._otpd.endpoint.join("workers")
        await asyncio.sleep(0.1)
        it = shop.instance
        assert sorted(await it.members("workers")) == names
        assert await it.call(it.group("workers"), "who") in names
        assert await it.call(it.group("workers", "all"), "who") == {name: name for name in names}
        assert sorted([await it.call(it.group("workers", "round_robin"), "who") for _ in names]) == names
        assert len({await it.call(it.group("workers", key="k"), "who") for _ in range(5)}) == 1
        with pytest.raises(NoProcess):
            await it.call(it.group("nobody"), "who")
        with pytest.raises(NoProcess):
            await it.call(it.group("nobody", "all"), "who")


@scene
async def test_a_call_to_all_gives_an_error_for_each_member_that_fails() -> None:
    async with testing.run(Shop) as shop:
        shop.peer("w1", echo)._otpd.endpoint.join("workers")
        shop.peer("w2", never)._otpd.endpoint.join("workers")
        await asyncio.sleep(0.1)
        it = shop.instance
        found = await it.call(it.group("workers", "all"), "who", timeout=2)
        assert found["w1"] == ["who", {}] and isinstance(found["w2"], CallTimeout)
        assert shop.elapsed == pytest.approx(2.1, abs=0.05)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("w", "some"), "expected policy to be one of any, all, round_robin, least_loaded, hash, got 'some'"),
        (("w", "hash"), "expected a key with policy hash"), (("w", "all", "k"), "expected a key with policy hash"),
    ],
)  # fmt: skip
def test_a_group_that_could_not_work_is_refused(given: tuple[str, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Shop().group(*given)


@scene
async def test_an_agent_joins_and_leaves_a_group() -> None:
    async with testing.run(Shop) as shop:
        shop.instance.join("shops")
        await asyncio.sleep(0.1)
        assert await shop.instance.members("shops") == ["shop"]
        await shop.instance.leave("shops")
        await asyncio.sleep(0.1)
        assert await shop.instance.members("shops") == []


# --- deaths ---


@scene
async def test_a_monitor_gives_one_down_per_incarnation_with_its_reason() -> None:
    """H1, H3."""
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        shop.instance.monitor("prices")
        await shop.settle()
        await shop.down("prices", "error(bad)")
        await shop.up("prices")
        await shop.down("prices", "killed")
        assert shop.instance.heard == [("down", "prices", 1, "error(bad)")]
        assert shop.monitors == ["prices"]


@scene
async def test_a_monitor_of_a_name_that_nobody_has_is_down_at_once() -> None:
    """H2."""
    async with testing.run(Shop) as shop:
        assert await shop.instance.monitor("nobody") > 0
        await asyncio.sleep(0.1)
        await shop.settle()
        assert shop.instance.heard == [("down", "nobody", 0, "noproc")]


@scene
async def test_a_monitor_that_follows_hears_each_end_and_each_begin() -> None:
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        shop.instance.monitor("prices", follow=True)
        await shop.settle()
        await shop.down("prices")
        await shop.up("prices")
        assert shop.instance.heard == [("up", "prices", 1), ("down", "prices", 1, "killed"), ("up", "prices", 2)]


@scene
async def test_nothing_is_heard_of_a_monitor_after_demonitor_not_even_what_waits_in_the_mailbox() -> None:
    """H1: demonitor with flush."""
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        ref = shop.instance.monitor("prices")
        await shop.settle()
        await shop.peer("other").cast("shop", "hold")
        await asyncio.sleep(0.1)
        shop.peers["prices"].end("killed")
        await asyncio.sleep(0.1)
        await shop.instance.demonitor(ref)
        shop.instance.gate.set()
        await shop.settle()
        assert shop.instance.heard == []


@scene
async def test_links_end_both_unless_exits_are_trapped() -> None:
    """H5."""
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        shop.instance.link("prices")
        await shop.settle()
        await shop.down("prices", "killed")
        assert await shop.ended() == "linked(prices, killed)"
        assert shop.links == ["prices"]
    async with testing.run(Shop) as shop:
        shop.peer("prices")
        shop.instance.trap_exits = True
        shop.instance.link("prices")
        await shop.settle()
        await shop.down("prices", "killed")
        assert shop.instance.heard == [("exit", "prices", 1, "killed")]


@scene
async def test_a_normal_end_does_not_end_the_other_and_an_unlinked_one_does_not_either() -> None:
    async with testing.run(Shop) as shop:
        for name, reason in (("a", "normal"), ("b", "killed")):
            shop.peer(name)
            shop.instance.link(name)
            await shop.settle()
            if name == "b":
                await shop.instance.unlink(name)
                await asyncio.sleep(0.1)
            await shop.down(name, reason)
        assert await shop.call("nothing") is None


@scene
async def test_exits_may_be_trapped_from_the_class_body_on() -> None:
    class Trapping(Shop):
        trap_exits = True

    async with testing.run(Trapping, "shop") as shop:
        assert shop.instance.trap_exits is True
        shop.peer("prices")
        shop.instance.link("prices")
        await shop.settle()
        await shop.down("prices")
        assert shop.instance.heard == [("exit", "prices", 1, "killed")]
    assert Shop._traps is False


# --- registry ---


@scene
async def test_whereis_tells_who_has_a_name() -> None:
    async with testing.run(Shop) as shop:
        assert await shop.instance.whereis("shop") == Whereabouts("shop", 1, "ready")
        assert await shop.instance.whereis("nobody") is None


@scene
async def test_a_key_has_one_holder_who_alone_changes_it_and_reaches_its_calls() -> None:
    """I1, rules 113-121."""
    async with testing.run(Shop) as shop:
        other, it = shop.peer("other", echo), shop.instance
        await it.register("cache", {"port": 1})
        with pytest.raises(AlreadyRegistered, match="shop"):
            await other.register("cache")
        found = await other.lookup("cache")
        assert found is not None and (found.name, found.generation, found.value) == ("shop", 1, {"port": 1})
        await it.update("cache", {"port": 2}, expected=found.revision)
        with pytest.raises(Refused) as conflict:
            await it.update("cache", {"port": 3}, expected=found.revision)
        assert conflict.value.code == "conflict"
        with pytest.raises(Refused):
            await other.update("cache", 5)
        assert await other.call(other.via("cache"), "nothing") is None
        await it.unregister("cache")
        assert await other.lookup("cache") is None
        with pytest.raises(NoProcess):
            await other.call(other.via("cache"), "nothing")
        await other.register("gone")
        await shop.down("other")
        assert await it.lookup("gone") is None


@scene
async def test_a_lock_has_one_holder_at_a_time() -> None:
    """Rule 120."""
    async with testing.run(Shop) as shop:
        other, it, seen = shop.peer("other"), shop.instance, []

        async def hold(verbs: Any, name: str) -> None:
            async with verbs.lock("k") as lock:
                seen.append(f"{name} in")
                await asyncio.sleep(1)
                assert lock.held
                seen.append(f"{name} out")

        await asyncio.gather(hold(it, "shop"), hold(other, "other"))
        assert sorted(seen[:2]) in (["shop in", "shop out"], ["other in", "other out"])
        assert sorted(seen) == ["other in", "other out", "shop in", "shop out"]


class Keeper(Shop):
    @call
    async def guarded(self) -> None:
        async with self.lock("k"):
            with contextlib.suppress(CallTimeout):
                await self.call("prices", "get")


@scene
async def test_a_lock_goes_back_though_the_call_that_took_it_has_passed_its_deadline() -> None:
    async with testing.run(Keeper) as keeper:
        keeper.peer("prices", never)
        other = keeper.peer("other")
        with pytest.raises(CallTimeout):
            await keeper.call("guarded", timeout=1)
        async with other.lock("k", timeout=1):
            pass


@scene
async def test_who_gives_up_on_a_lock_does_not_keep_it() -> None:
    async with testing.run(Shop) as shop:
        other, it = shop.peer("other"), shop.instance
        async with other.lock("k"):
            with pytest.raises(CallTimeout) as caught:
                async with it.lock("k", timeout=1):
                    raise AssertionError("it was held")
            assert caught.value.executed == "no"
        await asyncio.sleep(0.1)
        async with other.lock("k"):
            pass


@scene
async def test_a_lock_whose_broker_dies_is_said_to_be_lost() -> None:
    async with testing.run(Shop) as shop:
        with pytest.raises(BrokerLost, match="lock k: the broker died while it was held"):
            async with shop.instance.lock("k") as lock:
                assert lock.held
                await shop.new_broker()
                assert not lock.held


# --- a broker dies ---


@scene
async def test_a_broker_that_dies_ends_calls_in_flight_and_all_that_stands_is_restored() -> None:
    """K1, H4."""
    async with testing.run(Shop) as shop:
        it = shop.instance
        shop.peer("prices", never)
        it.monitor("prices")
        it.join("shops")
        await it.register("cache", 5)
        task = asyncio.ensure_future(it.call("prices", "get", timeout=None))
        await asyncio.sleep(0.1)
        await shop.new_broker()
        with pytest.raises(BrokerLost) as caught:
            await task
        assert caught.value.executed == "maybe"
        assert await it.lookup("cache") == Entry("shop", 1, 5, revision=1)
        assert await it.members("shops") == ["shop"]
        await shop.down("prices", "killed")
        assert it.heard == [("down", "prices", 1, "killed")]


@scene
async def test_a_call_without_a_broker_waits_within_its_deadline() -> None:
    async with testing.run(Shop) as shop:
        shop.peer("prices", echo)
        it = shop.instance
        it._otpd.endpoint.lost(it._otpd.clock())
        it._otpd.work_off()
        with pytest.raises(CallTimeout, match="there is no broker at the moment") as caught:
            await it.call("prices", "get", timeout=2)
        assert caught.value.executed == "no"
        with pytest.raises(CallTimeout, match="there is no broker at the moment"):
            await it.whereis("prices")
        waiting = asyncio.ensure_future(it.call("prices", "get", timeout=2))
        await asyncio.sleep(1)
        await shop.new_broker()
        assert await waiting == ["get", {}]


# --- itself ---


@scene
async def test_children_are_started_listed_and_stopped() -> None:
    async with testing.run(Shop) as shop:
        it = shop.instance
        child = await it.start_child({"name": "w", "script": "w.py"})
        assert (child.name, child.generation) == ("w", 1)
        assert shop.children == {"w": {"name": "w", "script": "w.py"}}
        assert await it.children() == [{"name": "w"}]
        await it.stop_child("w")
        assert await it.children() == []


@scene
async def test_emit_tells_telemetry_with_who_and_when() -> None:
    async with testing.run(Shop) as shop:
        shop.instance.emit("sold", n=3)
        [(topic, data)] = shop.published
        assert topic == "otpd.emit.sold"
        assert abs(data.pop("at") - time.time()) < 60
        assert data == {"name": "shop", "generation": 1, "measurements": {"n": 3}}


@scene
async def test_a_plain_handler_says_the_same_verbs_through_sync() -> None:
    class Plain(Agent):
        @call
        def all(self) -> list[Any]:
            with self.sync.lock("k"):
                self.sync.register("key", 1)
            self.sync.update("key", 2)
            entry = self.sync.lookup("key")
            assert entry is not None
            self.sync.unregister("key")
            self.sync.monitor("prices")
            self.sync.join("plain")
            self.sync.cast("prices", "put", n=1)
            self.sync.publish("plain.done", n=2)
            found = [self.sync.call("prices", "get"), self.sync.agent("prices").get(sku="A"), entry.value]
            return [*found, self.sync.members("plain"), self.sync.whereis("nobody")]

        @call
        def wrong(self) -> str:
            try:
                self.cast("prices", "put")
            except RuntimeError as error:
                return str(error)
            return "sent"

        @call
        async def wrong_too(self) -> str:
            try:
                self.sync.call("prices", "get")
            except RuntimeError as error:
                return str(error)
            return "called"

        @call
        def slow(self) -> str:
            try:
                return str(self.sync.call("never", "get", timeout=60))
            except CallTimeout as error:
                return error.executed

    async with testing.run(Plain) as plain:
        plain.peer("never", never)
        prices = plain.peer("prices", echo)
        assert await plain.call("all") == [["get", {}], ["get", {"sku": "A"}], 2, ["plain"], None]
        assert prices.casts == [("put", {"n": 1})]
        assert "use the same verb of self.sync" in await plain.call("wrong")
        assert "in async def methods write: await self.call" in await plain.call("wrong_too")
        with pytest.raises(CallTimeout):
            await plain.call("slow", timeout=3)
        await plain.settle()
        assert round(plain.elapsed) == 3
