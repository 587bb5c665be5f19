"""What goes wrong in root itself or just beside it: a bug in the tree, a heart that dies too early, helpers that are gone
at the wrong moment, processes that nobody can end. Faults are put into the real root through a sitecustomize."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from otpd.ipc.control import ControlError
from tests.e2e.node import OTPD, Node, gone, node
from tests.e2e.others import needs_root
from tests.e2e.stuckfs import stuck_directory
from tests.e2e.watching import everything, linux_children, no_old_zombies, nothing_is_left, seen, stat
from tests.helpers import eventually

IDLE_AGENT = """
[agents.idle]
script = "idle.py"
"""
INJECTED = """
import os, sys, time

def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)

if "otpd.supervisor.root" in sys.orig_argv:
    home = {home!r}
    os.chdir(home)
"""
#: A request is the first thing after the file `break` is there that the tree fails to digest.
BUG = """
    import otpd.supervisor.tree
    handle = otpd.supervisor.tree.Tree.handle

    def broken(self, event, now):
        if type(event).__name__ == "Request" and os.path.exists("break"):
            os.unlink("break")
            raise RuntimeError("a bug in the tree")
        return handle(self, event, now)

    otpd.supervisor.tree.Tree.handle = broken
"""
SLOW_START = """
    wait_for("go")
"""
#: The directory service that knows the users does not answer: who asks it waits for ever.
NO_DIRECTORY = """
    import pwd
    pwd.getpwnam = lambda name: wait_for("never")
"""


def inject(n: Node, fault: str) -> None:
    n.write("inject/sitecustomize.py", INJECTED.format(home=str(n.home)) + fault)
    n.env["PYTHONPATH"] = str(n.home / "inject")


def test_a_bug_in_the_tree_ends_root_and_the_node_starts_anew() -> None:
    """Whoever's request it was: a table that may be wrong supervises nobody, and answers nobody."""
    with node(IDLE_AGENT, start=False) as n, no_old_zombies(n):
        inject(n, BUG)
        n.start()
        root, idle = n.facts()["pid"], n.pid("idle")
        n.write("break", "")
        with pytest.raises(ControlError) as caught:
            n.ask("child", action="stop", names=["idle"])
        assert caught.value.code == 7
        eventually(lambda: gone(idle))
        n.when("idle", state="running", generation=1)
        assert n.facts()["pid"] != root
        assert "RuntimeError: a bug in the tree" in (n.home / ".otpd" / "heart.log").read_text()


def test_a_heart_that_dies_while_root_starts_takes_root_with_it() -> None:
    """Test 3: root's parent is then whoever adopts it, and must not pass for its heart."""
    with node(IDLE_AGENT, start=False) as n:
        inject(n, SLOW_START)
        command = [*OTPD, "start", "--detach"]
        start = subprocess.Popen(command, cwd=n.home, env=n.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        root = eventually(lambda: [each for each in everything(n) if "otpd.supervisor.root" in each.title])[0]
        found = stat(root.pid)
        assert found is not None
        heart = found[1]
        assert "heart" in (seen(heart) or root).title
        n.kill(heart)
        eventually(lambda: gone(heart))
        n.write("go", "")
        nothing_is_left(n)
        _, said = start.communicate(timeout=30)
        assert (start.returncode, "did not start: heart ended with signal 9" in said) == (1, True)
        words = "otpd: root: heart died while root started; start the node again with: otpd start\n"
        assert (n.home / ".otpd" / "heart.log").read_text() == words
        assert n.printed("idle") == ""


def test_a_blank_that_is_killed_before_it_is_used_is_no_failed_start() -> None:
    """The blanks and the agent die in one instant; root hears of the agent first and gives its job to a dead blank."""
    with node(IDLE_AGENT) as n, no_old_zombies(n):
        blanks: list[int] = eventually(lambda: len(found := n.facts()["blanks"]) == 2 and found)
        row, root = n.worker("idle"), n.facts()["pid"]
        n.kill(root, 19)
        try:
            for pid in (*blanks, row["pid"]):
                n.kill(pid)
            eventually(lambda: all(gone(pid) for pid in (*blanks, row["pid"])))
        finally:
            n.kill(root, 18)
        after = n.reborn("idle", 1)
        assert (after["generation"], after["restarts"]) == (2, 1)
        assert [each["event"] for each in n.events() if each["event"] == "otpd.child.start_failed"] == []


def test_what_could_not_be_ended_is_reaped_when_it_goes_at_last() -> None:
    """Test 34, T3: the child was given up in state D; its file system answers a while later."""
    config = '[programs.stuck]\ncommand = ["stat", "stuck/file"]\nshutdown = "100ms"\n'
    with node(config + IDLE_AGENT, start=False) as n, no_old_zombies(n):
        with stuck_directory(n.home / "stuck"):
            n.start()
            stuck = n.pid("stuck")
            eventually(lambda: (found := seen(stuck)) is not None and "stat" in found.title)
            with pytest.raises(ControlError) as caught:
                n.ask("child", timeout=30.0, action="stop", names=["stuck"])
            left = f"stuck: stopped, but this could not be ended: /usr/bin/stat stuck/file (pid {stuck})"
            assert (caught.value.code, caught.value.error) == (1, left)
            assert not gone(stuck)
        eventually(lambda: stuck not in linux_children(n.facts()["pid"]), what="reaped")
        assert n.states() == {"stuck": "stopped", "idle": "running"}
        deaths: list[dict[str, Any]] = n.json("why", "stuck")["deaths"]
        assert [death["left"] for death in deaths] == [[f"/usr/bin/stat stuck/file (pid {stuck})"]]


@needs_root
def test_root_never_waits_for_a_directory_service_whatever_a_child_of_another_user_needs() -> None:
    """A user is looked up by the process that becomes him: the worker, and the probe that asks whether it is ready."""
    config = IDLE_AGENT + """
        [programs.probed]
        command = ["sleep", "1000"]
        user = "nobody"
        cwd = "/"
        ready = { exec = ["sh", "-c", "id -un > /tmp/OUT; test -e GO"] }
        """
    with node("", start=False) as n:
        n.write("otpd.toml", config.replace("/tmp/OUT", f"{n.home}/who").replace("GO", f"{n.home}/go"))
        n.home.chmod(0o711)
        who = n.write("who", "")
        who.chmod(0o666)
        inject(n, NO_DIRECTORY)
        n.otpd("start", "--detach", "--timeout", "1ms", check=None)
        eventually(lambda: who.read_text() == "nobody\n", what="the probe runs as the child's user")
        assert n.worker("probed")["state"] == "starting"
        n.write("go", "").chmod(0o644)
        n.when("probed", state="running")
        blanks: list[int] = eventually(lambda: len(found := n.facts()["blanks"]) == 2 and found)
        assert n.pid("idle") not in blanks
        n.stop()
        nothing_is_left(n)
