"""The broker is killed or stopped: nobody else restarts, calls end, what stands is restored."""

from __future__ import annotations

import concurrent.futures
import signal
import time

import pytest

from otpd.agents import BrokerLost, CallTimeout
from tests.e2e.fleet import Fleet, actors, fleet
from tests.helpers import eventually


def new_broker(it: Fleet) -> None:
    broker = it.broker
    it.node.kill(broker["pid"])
    it.new_broker(broker["generation"])


def test_kill_9_of_the_broker_ends_calls_in_flight_and_restarts_nobody() -> None:
    """T33, K1, DESIGN 9.7: registrations, groups, keys, subscriptions and monitors are there again, by the agents alone."""
    with fleet(actors("a", "b", "c")) as it:
        it.call("a", "do", verb="monitor", args=["c"])
        it.call("a", "do", verb="register", args=["key", 7])
        it.call("a", "do", verb="join", args=["group"])
        mine = it.client.monitor("c")
        news = it.client.events("other.**", timeout=60)
        with concurrent.futures.ThreadPoolExecutor() as pool, it.gate("held") as held:
            outside = pool.submit(it.call, "b", "hold", timeout=None, gate=held.name)
            inside = pool.submit(it.call, "a", "ask", None, to="b", method="hold", within=None, args={"gate": held.name})
            eventually(lambda: it.client.call("b", "otpd.describe")["waiting"] == 1)
            new_broker(it)
            with pytest.raises(BrokerLost) as caught:
                outside.result(60)
            assert caught.value.executed == "maybe"
            with pytest.raises(BrokerLost):
                inside.result(60)
        assert [it.call(name, "add", a=1) for name in "ab"] == [2, 2]  # both are registered again
        entry = it.client.lookup("key")
        assert entry is not None and (entry.name, entry.generation, entry.value) == ("a", 1, 7)
        assert it.client.members("group") == ["a"]
        it.client.publish("news.today", n=1)
        it.client.publish("other.today", n=2)
        assert eventually(lambda: ["news.today", {"n": 1}, 0] in it.heard("b"))
        assert next(news).n == 2
        assert [it.generation(name) for name in "abc"] == [1, 1, 1]
        it.kill("c")
        assert eventually(lambda: [each for each in it.heard("a") if each[0] == "down"]) == [["down", "c", 1, "killed"]]
        assert mine.wait(60).reason == "killed"


def test_a_death_while_there_is_no_broker_is_still_told_once() -> None:
    """H4."""
    with fleet(actors("a", "b")) as it:
        it.call("a", "do", verb="monitor", args=["b"])
        victim, broker = it.pid("b"), it.broker
        it.node.kill(broker["pid"], signal.SIGSTOP)
        it.node.kill(victim)
        it.node.kill(broker["pid"])
        it.new_broker(broker["generation"])
        it.node.reborn("b", 1)
        assert eventually(lambda: it.heard("a")) == [["down", "b", 1, "killed"]]
        it.kill("b")
        it.node.reborn("b", 2)
        assert it.heard("a") == [["down", "b", 1, "killed"]]


def test_a_broker_that_hangs_is_replaced_and_calls_keep_their_deadlines() -> None:
    """K3, D1: SIGSTOP; the caller's own timer ends the call, and the watchdog ends the broker."""
    with fleet(actors("a", "b")) as it:
        broker = it.broker
        it.node.kill(broker["pid"], signal.SIGSTOP)
        begin = time.monotonic()
        with pytest.raises(CallTimeout):
            it.call("a", "add", timeout=0.3, a=1)
        assert time.monotonic() - begin < 30
        it.new_broker(broker["generation"], 20)
        assert it.call("a", "ask", to="b", method="add", args={"a": 1}) == 2
        assert [it.generation(name) for name in "ab"] == [1, 1]


def test_agents_start_run_and_stop_without_any_broker() -> None:
    """init() and ready never wait for one; what is said meanwhile is said to the next."""
    script = """
    import asyncio
    from otpd.agents import *
    class Early(Agent):
        async def init(self):
            await self.cast("b", "note", what="early")
            self.task = asyncio.create_task(self.ask())
        async def ask(self):
            print(self.generation, "is answered", await self.call("b", "add", timeout=60, a=1), flush=True)
    if __name__ == "__main__":
        run(Early)
    """
    with fleet(actors("b") + '[agents.early]\nscript = "early.py"\n', {"early.py": script}) as it:
        it.node.otpd("child", "stop", "early")
        stopped = it.broker
        it.node.kill(stopped["pid"], signal.SIGSTOP)
        it.node.otpd("child", "start", "early")
        early = it.node.worker("early")
        assert early["state"] == "running"
        is_answered = f"{early['generation']} is answered" in it.node.printed("early")
        assert not is_answered or it.broker["generation"] > stopped["generation"]
        it.node.otpd("child", "stop", "early")
        it.node.otpd("child", "start", "early")
        answer = f"{it.node.worker('early')['generation']} is answered 2"
        eventually(lambda: answer in it.node.printed("early"), 60)
        assert "early" in it.heard("b")


def test_casts_to_a_name_keep_their_order_across_a_broker_restart() -> None:
    """DESIGN 9.1, rule 126: some may be lost with the broker, none comes twice or out of order."""
    with fleet(actors("a", "b")) as it:
        with concurrent.futures.ThreadPoolExecutor() as pool, it.gate("telling") as gate:
            telling = pool.submit(it.call, "a", "tell_on", timeout=None, to="b", gate=gate.name)
            eventually(lambda: it.heard("b"))
            new_broker(it)
            with pytest.raises(BrokerLost):
                telling.result(60)
            before = it.heard("b")[-1]
            eventually(lambda: it.heard("b")[-1] > before)
        assert it.call("a", "ask", to="b", method="add", args={"a": 1}) == 2  # handled behind the last cast
        numbers = it.heard("b")
        assert numbers == sorted(set(numbers))
