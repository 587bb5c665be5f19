"""The watchdog (T50, T51): alive but frozen is found by root alone, shown with stacks, and restarted under the budget."""

from __future__ import annotations

import sys

import pytest

from tests.e2e.node import Node, gone, node
from tests.e2e.watching import holds
from tests.helpers import eventually

#: Freezes right after its first heartbeat, in the way that its generation 1 is told to; later generations live.
FREEZE = """
import asyncio, os, signal, threading, time
from otpd.agents import Agent, run

def deep(n, what):
    # a stack of more than 20 frames
    return deep(n - 1, what) if n else what()

def freeze_by_sleep():
    deep(30, at_the_bottom)

def at_the_bottom():
    time.sleep(1000)

def freeze_by_spinning():
    while True:
        pass

def freeze_by_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

def freeze_by_stop():
    os.kill(os.getpid(), signal.SIGSTOP)

def freeze_beside_a_busy_thread():
    threading.Thread(target=work, daemon=True).start()
    time.sleep(1000)

def work():
    while True:
        print("still working", flush=True)
        time.sleep(0.5)

class Freeze(Agent):
    async def init(self, how="", start=0.0):
        await asyncio.sleep(start)
        if self.generation == 1 and how:
            asyncio.get_running_loop().call_later(0.05, globals()[how])

if __name__ == "__main__":
    run(Freeze)
"""
#: A program that beats for a while through sd_notify; what it does then is its argument.
BEATS = """
import os, socket, sys, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
say = lambda text: notify.sendto(text, os.environ["NOTIFY_SOCKET"])
print("watchdog", os.environ["WATCHDOG_USEC"], flush=True)
say(b"READY=1")
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    say(b"WATCHDOG=1")
    time.sleep(0.1)
print("silent", flush=True)
time.sleep(1000)
"""
WATCHDOG = 1.0
DUMP_TIME = 1.0
HOWS = ["freeze_by_sleep", "freeze_by_spinning", "freeze_by_lock", "freeze_by_stop", "freeze_beside_a_busy_thread"]


def agents(*hows: str, more: str = "") -> str:
    return "".join(
        f"""
        [agents.{how or "lives"}]
        script = "freeze.py"
        watchdog = "{WATCHDOG:g}s"
        args = {{ how = "{how}" }}
        {more}
        """
        for how in hows
    )


def at(n: Node, name: str, event: str, generation: int = 1) -> float:
    found = [each for each in n.events() if (each["event"], each["name"], each["generation"]) == (event, name, generation)]
    assert len(found) == 1, f"{event} of {name}: {found}"
    return float(found[0]["at"])


def test_an_agent_that_is_frozen_in_any_way_is_found_shown_killed_and_restarted() -> None:
    """T50, test 27: silent for `watchdog` after its last beat, a second for the stacks, then the restart."""
    with node(agents(*HOWS, ""), {"freeze.py": FREEZE}) as n:
        healthy = n.pid("lives")
        for how in HOWS:
            row = n.reborn(how, 1, 15)
            assert (row["generation"], row["restarts"]) == (2, 1)
            started, frozen, exited = (at(n, how, f"otpd.child.{word}") for word in ("started", "frozen", "exited"))
            # The last beat came with `started`, or 0.05 s later at most.
            assert 0.9 * WATCHDOG <= frozen - started <= 1.1 * WATCHDOG + 0.3
            assert 0.9 * DUMP_TIME <= exited - frozen <= DUMP_TIME + 0.5
        assert n.pid("lives") == healthy
        assert [each["name"] for each in n.events() if each["event"] == "otpd.child.frozen"].count("lives") == 0
        for how in HOWS:
            (death,) = eventually(lambda how=how: [d for d in n.json("why", how)["deaths"] if d["tail"]])  # type: ignore[misc]
            assert (death["cause"], death["reason"], death["signal"]) == ("watchdog: silent for 1 s", "killed", 9)
            assert death["stacks"], death["tail"]
            assert any(f"in {how}" in line for line in death["tail"])
            if how == "freeze_by_sleep":
                assert any("in at_the_bottom" in line for line in death["tail"]), "a deep stack is complete"
            text = n.otpd("why", how).stdout
            assert "stacks" in text
            assert f"in {how}" in text


def test_a_restart_by_the_watchdog_counts_in_the_budget() -> None:
    """T8: with max_restarts = 0 its supervisor gives up, and its own supervisor starts it again."""
    config = """
        [supervisors.s]
        max_restarts = 0
        max_seconds = 60
    """ + agents("freeze_by_sleep", more='supervisor = "s"')
    with node(config, {"freeze.py": FREEZE}) as n:
        n.reborn("freeze_by_sleep", 1, 15)
        assert [each["child"] for each in n.events() if each["event"] == "otpd.supervisor.gave_up"] == ["freeze_by_sleep"]


def test_a_process_that_is_stopped_from_outside_is_frozen_too() -> None:
    """T50: SIGSTOP to an agent that beats; the time counts from its last beat, at most a quarter of the watchdog before."""
    with node(agents(""), {"freeze.py": FREEZE}) as n:
        row = n.worker("lives")
        stopped = n.json("signal", "STOP", "lives")
        assert stopped == {"pid": row["pid"]}
        n.reborn("lives", 1, 15)
        assert gone(row["pid"])
        assert [each["name"] for each in n.events() if each["event"] == "otpd.child.frozen"] == ["lives"]


def test_root_needs_nobody_to_find_it() -> None:
    """T51: with zygote and logger stopped the frozen agent is found and killed all the same."""
    with node(agents("freeze_by_sleep"), {"freeze.py": FREEZE}) as n:
        facts = n.facts()
        helpers = [facts["zygote_pid"], facts["logger_pid"]]
        for pid in helpers:
            n.kill(pid, 19)
        try:
            eventually(lambda: [e for e in n.events() if e["event"] == "otpd.child.exited"], 10)
            frozen, exited = (at(n, "freeze_by_sleep", f"otpd.child.{word}") for word in ("frozen", "exited"))
            assert exited - frozen <= DUMP_TIME + 0.5
        finally:
            for pid in helpers:
                n.kill(pid, 18)
        n.reborn("freeze_by_sleep", 1, 15)


def test_a_start_that_takes_longer_than_the_watchdog_has_its_own_deadline() -> None:
    """T50: start_timeout is for the start, the watchdog for what comes after."""
    config = f"""
        [agents.slow]
        script = "freeze.py"
        watchdog = "200ms"
        start_timeout = "20s"
        args = {{ start = {3 * WATCHDOG} }}
    """
    with node(config, {"freeze.py": FREEZE}) as n:
        assert n.worker("slow")["generation"] == 1
        assert [each["event"] for each in n.events() if each["name"] == "slow"] == ["otpd.child.started"]


@pytest.mark.parametrize("ready", ["notify", "spawned"])
def test_a_program_beats_through_sd_notify(ready: str) -> None:
    """T50: WATCHDOG=1 counts, silence is found; it is told its time as systemd tells it."""
    config = f"""
        [programs.beats]
        command = ["{sys.executable}", "beats.py", "2.5"]
        ready = "{ready}"
        watchdog = "{WATCHDOG:g}s"
        shutdown = "1s"
    """
    with node(config, {"beats.py": BEATS}) as n:
        n.reborn("beats", 1, 20)
        assert n.log("beats").startswith("watchdog 1000000\nsilent\n")
        started, frozen = (at(n, "beats", f"otpd.child.{word}") for word in ("started", "frozen"))
        assert frozen - started >= 2.3 + WATCHDOG
        (death,) = n.json("why", "beats")["deaths"]
        assert death["cause"] == "watchdog: silent for 1 s"


def test_without_a_watchdog_nobody_minds_silence() -> None:
    config = """
        [agents.freeze]
        script = "freeze.py"
        args = { how = "freeze_by_sleep" }
        shutdown = "200ms"
    """
    with node(config, {"freeze.py": FREEZE}) as n:
        row = n.worker("freeze")
        eventually(lambda: n.worker("freeze")["uptime_s"] > 2 * WATCHDOG)
        assert n.worker("freeze")["pid"] == row["pid"]
        n.stop()


@pytest.mark.parametrize("also", ["root alone", "the whole node"])
def test_a_root_that_was_stopped_does_not_take_its_own_pause_for_a_freeze(also: str) -> None:
    """Test 47: a suspended machine, a debugger, a cgroup that was frozen. Who has beaten meanwhile has; who could not gets
    its time once more."""
    with node(agents(""), {"freeze.py": FREEZE}) as n:
        root, pid = n.facts()["pid"], n.pid("lives")
        stopped = [root] if also == "root alone" else [root, pid]
        for each in stopped:
            n.kill(each, 19)
        assert holds(lambda: not gone(root), 1.5 * WATCHDOG)
        n.kill(root, 18)
        assert n.answers()
        n.kill(pid, 18)
        assert holds(lambda: n.pid("lives") == pid, 1.2 * WATCHDOG)
        assert [each["name"] for each in n.events() if each["event"] == "otpd.child.frozen"] == []
