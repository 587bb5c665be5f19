"""`otpd reload` on a running node (T25-T28, tests 56 and 57): only what differs is touched, and an error touches nothing."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import OTPD, Node, gone, node
from tests.helpers import eventually

TAGGED = """
from otpd.agents import Agent, run

class Tagged(Agent):
    async def init(self, tag=""):
        print("init", tag, flush=True)

if __name__ == "__main__":
    run(Tagged)
"""
SLOW = """
import asyncio
from otpd.agents import Agent, run

class Slow(Agent):
    async def init(self, start=0.0, stop=0.0):
        self.stop = stop
        await asyncio.sleep(start)
    async def terminate(self, reason):
        await asyncio.sleep(self.stop)

if __name__ == "__main__":
    run(Slow)
"""
FILES = {"tagged.py": TAGGED, "slow.py": SLOW}


def agent(name: str, *lines: str, script: str = "idle.py") -> str:
    return "\n".join([f"[agents.{name}]", f'script = "{script}"', *lines, ""])


def supervisor(name: str, *lines: str) -> str:
    return "\n".join([f"[supervisors.{name}]", *lines, ""])


def rewrite(n: Node, *parts: str) -> None:
    n.write("otpd.toml", "\n".join(parts))


def reload(n: Node, *parts: str) -> dict[str, Any]:
    """Write the config, apply it, give the plan."""
    rewrite(n, *parts)
    found: dict[str, Any] = n.json("reload")
    return found


def alive(n: Node) -> dict[str, tuple[int, int]]:
    """Who runs, as which process."""
    return {name: (row["pid"], row["generation"]) for name, row in n.workers().items() if row["state"] == "running"}


def same(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    """Names whose process is the same."""
    return sorted(name for name in before if before[name] == after.get(name))


def order(n: Node, *path: str) -> list[str]:
    """The children in the order of the tree, of the supervisor at `path`; at the top, after the node's services."""
    found = n.json("tree")["tree"]
    for name in path:
        found = next(child for child in found["children"] if child["name"] == name)
    names = [child["name"] for child in found["children"]]
    assert path or names[0] == "services"
    return names if path else names[1:]


def happened(n: Node, since: int) -> list[tuple[str, str]]:
    """Starts and ends after the first `since` events."""
    kinds = ("otpd.child.started", "otpd.child.exited")
    return [(e["name"], e["event"].removeprefix("otpd.child.")) for e in n.events()[since:] if e["event"] in kinds]


# --- errors ---

INVALID = {
    "unknown key": 'scirpt = "idle.py"',
    "wrong type": "significant = 3",
    "unknown supervisor": 'supervisor = "nobody"',
    "bad signal": 'stop_signal = "FOO"',
    "negative duration": 'shutdown = "-1s"',
    "overflowing duration": 'shutdown = "99999999999999999999h"',
    "no instances": "instances = 0",
    "too many instances": "instances = 100000",
    "missing script": 'script = "gone.py"',
    "bad combination": "significant = true",
}
BROKEN = {
    "empty": b"",
    "NUL": b"[agents.a]\nscript = \"idle.py\"\0\n",
    "not UTF-8": b"[agents.\xff\xfe]\n",
    "not TOML": b"[agents.a\n",
    "duplicate": b'[agents.a]\nscript = "idle.py"\n[programs.a]\ncommand = ["true"]\n',
    "cycle": b'[supervisors.x]\nsupervisor = "y"\n[supervisors.y]\nsupervisor = "x"\n[agents.a]\nscript = "idle.py"\n',
    "own supervisor": b'[supervisors.x]\nsupervisor = "x"\n[agents.a]\nscript = "idle.py"\n',
    "slash": b'[agents."a/b"]\nscript = "idle.py"\n',
    "10 MiB": b'[agents.a]\nscript = "idle.py"\n' + b"x" * (10 << 20),
}


def test_an_invalid_file_changes_nothing() -> None:
    """T25, T26, tests 56 and 57: exit 2, the place of the error, and a tree that is the same to the last process."""
    with node(agent("a") + agent("b")) as n:
        before, events = alive(n), len(n.events())
        for what, line in INVALID.items():
            n.write("otpd.toml", agent("a") + agent("b", line) + agent("c"))
            done = n.otpd("reload", check=2)
            assert "otpd.toml:" in done.stderr, what
            assert "Traceback" not in done.stderr, what
        for content in BROKEN.values():
            (n.home / "otpd.toml").write_bytes(content)
            assert "otpd.toml" in n.otpd("reload", check=2).stderr
        (n.home / "otpd.toml").unlink()
        n.otpd("--config", "otpd.toml", "reload", check=2)
        assert alive(n) == before
        assert len(n.events()) == events
        assert reload(n, agent("a") + agent("b"))["empty"]


@pytest.mark.parametrize("prefix, newline", [("\ufeff", "\n"), ("", "\r\n")], ids=["byte order mark", "CRLF"])
def test_the_same_file_in_another_dress_is_the_same(prefix: str, newline: str) -> None:
    """Test 56."""
    with node(agent("a")) as n:
        before = alive(n)
        text = (n.home / "otpd.toml").read_text()
        (n.home / "otpd.toml").write_bytes((prefix + text.replace("\n", newline)).encode())
        assert n.json("reload")["empty"]
        assert alive(n) == before


# --- what changes ---


def test_a_reload_restarts_exactly_those_whose_running_process_is_not_what_the_file_says() -> None:
    """T27: arguments and environment restart; a comment, a blank, restart type, shutdown and back-off do not."""
    tagged = agent("tagged", 'args = { tag = "one" }', script="tagged.py")
    with node(agent("a") + tagged + agent("z"), FILES) as n:
        before = alive(n)
        assert reload(n, "# a comment", agent("a"), "\n\n", tagged.replace("tag =", "tag   ="), agent("z"))["empty"]
        assert alive(n) == before

        plan = reload(n, agent("a"), tagged.replace("one", "two"), agent("z"))
        assert ([each["path"] for each in plan["changed"]], plan["updated"], plan["applied"]) == (["tagged"], [], True)
        after = alive(n)
        assert same(before, after) == ["a", "z"]
        assert after["tagged"][1] == 2
        assert n.log("tagged") == "init one\ninit two\n"
        (death,) = n.json("why", "tagged")["deaths"]
        assert (death["asked_by"], death["reason"]) == ("reload", "shutdown")

        softer = agent("a", 'restart = "transient"', 'shutdown = "9s"', "backoff = false", 'start_timeout = "7s"')
        plan = reload(n, softer, tagged.replace("one", "two"), agent("z", 'env = { A = "1" }'))
        assert [each["path"] for each in plan["updated"]] == ["a"]
        assert [each["path"] for each in plan["changed"]] == ["z"]
        assert same(after, alive(n)) == ["a", "tagged"]
        assert n.worker("a")["restart"] == "transient"


def test_plan_says_what_a_reload_would_do_and_does_nothing() -> None:
    with node(agent("a") + agent("b")) as n:
        before, events = alive(n), len(n.events())
        rewrite(n, agent("b", 'env = { A = "1" }'), agent("c"))
        text = n.otpd("reload", "--plan").stdout
        assert [line.split()[0] for line in text.splitlines()[:3]] == ["stop", "start", "restart"]
        assert "nothing was changed" in text
        plan = n.json("reload", "--plan")
        assert (plan["removed"], plan["added"], plan["applied"]) == (["a"], ["c"], False)
        assert (alive(n), len(n.events())) == (before, events)


def test_children_are_added_removed_and_reordered_and_nobody_else_is_touched() -> None:
    """T27, T1: what is removed is gone with its process; the order of the tree is the order of the file."""
    with node(agent("a") + agent("b") + agent("c")) as n:
        before = alive(n)
        plan = reload(n, agent("c"), agent("new"), agent("a"))
        assert (plan["removed"], plan["added"], plan["reordered"]) == (["b"], ["new"], [""])
        after = alive(n)
        assert same(before, after) == ["a", "c"]
        assert sorted(after) == ["a", "c", "new"]
        assert gone(before["b"][0])
        assert order(n) == ["c", "new", "a"]
        events = len(n.events())
        n.stop()
        assert events


def test_supervisors_are_added_and_removed_and_their_flags_change_without_a_restart() -> None:
    """T27: flags hold for the running supervisor; children of a removed one are gone, in reverse order."""
    inner = supervisor("s", 'strategy = "one_for_all"', "max_restarts = 1")
    children = agent("x", 'supervisor = "s"') + agent("y", 'supervisor = "s"')
    with node(agent("a")) as n:
        before = alive(n)
        plan = reload(n, inner, agent("a"), children)
        assert plan["added"] == ["s"]
        added = alive(n)
        assert sorted(added) == ["a", "x", "y"]
        assert same(before, added) == ["a"]

        plan = reload(n, inner.replace("one_for_all", "one_for_one").replace("= 1", "= 7"), agent("a"), children)
        assert [each["path"] for each in plan["supervisors"]] == ["s"]
        assert same(added, alive(n)) == ["a", "x", "y"]
        (shown,) = [each for each in n.json("tree")["tree"]["children"] if each["name"] == "s"]
        assert (shown["strategy"], shown["max_restarts"]) == ("one_for_one", 7)
        n.kill(added["x"][0])
        n.reborn("x", 1)
        assert same(added, alive(n)) == ["a", "y"], "the new strategy is in force"

        events = len(n.events())
        assert reload(n, agent("a"))["removed"] == ["s"]
        assert same(before, alive(n)) == ["a"]
        assert sorted(n.workers()) == ["a"]
        assert happened(n, events) == [("y", "exited"), ("x", "exited")]


def test_a_child_that_moves_to_another_supervisor_ends_there_before_it_starts_here() -> None:
    """T27: never two of one name, and its generations go on counting: (name, generation) never means two processes."""
    s = supervisor("s")
    with node(s + agent("stays", 'supervisor = "s"') + agent("moves")) as n:
        before, events = alive(n), len(n.events())
        n.kill(before["moves"][0])
        n.reborn("moves", 1)
        events = len(n.events())
        plan = reload(n, s, agent("stays", 'supervisor = "s"'), agent("moves", 'supervisor = "s"'))
        assert plan["moved"] == [{"name": "moves", "from": "moves", "to": "s/moves"}]
        row = n.worker("moves")
        assert (row["path"], row["generation"], row["state"]) == ("s/moves", 3, "running")
        assert happened(n, events) == [("moves", "exited"), ("moves", "started")]
        assert same(before, alive(n)) == ["stays"]
        s = supervisor("t") + supervisor("s", 'supervisor = "t"')
        reload(n, s, agent("stays", 'supervisor = "s"'), agent("moves"))
        assert {name: row["generation"] for name, row in n.workers().items()} == {"stays": 2, "moves": 4}
        assert n.worker("stays")["path"] == "t/s/stays"
        assert [line for line in n.log("moves").splitlines() if line == "init"] == ["init"] * 4


def test_a_group_changes_its_size_and_the_others_of_it_run_on() -> None:
    with node(agent("g", "instances = 2") + agent("z")) as n:
        before = alive(n)
        reload(n, agent("g", "instances = 4"), agent("z"))
        grown = alive(n)
        assert sorted(grown) == ["g-1", "g-2", "g-3", "g-4", "z"]
        assert same(before, grown) == ["g-1", "g-2", "z"]
        assert order(n) == ["g-1", "g-2", "g-3", "g-4", "z"]
        reload(n, agent("g", "instances = 3"), agent("z"))
        assert same(grown, alive(n)) == ["g-1", "g-2", "g-3", "z"]
        reload(n, agent("g"), agent("z"))
        assert sorted(alive(n)) == ["g", "z"]
        assert same(before, alive(n)) == ["z"]


def test_what_was_stopped_by_hand_stays_down() -> None:
    """T27, T28: changed or not; it comes with its new spec when it is started by hand."""
    tagged = agent("tagged", 'args = { tag = "one" }', script="tagged.py")
    with node(tagged + agent("b"), FILES) as n:
        n.otpd("child", "stop", "tagged", "b")
        reload(n, tagged.replace("one", "two"), agent("b"), agent("c"))
        assert n.states() == {"tagged": "stopped", "b": "stopped", "c": "running"}
        n.otpd("child", "start", "tagged")
        assert n.when("tagged", state="running")["generation"] == 2
        eventually(lambda: n.printed("tagged") == "init one\ninit two\n")


def test_a_child_that_had_given_up_is_started_when_its_spec_changes() -> None:
    """It is not down by anybody's wish."""
    failing = '[programs.p]\ncommand = ["false"]\nbackoff = { initial = "30s", max = "30s" }\n'
    with node(agent("a") + failing, start=False) as n:
        n.start(1, "--timeout", "3s")
        n.when("p", state="backoff")
        reload(n, agent("a"), failing.replace('"false"', '"sleep", "1000"'))
        assert n.states() == {"a": "running", "p": "running"}


def test_a_node_keeps_its_name_and_its_directory_while_it_runs() -> None:
    with node('[node]\nname = "one"\n' + agent("a")) as n:
        before = alive(n)
        rewrite(n, '[node]\nname = "two"\n', agent("a"), agent("b"))
        done = n.otpd("reload", check=3)
        assert "node.name can't change while the node runs" in done.stderr
        assert alive(n) == before
        assert n.facts()["name"] == "one"


# --- by hand and by file ---


def test_what_scale_changes_is_marked_and_lasts_until_a_reload() -> None:
    """T28: the file is the truth. Nobody who is in the file is restarted for it."""
    config = agent("g", "instances = 2") + agent("z")
    with node(config) as n:
        before = alive(n)
        assert n.json("scale", "g", "4") == {"added": ["g-3", "g-4"], "removed": []}
        assert {name for name, row in n.workers().items() if row["runtime"]} == {"g-3", "g-4"}
        assert "runtime" in n.otpd("tree").stdout
        n.kill(n.pid("g-3"))
        n.reborn("g-3", 1)
        plan = n.json("reload", "--plan")
        assert (plan["removed"], plan["added"]) == (["g-4", "g-3"], [])
        assert n.worker("g-4")["state"] == "running"
        n.otpd("reload")
        assert same(before, alive(n)) == ["g-1", "g-2", "z"]
        assert sorted(n.workers()) == ["g-1", "g-2", "z"]

        n.otpd("scale", "g", "1")
        assert sorted(n.workers()) == ["g-1", "z"]
        plan = n.json("reload")
        assert (plan["added"], plan["applied"]) == (["g-2"], True)
        assert sorted(alive(n)) == ["g-1", "g-2", "z"]
        assert order(n) == ["g-1", "g-2", "z"]
        assert not [row for row in n.workers().values() if row["runtime"]]
        assert n.worker("g-2")["generation"] == 2
        assert n.json("reload")["empty"]


def test_what_was_deleted_by_hand_comes_back_with_a_reload() -> None:
    """T28."""
    with node(agent("a") + agent("b")) as n:
        before = alive(n)
        n.otpd("child", "stop", "a")
        n.otpd("child", "delete", "a")
        assert sorted(n.workers()) == ["b"]
        assert n.json("reload")["added"] == ["a"]
        assert (order(n), alive(n)["b"]) == (["a", "b"], before["b"])


def test_a_temporary_child_that_has_done_its_work_is_not_done_again() -> None:
    """T27: nothing of it has changed; one that is changed has ended all the same."""
    once = '[programs.once]\ncommand = ["true"]\nrestart = "temporary"\n'
    with node(agent("a") + once) as n:
        eventually(lambda: "once" not in n.workers())
        assert reload(n, "# comment", agent("a"), once)["empty"]
        reload(n, agent("a"), once, agent("b"))
        assert sorted(alive(n)) == ["a", "b"]
        assert sum(each["event"] == "otpd.child.started" and each["name"] == "once" for each in n.events()) == 1


def test_nothing_writes_to_the_files_of_the_user() -> None:
    """T28: after scale, reload, stop and start by hand, and a root that was killed."""
    config = agent("g", "instances = 2") + agent("z")
    with node(config, FILES) as n:
        users = [path for path in n.home.rglob("*") if path.is_file() and not inside(path, n.home / ".otpd", n.runtime)]
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in users}
        assert n.home / "otpd.toml" in before
        n.otpd("scale", "g", "3")
        n.otpd("child", "stop", "z")
        n.otpd("child", "delete", "z")
        n.otpd("reload")
        root = n.facts()["pid"]
        n.kill(root)
        eventually(lambda: n.answers() and n.facts()["pid"] != root)
        n.otpd("status", "--wait", "ready")
        assert sorted(n.workers()) == ["g-1", "g-2", "z"]
        assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in users} == before


def inside(path: Path, *directories: Path) -> bool:
    return any(directory in path.parents for directory in directories)


def test_a_root_that_starts_again_goes_by_the_last_reload() -> None:
    """T28: not by the file, which may have changed since and may be wrong."""
    with node(agent("a")) as n:
        reload(n, agent("a"), agent("b"))
        rewrite(n, "[broken")
        root = n.facts()["pid"]
        n.kill(root)
        eventually(lambda: n.answers() and n.facts()["pid"] != root)
        n.when("a", state="running")
        n.when("b", state="running")
        assert sorted(n.workers()) == ["a", "b"]


# --- at bad moments ---


def test_a_reload_while_children_start_and_stop_waits_for_its_turn() -> None:
    """Test 57: one that takes its time to start, one that takes its time to stop, and a second reload meanwhile."""
    starting = agent("starting", "args = { start = 1.0 }", script="slow.py")
    stopping = agent("stopping", "args = { stop = 1.0 }", script="slow.py")
    with node(stopping + agent("a"), FILES) as n:
        before = alive(n)
        rewrite(n, starting, agent("a"))
        first = subprocess.Popen([*OTPD, "reload"], cwd=n.home, env=n.env)
        n.when("stopping", state="stopping")
        final = [starting, agent("a"), agent("b")]
        assert reload(n, *final)["added"] == ["b"]
        assert first.wait(60) == 0
        after = alive(n)
        assert sorted(after) == ["a", "b", "starting"]
        assert after["starting"][1] == 1
        assert same(before, after) == ["a"]
        assert gone(before["stopping"][0])
        assert n.json("reload")["empty"]


def test_reloads_at_the_same_instant_end_as_the_last_one_says() -> None:
    """Each is answered; nobody is started twice or left over."""
    with node(agent("a")) as n:
        before = alive(n)
        rewrite(n, agent("a"), agent("g", "instances = 3"))
        codes: list[int] = []
        threads = [threading.Thread(target=lambda: codes.append(n.otpd("reload", check=None).returncode)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [0] * 5
        assert {name: generation for name, (_, generation) in alive(n).items()} == {"a": 1, "g-1": 1, "g-2": 1, "g-3": 1}
        assert same(before, alive(n)) == ["a"]


def test_a_stop_during_a_reload_ends_in_down() -> None:
    """T24: nobody waits for the slow ones."""
    with node(agent("a"), FILES) as n:
        rewrite(n, agent("a"), agent("slow", "args = { start = 100.0 }", 'start_timeout = "100s"', script="slow.py"))
        reloading = subprocess.Popen([*OTPD, "reload"], cwd=n.home, env=n.env, stderr=subprocess.DEVNULL)
        n.when("slow", state="starting")
        n.stop()
        assert reloading.wait(60) != 0
        assert not n.answers()


def test_what_a_reload_could_not_start_is_told_and_the_rest_is_done() -> None:
    bad = '[programs.bad]\ncommand = ["sh", "-c", "exit 3"]\nready = "notify"\n'
    with node(agent("a")) as n:
        rewrite(n, agent("a"), bad, agent("b"))
        done = n.otpd("reload", check=1)
        assert "bad did not start: error(3)" in done.stderr
        assert sorted(alive(n)) == ["a", "b"]
