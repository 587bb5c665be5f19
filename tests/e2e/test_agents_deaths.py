"""Monitors, links and fencing between real processes that are really killed."""

from __future__ import annotations

import signal
import time
from typing import Any

from tests.e2e.fleet import Fleet, actors, fleet
from tests.e2e.node import gone
from tests.helpers import eventually


def deaths(it: Fleet, name: str) -> list[Any]:
    return [each for each in it.heard(name) if isinstance(each, list) and each[0] in ("down", "up", "exit")]


def test_each_incarnation_is_told_once_with_its_reason() -> None:
    """H1, H2, H3, A1: a monitor is for one incarnation; whoever monitors twice hears twice; noproc at once."""
    with fleet(actors("a", "b", "c")) as it:
        for name in ("b", "b", "nobody"):
            it.call("a", "do", verb="monitor", args=[name])
        assert eventually(lambda: deaths(it, "a")) == [["down", "nobody", 0, "noproc"]]
        it.kill("b")
        it.node.reborn("b", 1)
        assert eventually(lambda: deaths(it, "a")[1:] == [["down", "b", 1, "killed"]] * 2)
        it.call("a", "do", verb="monitor", args=["b"])
        it.call("b", "end", reason="bored")
        assert eventually(lambda: deaths(it, "a")[3:] == [["down", "b", 2, "error(bored)"]])
        it.kill("b")
        it.node.reborn("b", 3)
        assert len(deaths(it, "a")) == 4


def test_demonitor_means_that_nothing_is_heard() -> None:
    """H1."""
    with fleet(actors("a", "b")) as it:
        with_ref = it.client.monitor("b")
        with_ref.close()
        it.call("a", "do", verb="monitor", args=["b"])
        it.call("a", "do", verb="demonitor", args=[1])
        it.call("a", "do", verb="monitor", args=["b", True])
        it.kill("b")
        it.node.reborn("b", 1)
        expected = [["up", "b", 1], ["down", "b", 1, "killed"], ["up", "b", 2]]
        assert eventually(lambda: [each for each in deaths(it, "a") if each in expected][-1:] == expected[-1:])
        assert with_ref.death is None


def test_messages_of_the_dead_come_before_its_death() -> None:
    """B3: b casts and is killed by its own crash right behind."""
    with fleet(actors("a", "b")) as it:
        it.call("a", "do", verb="monitor", args=["b"])
        it.call("b", "tell", to="a", count=200)
        it.client.cast("b", "fail", text="behind")
        assert eventually(lambda: ["down", "b", 1, "error(RuntimeError: behind)"] in it.heard("a"))
        heard = it.heard("a")
        assert heard[:200] == list(range(200)) and heard[200][0] == "down"


def test_linked_agents_die_together_and_each_once() -> None:
    """H5, H6: a ring of three, of which one is killed; the one that traps is told instead."""
    with fleet(actors("a", "b", "c", "trapper", trapper="args = { trap = true }")) as it:
        for one, other in (("a", "b"), ("b", "c"), ("c", "a"), ("trapper", "a")):
            it.call(one, "do", verb="link", args=[other])
        pids = [it.pid(name) for name in "abc"]
        it.kill("a")
        for name, pid in zip("abc", pids, strict=True):
            it.node.when(name, state="running", generation=2)
            assert gone(pid)
        assert eventually(lambda: deaths(it, "trapper")) == [["exit", "a", 1, "killed"]]
        assert "terminate linked(" in it.node.printed("b") and "terminate linked(" in it.node.printed("c")
        reasons = {name: it.node.worker(name)["last_exit"]["reason"] for name in "bc"}
        assert all(reason.startswith("linked(") for reason in reasons.values()), reasons
        assert [it.generation(name) for name in ("a", "b", "c", "trapper")] == [2, 2, 2, 1]


def test_a_normal_end_ends_nobody_and_unlinked_is_unlinked() -> None:
    """H5."""
    with fleet(actors("a", "b", "c", a='restart = "transient"')) as it:
        it.call("b", "do", verb="link", args=["a"])
        it.call("c", "do", verb="link", args=["b"])
        it.call("c", "do", verb="unlink", args=["b"])
        it.call("a", "end")
        it.node.when("a", state="stopped")
        it.kill("b")
        it.node.reborn("b", 1)
        assert it.generation("c") == 1


def test_a_link_to_nobody_is_an_exit() -> None:
    """H5."""
    with fleet(actors("a", a="args = { trap = true }")) as it:
        it.call("a", "do", verb="link", args=["nobody"])
        assert eventually(lambda: deaths(it, "a")) == [["exit", "nobody", 0, "noproc"]]


def test_a_stopped_agent_that_was_replaced_finds_itself_stale_and_ends() -> None:
    """K8, A2, A5: SIGSTOP past its watchdog; root replaces it, and whatever wakes up again must not speak for the name."""
    with fleet(actors("a", "b", b='watchdog = "500ms"')) as it:
        pid = it.pid("b")
        it.node.kill(pid, signal.SIGSTOP)
        it.node.reborn("b", 1, 20)
        assert eventually(lambda: gone(pid))
        assert it.generation("b") == 2


def test_an_agent_whose_broker_never_answers_ends_in_order() -> None:
    """T35, T13: nothing hangs in zmq_ctx_term, although the broker is stopped with messages for it on their way."""
    with fleet(actors("a", "b")) as it:
        broker = it.broker["pid"]
        it.node.kill(broker, signal.SIGSTOP)
        try:
            it.client.cast("a", "note", what=1)
            begin = time.monotonic()
            it.node.otpd("child", "stop", "a")
            assert time.monotonic() - begin < 4, "its shutdown time is 5 s"
            assert it.node.worker("a")["last_exit"]["reason"] == "shutdown"
            assert "terminate shutdown\n" in it.node.printed("a")
        finally:
            if not gone(broker):
                it.node.kill(broker, signal.SIGCONT)
