"""Durable messages on a real node: whoever is killed, what was accepted is handled, and in a transaction it counts once."""

from __future__ import annotations

import contextlib
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from otpd.agents import CallTimeout, OtpdError, connect
from otpd.ipc.control import ControlError
from tests.e2e.node import Node, node
from tests.helpers import eventually

LEDGER = '''
import os
from otpd.agents import *

class Ledger(Agent):
    """Books each payment once, in its state, and tells the teller so in the same transaction."""

    async def init(self, teller: str = ""):
        self.teller = teller

    @cast
    async def pay(self, number: int) -> None:
        async with self.transaction():
            books = await self.load(default={"count": 0, "sum": 0})
            await self.save({"count": books["count"] + 1, "sum": books["sum"] + number})
            if self.teller:
                await self.cast(self.teller, "pay", durable=True, number=number)

    @cast
    async def crash(self) -> None:
        os._exit(3)

    @cast
    async def fail(self) -> None:
        raise RuntimeError("no ink")

    @call
    async def books(self) -> dict:
        return await self.load(default={"count": 0, "sum": 0})

    @call
    async def ping(self) -> str:
        return "pong"

if __name__ == "__main__":
    run(Ledger)
'''
BACKOFF = 'backoff = { initial = "10ms", max = "100ms" }'
CONFIG = f"""
[agents.ledger]
script = "ledger.py"
args = {{ teller = "teller" }}
{BACKOFF}
[agents.teller]
script = "ledger.py"
{BACKOFF}
"""


def books(n: Node, name: str) -> dict[str, Any]:
    """Nothing while the node is on its way back."""
    with contextlib.suppress(OtpdError, OSError):
        with connect(n.control, timeout=5) as client:
            found: dict[str, Any] = client.call(name, "books", timeout=5)
            return found
    return {}


def said(n: Node, method: str) -> list[dict[str, Any]]:
    """What the store answers."""
    with connect(n.control) as client:
        found: list[dict[str, Any]] = client.call("store", method, timeout=30)
        return found


def sent_from_outside(n: Node, first: int, count: int) -> list[int]:
    """Each until it is accepted; a client that lost its node connects anew, and says it again with its id."""
    accepted: list[int] = []
    while len(accepted) < count:
        with contextlib.suppress(OtpdError, OSError):
            with connect(n.control, timeout=5) as client:
                for number in range(first + len(accepted), first + count):
                    client.cast("ledger", "pay", durable=True, id=str(number), key=f"k{number % 7}", number=number)
                    accepted.append(number)
    return accepted


def kill(n: Node, name: str) -> None:
    """The process that has this name now; while it is on its way back, the next one."""

    def killed() -> bool:
        with contextlib.suppress(ControlError, OSError, KeyError, TypeError):
            n.kill(n.facts()["pid"] if name == "root" else n.pid(name))
            return True
        return False

    eventually(killed, 30, f"{name} is killed")


@pytest.mark.timeout(400)
def test_whoever_is_killed_each_accepted_payment_counts_once() -> None:
    """E1, E7: ledger -> teller: two transactions in a row, the second fed by the first. Each victim dies while they run."""
    with node(CONFIG, {"ledger.py": LEDGER}, services=("store",)) as n:
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(sent_from_outside, n, 0, 120)
            for victim in ("store", "ledger", "broker", "teller", "root", "store", "ledger"):
                eventually(lambda: n.answers() or None, 30)
                kill(n, victim)
            assert sending.result() == list(range(120))
        wanted = {"count": 120, "sum": sum(range(120))}
        eventually(lambda: books(n, "teller") == wanted, 120, f"{wanted} at the teller")
        assert books(n, "ledger") == wanted
        eventually(lambda: said(n, "waiting") == [], 30, "nothing waits")
        assert said(n, "letters") == []


@pytest.mark.timeout(400)
def test_a_message_that_kills_its_agent_is_dead_after_its_attempts_and_the_others_are_handled() -> None:
    """E5, E6, E9."""
    config = CONFIG + "[services.store]\nmax_attempts = 3\n"
    with node(config, {"ledger.py": LEDGER}, services=("store",)) as n:
        n.otpd("cast", "ledger", "fail", "--durable")
        eventually(lambda: said(n, "letters"), 60, "what always raises is dead")
        assert n.worker("ledger")["generation"] == 1, "it has crashed nobody"
        n.otpd("child", "stop", "ledger")
        with connect(n.control) as client:
            for number in range(5):
                client.cast("ledger", "pay", durable=True, key=f"k{number}", number=number)
            client.cast("ledger", "crash", durable=True, key="poison")
            for number in range(5, 10):
                client.cast("ledger", "pay", durable=True, key=f"k{number}", number=number)
        assert [(each["target"], each["messages"]) for each in n.json("letters", "waiting")] == [("ledger", 11)]
        n.otpd("child", "start", "ledger")
        eventually(lambda: books(n, "ledger") == {"count": 10, "sum": 45}, 60, "all payments are booked")
        eventually(lambda: len(said(n, "letters")) == 2, 60, "two dead letters")
        found = n.json("letters", "list")
        assert [(each["name"], each["attempts"], each["reason"]) for each in found] == [
            ("fail", 3, "raised"), ("crash", 3, "error(3)"),
        ]  # fmt: skip
        assert n.worker("ledger")["generation"] == 5, "three crashes"
        letter = {each["name"]: each["seq"] for each in found}
        assert 'raise RuntimeError("no ink")' in n.otpd("letters", "show", str(letter["fail"])).stdout
        dead = [event for event in n.all_events() if event["event"] == "otpd.store.letter.dead"]
        assert sorted(event["method"] for event in dead) == ["crash", "fail"]

        n.otpd("letters", "purge", str(letter["crash"]))
        (again,) = n.json("letters", "replay", str(letter["fail"]))
        found = eventually(lambda: said(n, "letters"), 60, "it is dead again")
        assert [(each["seq"], each["replay_of"]) for each in found] == [(again["message"], letter["fail"])]


@pytest.mark.timeout(400)
def test_a_durable_subscriber_that_was_down_hears_what_was_published_meanwhile() -> None:
    listener = """
    from otpd.agents import *

    class Listener(Agent):
        async def init(self):
            self.heard = []
        @on("news.*", durable=True)
        async def news(self, event):
            self.heard.append(event["n"])
        @call
        async def all(self) -> list:
            return self.heard

    if __name__ == "__main__":
        run(Listener)
    """
    with node('[agents.listener]\nscript = "listener.py"\n', {"listener.py": listener}, services=("store",)) as n:
        with connect(n.control) as client:

            def heard() -> list[int]:
                with contextlib.suppress(OtpdError):
                    found: list[int] = client.call("listener", "all")
                    return found
                return []

            def published() -> bool:
                client.publish("news.first", durable=True, n=0)
                return bool(heard())

            eventually(published, 30, "the subscription is known")
            n.otpd("child", "stop", "listener")
            n.otpd("publish", "news.today", "n=1", "--durable")
            kill(n, "store")
            client.publish("news.tomorrow", durable=True, n=2)
            n.otpd("child", "start", "listener")
            eventually(lambda: heard() == [1, 2], 60, "it hears both")


@pytest.mark.timeout(400)
def test_a_store_that_stands_still_holds_up_only_what_is_durable() -> None:
    with node(CONFIG, {"ledger.py": LEDGER}, services=("store",)) as n:
        with connect(n.control) as client:
            client.cast("ledger", "pay", durable=True, number=1)
            eventually(lambda: books(n, "teller") == {"count": 1, "sum": 1}, 30, "it is booked")
            store = n.pid("store")
            n.kill(store, signal.SIGSTOP)
            sending = ThreadPoolExecutor(1)
            late = sending.submit(client.cast, "ledger", "pay", durable=True, id="late", number=2)
            assert client.call("ledger", "ping") == "pong"
            eventually(lambda: "silent for" in (n.worker("store")["what"] or ""), 30, "the picture shows that it is silent")
            with contextlib.suppress(ProcessLookupError):  # its watchdog was sooner
                n.kill(store, signal.SIGCONT)
            with contextlib.suppress(CallTimeout):
                late.result()
            sending.shutdown()
            client.cast("ledger", "pay", durable=True, id="late", number=2)
            eventually(lambda: books(n, "ledger") == {"count": 2, "sum": 3}, 60, "each once")
