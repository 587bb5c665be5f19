"""Children that the kernel kills for want of memory (test 28); what restart_when restarts is in test_health."""

from __future__ import annotations

import re

import pytest

from tests.e2e.node import node
from tests.e2e.others import as_user, give_away, memory_cgroup, needs_root
from tests.helpers import eventually


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
