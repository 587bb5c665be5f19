"""Children that an agent starts for itself: they live and end with it, whoever is killed, and root is never hurt."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bosses import CONFIG, FILES, ask, asking, start
from tests.e2e.node import Node, gone, node
from tests.e2e.others import needs_root
from tests.e2e.watching import alive, by_child, everything, of_child
from tests.helpers import eventually


@pytest.fixture
def n() -> Iterator[Node]:
    with node(CONFIG, FILES) as made:
        yield made


def tree(n: Node) -> dict[str, Any]:
    """The boss as `otpd tree --json` has it."""
    return next(child for child in n.ask("tree")["tree"]["children"] if child["name"] == "boss")


def below(n: Node) -> list[int]:
    """Pids of all who were ever below the boss."""
    path = n.home / "boss.below"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def said(n: Node, name: str, text: str, count: int = 1) -> list[str]:
    """Lines of its log that begin with `text`, once there are so many: the logger is in no hurry."""

    def found() -> list[str] | None:
        lines = [line for line in n.printed(name).splitlines() if line.startswith(text)]
        return lines if len(lines) >= count else None

    return eventually(found, 10, f"{count} lines of {name} with {text}")  # type: ignore[return-value]


# --- starting, looking, stopping ---


def test_a_child_lives_below_its_owner_and_is_stopped_by_name(n: Node) -> None:
    assert ask(n, ["which"]) == [(True, [])]
    row = start(n, "x", args={"how": "well"})
    assert (row["path"], row["kind"], row["runtime"], row["state"]) == ("boss/x", "agent", True, "running")
    assert [child["path"] for child in tree(n)["children"]] == ["boss/x"]
    here = {"name": "x", "state": "running", "generation": 1, "pid": row["pid"], "restarts": 0}
    answers = ask(n, ["which"], ["stop", "x"], ["stop", "x"], ["which"])
    assert answers == [(True, [here]), (True, {"name": "x", "generation": 1}), (False, 'boss has no child "x"'), (True, [])]
    assert gone(row["pid"]) and "x" not in n.workers() and "children" not in tree(n)
    assert said(n, "x", "terminate") == ["terminate shutdown"]
    assert ask(n, ["start", {"name": "x", "script": "child.py"}]) == [(True, {"name": "x", "generation": 2})]


def test_a_child_may_be_any_program(n: Node) -> None:
    row = start(n, "sleeper", command=["sleep", "1000"])
    assert (row["kind"], row["path"]) == ("program", "boss/sleeper")
    assert ask(n, ["stop", "sleeper"]) == [(True, {"name": "sleeper", "generation": 1})]


def test_why_a_child_did_not_start_is_the_answer(n: Node) -> None:
    def why(**table: Any) -> str:
        ((ok, text),) = ask(n, ["start", {"name": "x", **table}])
        assert not ok
        return str(text)

    assert why(script="child.py", args={"how": "crash"}) == (
        "x did not start: error(ValueError: boom); what it printed: otpd logs x"
    )
    assert why(script="child.py", args={"how": "ignore"}) == "x declined to start: it says that there is nothing to run"
    assert why(command=["false"], ready="notify").startswith("x did not start: error(1)")
    late = why(kind="program", script="never.py", ready="notify", start_timeout="100ms")
    assert late.startswith("x did not start: not ready within 0.1 s")
    missing = f'expected a Python script, got {n.home / "chidl.py"}, which does not exist; did you mean "child.py"?'
    assert why(script="chidl.py") == f'the table of "x": script: {missing}'
    assert ask(n, ["which"]) == [(True, [])]


def test_a_name_is_had_by_one_child_of_the_node() -> None:
    config = CONFIG + '[agents.other]\nscript = "boss.py"\n[agents.idle]\nscript = "idle.py"\n'
    with node(config, FILES) as n:
        start(n, "x")
        table = {"script": "child.py"}
        answers = ask(n, *(["start", {"name": name, **table}] for name in ("x", "idle", "broker")))
        assert [text for _, text in answers] == [
            "x is a child of boss already (generation 1, running); stop it first, or choose another name",
            "the name idle is taken by idle; names are unique in a node, choose another",
            'name: expected a name of your own, got "broker": the node uses it itself; did you mean "my-broker"?',
        ]
        assert ask(n, ["start", {"name": "x", **table}], ["stop", "x"], boss="other") == [
            (False, "the name x is taken by boss/x, a child of boss; names are unique in a node, choose another"),
            (False, "x is no child of other: it is boss/x, and only who started it stops it"),
        ]


# --- who is killed ---


def test_children_are_gone_before_the_next_incarnation_of_a_killed_owner_starts(n: Node) -> None:
    first, second = start(n, "x")["pid"], start(n, "y")["pid"]
    n.kill(n.pid("boss"))
    n.reborn("boss", 1)
    assert gone(first) and gone(second)
    assert said(n, "boss", "survivors", 2) == ["survivors []", "survivors []"]
    assert [said(n, name, "terminate") for name in "xy"] == [["terminate shutdown"]] * 2
    assert ask(n, ["which"]) == [(True, [])]
    events = [(e["event"], e["name"]) for e in n.events() if e["name"] in ("boss", "x", "y")]
    assert events.index(("otpd.child.exited", "boss")) < events.index(("otpd.child.exited", "x"))
    assert events.index(("otpd.child.exited", "y")) < events.index(("otpd.children.ended", "boss"))


def test_a_killed_child_is_restarted_alone(n: Node) -> None:
    start(n, "x")
    pid = start(n, "y")["pid"]
    n.kill(n.pid("x"))
    row = n.reborn("x", 1)
    assert (row["restarts"], row["runtime"], row["last_exit"]["reason"]) == (1, True, "killed")
    assert (n.pid("y"), n.worker("boss")["generation"]) == (pid, 1)
    why = n.ask("why", name="x")
    assert (why["supervisor"], why["strategy"], why["restarts_in_window"]) == ("boss", "one_for_one", 1)
    assert (why["max_restarts"], why["max_seconds"]) == (3, 5)


def test_children_that_restart_too_often_end_their_owner_with_its_farewell() -> None:
    with node(CONFIG + "env = { FAREWELL = '[[\"which\"]]' }\n", FILES) as n:
        start(n, "x")
        other = start(n, "y")["pid"]
        for generation in range(1, 4):
            n.kill(n.pid("x"))
            n.reborn("x", generation)
        n.kill(n.pid("x"))
        row = n.reborn("boss", 1)
        assert row["last_exit"]["reason"] == "error(children: shutdown)"
        assert gone(other) and ask(n, ["which"]) == [(True, [])]
        assert said(n, "boss", "farewell") == ["farewell [[0, true, []]]"]


def test_a_start_that_is_pending_ends_with_its_owner(n: Node) -> None:
    table = {"name": "slow", "kind": "program", "script": "never.py", "ready": "notify", "start_timeout": "1h"}
    with asking(n, "boss", [["start", table]]):
        n.when("slow", state="starting")
        (pid,) = eventually(lambda: below(n))
        n.kill(n.pid("boss"))
        n.reborn("boss", 1)
    assert gone(pid) and "slow" not in n.workers()


def test_a_stop_of_the_node_ends_a_start_that_is_pending(n: Node) -> None:
    table = {"name": "slow", "kind": "program", "script": "never.py", "ready": "notify", "start_timeout": "1h"}
    with asking(n, "boss", [["start", table]]):
        n.when("slow", state="starting")
        seen = everything(n)
        n.stop()
    assert alive(seen) == []


def test_a_killed_root_takes_all_along_and_owners_begin_anew(n: Node) -> None:
    pid = start(n, "x")["pid"]
    n.kill(n.facts()["pid"])
    eventually(lambda: gone(pid))
    eventually(n.answers)
    n.when("boss", state="running")
    assert ask(n, ["which"]) == [(True, [])]
    assert said(n, "boss", "survivors", 2)[-1] == "survivors []"


def test_what_a_child_leaves_behind_goes_with_it(n: Node) -> None:
    start(n, "x", command=["sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & wait"])
    seen = eventually(lambda: len(found := of_child(n, "x")) >= 3 and found)
    n.kill(n.pid("boss"))
    n.reborn("boss", 1)
    assert alive(seen) == []


def test_children_of_children_go_with_the_first_owner(n: Node) -> None:
    start(n, "middle", script="boss.py")
    row = start(n, "x", boss="middle")
    assert row["path"] == "boss/middle/x"
    assert tree(n)["children"][0]["children"][0]["name"] == "x"
    n.kill(n.pid("boss"))
    n.reborn("boss", 1)
    assert gone(row["pid"]) and set(n.workers()) == {"boss"}


# --- the owner is asked ---


def test_an_owner_has_its_children_until_it_has_taken_leave() -> None:
    farewell = json.dumps([["stop", "x"], ["which"], ["start", {"name": "z", "script": "child.py"}]])
    with node(CONFIG + f"env = {{ FAREWELL = '{farewell}' }}\n", FILES) as n:
        start(n, "x")
        pid = start(n, "y")["pid"]
        n.otpd("child", "stop", "boss")
        assert gone(pid) and n.states() == {"boss": "stopped"}
        ((_, ok, value), (_, _, rows), (_, started, why)) = json.loads(said(n, "boss", "farewell")[0].partition(" ")[2])
        assert (ok, value, [row["name"] for row in rows]) == (True, {"name": "x", "generation": 1}, ["y"])
        assert (started, why) == (False, "boss is being stopped, and with it its children; none is started any more")
        n.otpd("child", "start", "boss")
        start(n, "x")
        n.stop()
        assert "[0, true, " in said(n, "boss", "farewell", 2)[1]


def test_children_may_be_started_before_the_owner_is_ready() -> None:
    early = json.dumps([["start", {"name": "x", "script": "child.py"}]])
    with node(CONFIG + f"env = {{ EARLY = '{early}' }}\n", FILES) as n:
        assert said(n, "boss", "early") == ['early [[0, true, {"name": "x", "generation": 1}]]']
        assert n.worker("x")["path"] == "boss/x"


# --- operators ---


def test_the_command_line_knows_children_like_anybody_else(n: Node) -> None:
    pid = start(n, "x")["pid"]
    assert n.otpd("signal", "CONT", "x").returncode == 0
    assert "init" in n.log("x")
    shown = n.otpd("tree").stdout.splitlines()
    boss, x = shown[-2:]
    assert boss.startswith("└─ ● boss ") and x.startswith("   └─ ● x ") and x.endswith("  runtime")
    assert [row["name"] for row in n.json("status", "boss")] == ["boss", "x"]
    n.otpd("restart", "x")
    row = n.worker("x")
    assert gone(pid) and (row["generation"], row["path"]) == (2, "boss/x")
    assert "is running already" in n.otpd("child", "start", "x", check=3).stderr
    n.otpd("child", "stop", "x")
    assert gone(row["pid"]) and ask(n, ["which"]) == [(True, [])]
    n.otpd("child", "start", "x", check=4)


def test_a_reload_lets_children_be_while_their_owner_runs_on(n: Node) -> None:
    pid = start(n, "x")["pid"]
    n.write("otpd.toml", CONFIG + '[agents.more]\nscript = "idle.py"\n')
    n.otpd("reload")
    assert (n.pid("x"), n.worker("x")["runtime"], n.states()["more"]) == (pid, True, "running")
    n.write("otpd.toml", CONFIG + '[agents.x]\nscript = "idle.py"\n')
    refused = n.otpd("reload", check=3).stderr
    assert "the name 'x' is taken by boss/x, which its agent has started" in refused and n.pid("x") == pid
    n.write("otpd.toml", CONFIG + 'env = { A = "1" }\n')
    n.otpd("reload")
    assert gone(pid) and n.states() == {"boss": "running"}


def test_new_instances_leave_the_names_of_own_children_alone() -> None:
    with node(CONFIG + '[agents.idle]\nscript = "idle.py"\n', FILES) as n:
        start(n, "idle-2")
        assert n.json("scale", "idle", "2")["added"] == ["idle-3"]


# --- agents that mean no good ---


@needs_root
def test_an_agent_without_rights_gets_no_more_by_its_children() -> None:
    config = CONFIG + 'user = "nobody"\nlimits = { files = 64 }\n'
    with node(config, FILES, start=False) as n:
        n.home.chmod(0o777)
        (n.home / "secret").mkdir(0o700)
        n.start()
        row = start(n, "x", command=["sleep", "1000"], limits={"files": 4096})
        assert os.stat(f"/proc/{row['pid']}").st_uid == pwd.getpwnam("nobody").pw_uid
        limits = Path(f"/proc/{row['pid']}/limits").read_text()
        assert re.search(r"Max open files +64 +64", limits), limits
        (_, refused), (_, hidden) = ask(
            n,
            ["start", {"name": "y", "script": "child.py", "user": "root"}],
            ["start", {"name": "z", "script": "secret/plan.py"}],
        )
        assert 'user: expected the user of its owner, "nobody", or no key user, got "root"' in refused
        assert hidden.startswith(f"z did not start: script {n.home}/secret/plan.py: Permission denied"), hidden


def test_garbage_is_answered_or_ignored_and_hurts_nobody(n: Node) -> None:
    answers = ask(n, [], ["dance", 7], ["start"], ["start", 7], ["stop", {"a": 1}], ["stop", "../x"], ["which", 1])
    assert [ok for ok, _ in answers] == [False] * 7
    expected = "expected start and a table, stop and a name, or which; got "
    got = [text.removeprefix(expected) for _, text in answers[:3]]
    assert got == ["nothing", 'the string "dance" and 1 more', 'the string "start" and 0 more']
    assert answers[4][1] == "expected the name of a child, got a table"
    assert start(n, "x")["state"] == "running"


def test_a_flood_of_requests_is_refused_and_root_goes_on_answering(n: Node) -> None:
    pid = n.facts()["pid"]
    with asking(n, "boss", "flood") as lines:
        for _ in range(20):
            assert n.workers()["boss"]["state"] == "running"
        assert json.loads(lines.readline()) == []
    assert os.path.exists(f"/proc/{pid}") and n.facts()["pid"] == pid
    n.kill(n.pid("boss"))
    n.reborn("boss", 1)
    assert start(n, "x")["generation"] == 1


# --- agents that mean well ---

COORDINATOR = """
from otpd.agents import Agent, run

class Coordinator(Agent):
    async def init(self):
        self.started = [await self.start_child({"name": f"w{n}", "script": "doubler.py", "args": {"n": n}}) for n in (1, 2)]
        print("sum", sum([await self.call(f"w{n}", "double") for n in (1, 2)]), flush=True)

    async def terminate(self, reason):
        print("farewell", await self.call("w1", "double"), [row["name"] for row in await self.children()], flush=True)

run(Coordinator)
"""

DOUBLER = """
from otpd.agents import Agent, call, run

class Doubler(Agent):
    async def init(self, n):
        self.n = n

    @call
    async def double(self) -> int:
        return 2 * self.n

run(Doubler)
"""


def test_own_children_are_agents_with_names_from_init_to_terminate() -> None:
    config = '[agents.coordinator]\nscript = "coordinator.py"\n'
    with node(config, {"coordinator.py": COORDINATOR, "doubler.py": DOUBLER}) as n:
        assert said(n, "coordinator", "sum") == ["sum 6"]
        n.kill(n.pid("coordinator"))
        n.reborn("coordinator", 1)
        assert [n.worker(name)["generation"] for name in ("w1", "w2")] == [2, 2]
        n.stop()
        assert said(n, "coordinator", "sum", 2) == ["sum 6", "sum 6"]
        assert said(n, "coordinator", "farewell") == ["farewell 2 ['w1', 'w2']"]


# --- all at once ---


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_killed_in_whatever_order_nobody_outlives_who_started_him(seed: int) -> None:
    chance = random.Random(seed)
    killed: set[int] = set()
    config = "".join(f'[agents.{name}]\nscript = "boss.py"\nbackoff = false\n' for name in ("boss", "other"))
    with node(config, FILES) as n:
        for _ in range(30):
            boss = chance.choice(["boss", "other"])
            rows = [row for row in n.workers().values() if row["pid"] and row["kind"] == "agent"]
            names = [f"{boss}-{k}" for k in chance.sample(range(4), 2)]
            tables = [{"name": name, "script": "child.py", "args": {"owner": boss}} for name in names]
            what = chance.choice(["start", "start", "kill", "stop", "start and kill"])
            if what == "kill" and rows:
                kill(n, chance.choice(rows)["pid"], killed)
                continue
            requests = [["stop", name] for name in names] if what == "stop" else [["start", table] for table in tables]
            with contextlib.suppress(OSError), asking(n, boss, requests):  # it may be killed at this very moment
                if "kill" in what:
                    kill(n, n.worker(boss)["pid"], killed)
        eventually(lambda: all(row["state"] == "running" and row["pid"] not in killed for row in n.workers().values()))
        for boss in ("boss", "other"):
            ((_, rows),) = ask(n, ["which"], boss=boss)
            assert {row["name"] for row in rows} == {name for name in n.workers() if name.startswith(f"{boss}-")}
            assert all(row["state"] == "running" for row in rows)
        assert set(by_child(n)) <= set(n.workers()) | {"broker"}
        assert [line for name in ("boss", "other") for line in said(n, name, "survivors") if line != "survivors []"] == []


def kill(n: Node, pid: int | None, killed: set[int]) -> None:
    """It may have gone by itself meanwhile."""
    if pid is not None:
        killed.add(pid)
        with contextlib.suppress(ProcessLookupError):
            n.kill(pid)
