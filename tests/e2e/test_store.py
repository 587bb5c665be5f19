"""The store in a real node: what is saved outlives everybody, damage is named and fenced, and no agent restarts for it."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from pathlib import Path
from typing import Any

from otpd.agents import Reject, connect
from tests.e2e.node import Node, node
from tests.e2e.others import fill, needs_root, read_only_on_top, small_disk
from tests.helpers import eventually

LEDGER = """
from otpd.agents import Agent, Stale, StoreFull, TooLarge, call, run

class Ledger(Agent):
    async def init(self):
        self.books = await self.load(default={"sum": 0, "n": 0})

    @call
    async def add(self, n: int) -> dict:
        self.books = {"sum": self.books["sum"] + n, "n": self.books["n"] + 1}
        await self.save(self.books)
        return self.books

    @call
    async def fits(self) -> bool:
        try:
            await self.save(self.books)
        except StoreFull:
            return False
        return True

    @call
    def plain(self) -> dict:
        self.sync.save({"sum": -1, "n": -1})
        return self.sync.load()

    @call
    async def large(self) -> str:
        try:
            await self.save("x" * 2000)
        except TooLarge as error:
            return str(error)
        return "it was taken"

    @call
    async def again(self) -> str:
        try:
            await self.save(self.books)
        except Stale as error:
            return str(error)
        return "saved"

    @call
    async def of_others(self) -> None:
        await self.call("store", "state_of", name="other")

if __name__ == "__main__":
    run(Ledger)
"""
CONFIG = '[agents.ledger]\nscript = "ledger.py"\n[services.store]\nmax_state = "1KiB"\nballast = "1MiB"\n'
STORE = ("store",)


def ledger_node() -> Any:
    return node(CONFIG, {"ledger.py": LEDGER}, services=STORE)


def call(at: Node, method: str, /, **arguments: Any) -> Any:
    with connect(at.control) as it:
        return it.call("ledger", method, timeout=60, **arguments)


def test_state_outlives_its_agent_the_store_root_and_the_node() -> None:
    with ledger_node() as n:
        assert call(n, "add", n=5) == {"sum": 5, "n": 1}
        n.kill(n.pid("ledger"))
        n.reborn("ledger", 1)
        assert call(n, "add", n=1) == {"sum": 6, "n": 2}
        n.kill(n.facts()["pid"])
        eventually(lambda: n.answers() and n.states() == {"ledger": "running"})
        assert call(n, "add", n=1) == {"sum": 7, "n": 3}
        n.stop()
        n.start()
        assert call(n, "add", n=1) == {"sum": 8, "n": 4}
        assert call(n, "plain") == {"sum": -1, "n": -1}


def test_kill_9_of_the_store_under_load_loses_nothing_that_was_saved_and_restarts_no_agent() -> None:
    """K5: the agent waits in save() and goes on."""
    with ledger_node() as n:
        before, stop, done = n.worker("ledger"), threading.Event(), [0]

        def load() -> None:
            with connect(n.control) as it:
                while not stop.is_set():
                    done[0] = it.call("ledger", "add", timeout=60, n=1)["n"]

        writer = threading.Thread(target=load)
        writer.start()
        try:
            for generation in (1, 2, 3):
                reached = done[0]
                eventually(lambda reached=reached: done[0] > reached + 20)  # type: ignore[misc]
                n.kill(n.pid("store"))
                n.reborn("store", generation)
        finally:
            stop.set()
            writer.join()
        assert json.loads(n.otpd("state", "show", "ledger").stdout) == {"sum": done[0], "n": done[0]}
        n.kill(n.pid("store"), signal.SIGSTOP)
        waiting = threading.Thread(target=call, args=(n, "add"), kwargs={"n": 1})
        waiting.start()
        assert call(n, "otpd.describe")["name"] == "ledger", "who stores nothing waits for nobody"
        n.kill(n.pid("store"), signal.SIGCONT)
        waiting.join()
        done[0] += 1
        after = n.worker("ledger")
        assert (after["pid"], after["generation"]) == (before["pid"], 1)
        assert call(n, "add", n=1) == {"sum": done[0] + 1, "n": done[0] + 1}


def test_people_look_at_state_take_it_out_put_it_in_and_drop_it() -> None:
    with ledger_node() as n:
        assert n.otpd("state", "show").stdout == "nobody has saved anything\n"
        assert json.loads((n.home / ".otpd" / "store.report").read_text())["checked"] is True
        call(n, "add", n=5)
        (row,) = n.json("state", "show")
        assert {key: row[key] for key in ("name", "version", "intact")} == {"name": "ledger", "version": 1, "intact": True}
        n.otpd("state", "export", "ledger", "saved")
        n.otpd("state", "backup", "copy.db")
        assert (n.home / "copy.db").stat().st_size > 4096
        call(n, "add", n=1)
        shown = n.otpd("state", "import", "ledger", "saved").stdout
        assert "now version 3\nledger runs with what it has loaded before: otpd restart ledger\n" in shown
        assert "its state has version 3, not 2: somebody else has changed it since" in call(n, "again")
        n.otpd("restart", "ledger")
        assert call(n, "add", n=1) == {"sum": 6, "n": 2}
        n.write("mine.json", '{"sum": 100, "n": 0}')
        assert n.json("state", "import", "ledger", "mine.json") == {"ok": True, "name": "ledger", "version": 5}
        assert json.loads(n.otpd("state", "export", "ledger", "--json").stdout) == {"sum": 100, "n": 0}
        with connect(n.control) as it:
            assert (it.state("ledger"), it.state("nobody", default=0)) == ({"sum": 100, "n": 0}, 0)
            it.set_state("ledger", {"sum": 7, "n": 7})
            assert it.state("ledger") == {"sum": 7, "n": 7}
        n.otpd("state", "drop", "ledger")
        n.otpd("restart", "ledger")
        assert call(n, "add", n=1) == {"sum": 1, "n": 1}
        assert "nobody has no state" in n.otpd("state", "show", "nobody", check=4).stderr
        assert "of ledger has 2003 bytes, at most 1024 are stored; keep large things" in call(n, "large")
        refused = Reject
        try:
            call(n, "of_others")
        except Reject as error:
            refused = error  # type: ignore[assignment]
        assert str(refused) == "ledger has only its own state; that of others is for people: otpd state"


def damaged(n: Node) -> None:
    """Every page but the first says nothing any more."""
    path = Path(n.home / ".otpd" / "store.db")
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def test_a_damaged_database_is_quarantined_named_and_fences_whoever_may_have_lost_something() -> None:
    with ledger_node() as n:
        call(n, "add", n=5)
        n.stop()
        damaged(n)
        n.start(check=None)
        (kept,) = (n.home / ".otpd" / "quarantine").iterdir()
        assert (kept / "store.db").exists()
        assert n.when("store", state="running")
        eventually(lambda: "DamagedState" in n.otpd("why", "ledger").stdout)
        assert "otpd state accept-loss" in n.otpd("why", "ledger").stdout
        problems = [each["detail"] for each in n.all_events() if each["event"] == "otpd.store.problem"]
        assert any("were acknowledged and are lost" in each for each in problems)
        findings = {each["check"]: each for each in json.loads(n.otpd("doctor", "--json", check=None).stdout)}
        assert findings["store"]["level"] == "fail"
        assert str(kept) in findings["store"]["what"]
        n.otpd("state", "accept-loss")
        n.when("ledger", state="running", deadline=60)
        assert call(n, "add", n=1) == {"sum": 1, "n": 1}


@needs_root
def test_a_full_disk_refuses_what_is_new_shows_it_and_takes_everything_again_when_there_is_room() -> None:
    """No false answer, and nobody dies of it: neither the store nor the agent."""
    with (
        node(CONFIG, {"ledger.py": LEDGER}, services=("store", "health"), start=False) as n,
        small_disk(n.home / ".otpd", "size=12m,mode=700") as disk,
    ):
        n.start()
        call(n, "add", n=5)
        filler = fill(disk)
        eventually(lambda: not call(n, "fits"))
        assert "the disk is full" in n.otpd("health", "store", "--now", check=None).stdout
        assert "the disk is full, nothing new is stored" in n.otpd("doctor", check=None).stdout
        filler.unlink()
        eventually(lambda: call(n, "fits"))
        assert call(n, "add", n=1) == {"sum": 6, "n": 2}
        assert {n.worker(name)["generation"] for name in ("store", "ledger")} == {1}
        assert (disk / "store.ballast").stat().st_size == 1024 * 1024
        told = [each["event"] for each in n.all_events() if each["event"].startswith("otpd.store.")]
        assert told == ["otpd.store.full", "otpd.store.room"]
        n.stop()


@needs_root
def test_a_store_that_can_t_write_says_so_holds_nobody_up_and_comes_back_by_itself() -> None:
    with ledger_node() as n:
        call(n, "add", n=5)
        with read_only_on_top(n.home / ".otpd"):
            n.kill(n.pid("store"))
            eventually(lambda: "can't be written: Read-only file system" in n.otpd("why", "store").stdout)
            assert n.states() == {"ledger": "running"}
        assert call(n, "add", n=1) == {"sum": 6, "n": 2}
        assert n.worker("ledger")["generation"] == 1


def test_a_database_of_a_newer_otpd_is_refused_and_the_rest_of_the_node_runs() -> None:
    with node('[agents.idle]\nscript = "idle.py"\n', services=STORE, start=False) as n:
        (n.home / ".otpd").mkdir(mode=0o700)
        newer = sqlite3.connect(n.home / ".otpd" / "store.db")
        newer.executescript("PRAGMA application_id = 0x6F747064; PRAGMA user_version = 99; CREATE TABLE meta (a)")
        newer.close()
        n.start(check=None)
        assert n.when("idle", state="running", deadline=60)
        eventually(lambda: "is of a newer otpd: its schema has version 99" in n.otpd("why", "store").stdout)
        eventually(lambda: n.worker("store")["state"] == "backoff")


