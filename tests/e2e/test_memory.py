"""restart_when = { memory = ... } in a real node: measured by the sampler, restarted by root, counted like any restart."""

from __future__ import annotations

import re
import time

import pytest

from tests.e2e.node import Node, gone, node
from tests.e2e.others import as_user, give_away, memory_cgroup, needs_root
from tests.helpers import eventually

GROW = """
import os, signal, sys, time
from otpd.agents import Agent, run

class Grow(Agent):
    async def init(self, size=0):
        if self.generation == 1:
            self.pid = os.fork()
            if self.pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                data = bytearray(b"1") * (size << 20)
                print("grown", flush=True)
                while True:
                    signal.pause()

    async def terminate(self, reason):
        print("terminate", reason, flush=True)

if __name__ == "__main__":
    run(Grow)
"""


def test_a_child_whose_process_tree_uses_more_than_it_may_is_restarted_and_why_says_so() -> None:
    """T8: it is asked to stop as its spec says, and the restart counts in the budget."""
    config = """
        [supervisors.s]
        max_restarts = 2
        max_seconds = 60
        [agents.grow]
        script = "grow.py"
        supervisor = "s"
        args = { size = 150 }
        restart_when = { memory = "120MiB" }
        [agents.quiet]
        script = "grow.py"
        supervisor = "s"
        args = { size = 1 }
        restart_when = { memory = "120MiB" }
    """
    with node(config, {"grow.py": GROW}) as n:
        quiet = n.pid("quiet")
        row = n.reborn("grow", 1, 20)
        assert (row["generation"], row["restarts"]) == (2, 1)
        why = n.json("why", "grow")
        assert why["restarts_in_window"] == 1
        (death,) = why["deaths"]
        assert death["cause"].startswith("memory: its processes use 1")
        assert death["cause"].endswith("MiB, restart_when.memory is 120MiB")
        assert death["reason"] == f"error({death['cause']})"
        assert (death["asked_by"], death["restarts_in_window"]) == (None, 0)
        assert "memory: its processes use" in n.otpd("why", "grow").stdout
        assert "terminate shutdown" in n.log("grow")
        assert n.pid("quiet") == quiet


def test_without_a_limit_there_is_no_sampler() -> None:
    with node('[agents.a]\nscript = "idle.py"\n') as n:
        assert n.facts()["sampler_pid"] is None


def test_the_death_of_the_sampler_touches_nobody_and_its_successor_watches_on() -> None:
    config = """
        [agents.grow]
        script = "grow.py"
        args = { size = 150 }
        restart_when = { memory = "4GiB" }
    """
    with node(config, {"grow.py": GROW}) as n:
        eventually(lambda: "grown" in n.printed("grow"))
        pid, sampler = n.pid("grow"), eventually(lambda: n.facts()["sampler_pid"])
        n.kill(sampler)
        eventually(lambda: n.facts()["sampler_pid"] not in (None, sampler))
        assert gone(sampler)
        assert n.pid("grow") == pid
        events = [(each["event"], each["name"]) for each in n.events()]
        assert ("otpd.helper.exited", "sampler") in events
        _reload_with(n, config.replace("4GiB", "120MiB"))
        assert n.reborn("grow", 1, 20)["generation"] == 2


def test_a_limit_that_a_reload_changes_holds_for_the_process_that_runs() -> None:
    """T27: the change itself restarts nobody."""
    config = """
        [agents.grow]
        script = "grow.py"
        args = { size = 150 }
    """
    with node(config, {"grow.py": GROW}) as n:
        eventually(lambda: "grown" in n.printed("grow"))
        pid = n.pid("grow")
        limited = config + '        restart_when = { memory = "300MiB" }\n'
        _reload_with(n, limited)
        assert n.facts()["sampler_pid"] is not None
        assert n.pid("grow") == pid
        _reload_with(n, limited.replace("300", "120"))
        assert n.reborn("grow", 1, 20)["generation"] == 2
        assert n.json("why", "grow")["deaths"][0]["cause"].startswith("memory: ")
        began = time.monotonic()
        n.stop()
        assert time.monotonic() - began < 4


def _reload_with(n: Node, config: str) -> None:
    n.write("otpd.toml", config)
    n.otpd("reload")


@needs_root
@pytest.mark.parametrize("who", ["root", "a user who may not read the kernel's log"])
def test_a_child_that_the_kernel_killed_for_want_of_memory_is_reported_so(who: str) -> None:
    """Test 28: the reason of the contract stays `killed`; the cause says by whom. One that a person kills has none."""
    config = """
        [agents.idle]
        script = "idle.py"
        [programs.hog]
        command = ["tail", "/dev/zero"]
        limits = { memory = "700MiB" }
        restart = "temporary"
        """
    with memory_cgroup(300 << 20) as procs, node(config, start=False) as n:
        if who != "root":
            n.command = [*as_user(), *n.command]
            give_away(n)
        n.command = ["sh", "-c", f'echo $$ > {procs}; exec "$@"', "sh", *n.command]
        n.otpd("start", "--detach", check=None)
        seen = eventually(lambda: [each for each in n.events() if each["event"] == "otpd.child.oom"], 20)
        assert [(each["name"], each["generation"]) for each in seen] == [("hog", 1)]
        said = "oom: the kernel (killed it because its cgroup|has just killed a process for want)"
        assert re.match(said, seen[0]["reason"])
        exited = [each["reason"] for each in n.events() if each["event"] == "otpd.child.exited" and each["name"] == "hog"]
        assert exited == ["killed"]
        n.kill(n.pid("idle"))
        last = n.reborn("idle", 1)["last_exit"]
        assert (last["reason"], last["signal"], last["cause"]) == ("killed", 9, None)
