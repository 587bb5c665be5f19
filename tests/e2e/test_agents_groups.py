"""Groups, topics, the registry and locks between real processes."""

from __future__ import annotations

import threading

import pytest

from otpd.agents import NoProcess, Refused
from tests.e2e.fleet import actors, fleet
from tests.helpers import eventually


def test_instances_are_a_group_that_every_policy_reaches() -> None:
    """G1, G2, G3; rules 96, 99: the same key means the same member, and a group without members is an error."""
    with fleet(actors("w", "a", w="instances = 3")) as it:
        names = ["w-1", "w-2", "w-3"]
        client = it.client
        assert eventually(lambda: sorted(client.members("w")) == names)
        found = client.call(client.group("w", "all"), "who")
        assert {name: who[0] for name, who in found.items()} == {name: name for name in names}
        robin = [client.call(client.group("w", "round_robin"), "who")[0] for _ in range(6)]
        assert sorted(robin) == sorted(names * 2)
        assert client.call(client.group("w"), "who")[0] in names
        hashed = {client.call(client.group("w", key=f"k{n}"), "who")[0] for n in range(20)}
        assert hashed <= set(names) and len(hashed) > 1
        assert len({client.call(client.group("w", key="k"), "who")[0] for _ in range(5)}) == 1
        client.cast(client.group("w", "all"), "note", what="to all")
        assert eventually(lambda: all("to all" in it.heard(name) for name in names))
        with pytest.raises(NoProcess):
            client.call(client.group("nobody"), "who")


def test_who_joined_is_gone_from_the_group_before_its_death_is_told() -> None:
    """G1, B4: also its keys and locks."""
    with fleet(actors("a", "b")) as it:
        it.call("b", "do", verb="join", args=["g"])
        it.call("b", "do", verb="register", args=["k", {"port": 1}])
        assert it.client.members("g") == ["b"]
        assert it.client.call(it.client.via("k"), "who")[0] == "b"
        with pytest.raises(Refused):
            it.client.update("k", 5)
        monitor = it.client.monitor("b")
        it.kill("b")
        assert monitor.wait(60).reason == "killed"
        assert (it.client.members("g"), it.client.lookup("k")) == ([], None)


def test_a_lock_is_free_when_its_holder_is_killed() -> None:
    """Rule 120."""
    script = """
    import asyncio
    from otpd.agents import *
    class Holder(Agent):
        async def init(self):
            self.task = asyncio.create_task(self.hold())
        async def hold(self):
            async with self.lock("k", timeout=None):
                print("held", flush=True)
                await asyncio.sleep(3600)
    if __name__ == "__main__":
        run(Holder)
    """
    config = actors("a") + '[agents.holder]\nscript = "holder.py"\nrestart = "temporary"\n'
    with fleet(config, {"holder.py": script}) as it:
        eventually(lambda: "held" in it.node.printed("holder"))
        monitor = it.client.monitor("holder")
        it.node.kill(it.node.pid("holder"))
        with it.client.lock("k", timeout=60):
            pass
        assert monitor.wait(60).reason == "killed"


def test_topics_reach_who_subscribed_and_a_slow_subscriber_loses_only_its_own() -> None:
    """F2, F3: 3,000 events while one of two handles nothing; the other misses none, the slow ones know how many."""
    with fleet(actors("slow", "quick")) as it:
        news = it.client.events("news.**", timeout=60)
        it.client.cast("slow", "note", what="before")
        client = it.client
        with it.gate("blocked") as held:
            blocked = threading.Thread(target=lambda: client.call("slow", "block", timeout=60, gate=held.name))
            blocked.start()
            eventually(lambda: client.call("slow", "otpd.describe")["handling"])
            for n in range(3000):
                client.publish("news.today", n=n)
                if n % 250 == 0:
                    client.call("quick", "who")  # it keeps up, on any machine
        blocked.join()
        mine = [next(news)]
        while mine[-1].n < 2999:
            mine.append(next(news))
        assert len(mine) + sum(event.missed for event in mine) == 3000

        def numbers(name: str) -> list[tuple[int, int]]:
            return [(each[1]["n"], each[2]) for each in it.heard(name) if isinstance(each, list) and each[0] == "news.today"]

        eventually(lambda: numbers("quick") and numbers("quick")[-1][0] == 2999, 20)
        assert numbers("quick") == [(n, 0) for n in range(3000)]
        slow = eventually(lambda: (found := numbers("slow")) and found[-1][0] == 2999 and found, 20)
        assert len(slow) + sum(missed for _, missed in slow) == 3000
        assert [n for n, _ in slow] == sorted(n for n, _ in slow)
