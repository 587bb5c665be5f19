"""Every command against a running node, as a person or a script uses it: what it does, says and answers (T42, T43)."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.node import OTPD, Node, gone, node
from tests.helpers import eventually

CONFIG = """
[node]
name = "shop"
[supervisors.pricing]
strategy = "rest_for_one"
[agents.feed]
script = "idle.py"
supervisor = "pricing"
[agents.quote]
script = "idle.py"
supervisor = "pricing"
[agents.worker]
script = "idle.py"
instances = 2
[programs.old]
script = "old.py"
shutdown = "2s"
"""
#: A program without the SDK: says which signals it gets; ends with the status in the file `crash`.
OLD = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("got USR1", flush=True))
print("up", os.environ["OTPD_GENERATION"], flush=True)
while True:
    if os.path.exists("crash"):
        os.unlink("crash")
        print("about to crash", flush=True)
        raise ValueError("no stock")
    time.sleep(0.02)
"""

NODE_KEYS = ["name", "pid", "heart_pid", "version", "started_at", "uptime_s"]
MORE_NODE_KEYS = ["alerts"]
SUPERVISOR_KEYS = {
    "name", "path", "type", "state", "strategy", "max_restarts", "max_seconds", "restarts_in_window", "children",
}  # fmt: skip
WORKER_KEYS = {
    "name", "path", "type", "kind", "state", "pid", "generation", "restarts", "uptime_s", "restart", "last_exit",
}  # fmt: skip
STATES = {"starting", "running", "backoff", "restarting", "stopping", "stopped", "failed"}
#: What a node may say beyond the contract.
MORE_SUPERVISOR_KEYS = {"restarts", "generation", "restart", "next_attempt_s", "what", "runtime"}
MORE_WORKER_KEYS = {"next_attempt_s", "what", "group", "runtime", "spawn", "health", "alerts"}


@pytest.fixture(scope="module")
def shop() -> Iterator[Node]:
    """One node for the checks that leave it as it was."""
    with node(CONFIG, {"old.py": OLD}) as n:
        yield n


def failure(n: Node, code: int, *arguments: str) -> dict[str, Any]:
    """The error of a command with --json: one object on stderr, and nothing on stdout that looks like success."""
    done = n.otpd(*arguments, "--json", check=code)
    found: dict[str, Any] = json.loads(done.stderr)["error"]
    assert (found["code"], bool(found["what"])) == (code, True)
    text = n.otpd(*arguments, check=code).stderr
    assert text.startswith("otpd: "), text
    assert "Traceback" not in text
    return found


# --- looking ---


def test_the_tree_has_exactly_the_keys_of_the_contract(shop: Node) -> None:
    """DESIGN section 7: no key is missing or renamed, the states are those seven, and paths lead from the top."""
    found = shop.json("tree")
    assert list(found) == ["schema", "node", "tree"]
    assert found["schema"] == "otpd/1"
    assert list(found["node"]) == [*NODE_KEYS, *MORE_NODE_KEYS]
    assert found["node"]["name"] == "shop"
    assert found["node"]["pid"] == shop.facts()["pid"]
    top = found["tree"]
    assert (top["name"], top["path"], top["type"], top["strategy"]) == ("shop", "", "supervisor", "one_for_one")
    rows = [top]
    for row in rows:  # grows while it is walked
        assert row["state"] in STATES
        if row["type"] == "supervisor":
            assert SUPERVISOR_KEYS <= set(row) <= SUPERVISOR_KEYS | MORE_SUPERVISOR_KEYS
            rows += row["children"]
        else:
            assert WORKER_KEYS <= set(row) <= WORKER_KEYS | MORE_WORKER_KEYS
            assert row["type"] == "worker"
            assert isinstance(row["pid"], int)
    paths = [row["path"] for row in rows]
    top_level = ["services", "pricing", "worker-1", "worker-2", "old"]
    assert paths == ["", *top_level, "services/broker", "pricing/feed", "pricing/quote"]
    kinds = {row["name"]: row["kind"] for row in rows if row["type"] == "worker"}
    agents = dict.fromkeys(("feed", "quote", "worker-1", "worker-2"), "agent")
    assert kinds == {"broker": "service", **agents, "old": "program"}


def test_tree_status_and_doctor_for_people(shop: Node) -> None:
    """Nothing is cut and nothing is coloured when it is piped."""
    for command in (["tree"], ["tree", "--resources"], ["status"], ["status", "pricing"], ["doctor"], ["events"], ["logs"]):
        text = shop.otpd(*command).stdout
        assert text.strip()
        assert "\x1b" not in text
    tree = shop.otpd("tree").stdout
    for word in ("shop", "pricing", "rest_for_one", "feed", "worker-2", "old", "running"):
        assert word in tree
    assert len(shop.otpd("status").stdout.splitlines()) == 7


def test_every_command_that_shows_something_has_json(shop: Node) -> None:
    """T42."""
    rows = shop.json("status")
    assert [row["name"] for row in rows] == ["broker", "feed", "quote", "worker-1", "worker-2", "old"]
    assert all(set(row) >= WORKER_KEYS for row in rows)
    assert [row["name"] for row in shop.json("status", "pricing")] == ["feed", "quote"]
    assert [row["name"] for row in shop.json("status", "old")] == ["old"]
    worker = shop.json("tree", "--resources")["tree"]["children"][2]
    assert {"cpu_percent", "memory", "processes"} <= set(worker["resources"])
    assert shop.json("why", "feed")["name"] == "feed"
    assert [each["event"] for each in shop.json("events", "-n", "3")][-1].startswith("otpd.")
    assert shop.json("reload", "--plan")["empty"] is True
    assert isinstance(shop.json("doctor"), dict | list)
    lines = [json.loads(line) for line in shop.otpd("logs", "old", "--json").stdout.splitlines()]
    assert {"at", "name", "generation", "line"} <= set(lines[0])
    assert (lines[0]["name"], lines[0]["line"]) == ("old", "up 1")
    assert shop.json("check") is not None


def test_version_help_and_completion_need_no_node(shop: Node) -> None:
    assert shop.otpd("--version").stdout.startswith("otpd 0.")
    assert "Exit codes" in shop.otpd("--help").stdout
    assert "_OTPD_COMPLETE" in shop.otpd("completion", "bash").stdout


# --- exit codes ---


def test_no_such_child_is_4_and_names_the_nearest(shop: Node) -> None:
    for command in (
        ["status", "fed"], ["why", "fed"], ["child", "stop", "fed"], ["child", "start", "fed"], ["restart", "fed"],
        ["child", "delete", "fed"], ["signal", "USR1", "fed"], ["scale", "fed", "2"], ["status", "fed", "--wait", "ready"],
    ):  # fmt: skip
        assert "feed" in failure(shop, 4, *command)["hint"]
    assert all(row["state"] == "running" for row in shop.workers().values())


def test_usage_is_2(shop: Node) -> None:
    for command in (
        ["frobnicate"], ["tree", "--nope"], ["scale", "old", "many"], ["signal", "FOO", "old"], ["child", "stop"],
        ["status", "--wait", "happy"], ["status", "--wait", "ready", "--timeout", "soon"], ["child"],
    ):  # fmt: skip
        shop.otpd(*command, check=2)


def test_a_state_that_is_not_as_asked_is_3(shop: Node) -> None:
    for command in (["child", "start", "feed"], ["child", "delete", "feed"]):
        assert "running" in failure(shop, 3, *command)["what"]
    assert "supervisor" in failure(shop, 3, "scale", "pricing", "2")["what"]
    assert all(row["state"] == "running" for row in shop.workers().values())


def test_a_wait_that_is_not_fulfilled_in_time_is_8_and_says_what_is_not(shop: Node) -> None:
    assert "feed" in failure(shop, 8, "status", "feed", "--wait", "down", "--timeout", "100ms")["what"]


def test_a_second_start_is_9_and_names_the_node_that_runs(shop: Node) -> None:
    for command in (["start", "--detach"], ["start"]):
        done = shop.otpd(*command, check=9)
        assert str(shop.facts()["pid"]) in done.stderr
        assert "shop" in done.stderr


def test_a_node_that_does_not_run_is_7_and_the_next_step_is_named() -> None:
    """T43: for every command that needs one; what needs none works."""
    with node(CONFIG, {"old.py": OLD}, start=False) as n:
        for command in (
            ["tree"], ["status"], ["why", "feed"], ["events"], ["child", "stop", "feed"], ["restart", "feed"],
            ["scale", "old", "2"], ["signal", "TERM", "feed"], ["reload"], ["stop"], ["stop", "--now"],
            ["status", "--wait", "ready", "--timeout", "1s"],
        ):  # fmt: skip
            assert "otpd start" in failure(n, 7, *command)["hint"], command
        assert n.json("status", "--wait", "down") == []
        n.otpd("check")
        n.otpd("logs")
        n.otpd("doctor", check=None)


# --- a session ---


def test_children_are_stopped_started_restarted_and_deleted_by_name(shop: Node) -> None:
    """OTP's requests: a stopped child stays down and keeps its spec; a deleted one is gone until a reload."""
    before = shop.pid("old")
    assert shop.json("child", "stop", "old") == [{"name": "old", "ok": True}]
    assert gone(before)
    row = shop.worker("old")
    assert (row["state"], row["pid"], row["last_exit"]["reason"]) == ("stopped", None, "shutdown")
    assert shop.json("why", "old")["deaths"][0]["asked_by"] == "operator"
    assert "asked by operator" in shop.otpd("why", "old").stdout
    assert shop.json("child", "stop", "old") == [{"name": "old", "ok": True}]
    assert "no process" in failure(shop, 3, "signal", "TERM", "old")["what"]
    shop.otpd("status", "--wait", "ready", "--timeout", "5s")
    shop.otpd("status", "old", "--wait", "down", "--timeout", "5s")

    assert shop.otpd("child", "start", "old").stdout == "old: started\n"
    assert shop.worker("old")["generation"] == 2
    assert shop.json("restart", "old", "feed") == [{"name": "old", "ok": True}, {"name": "feed", "ok": True}]
    assert (shop.worker("old")["generation"], shop.worker("feed")["generation"]) == (3, 2)
    assert shop.worker("quote")["generation"] == 1, "a restart by hand is nobody else's"
    assert shop.otpd("child", "restart", "pricing/feed").returncode == 0
    assert shop.worker("feed")["generation"] == 3
    assert shop.worker("feed")["restarts"] == 0

    shop.otpd("child", "stop", "old")
    assert shop.otpd("child", "delete", "old").stdout == "old: deleted\n"
    failure(shop, 4, "status", "old")
    assert shop.json("reload")["added"] == ["old"]
    assert shop.when("old", state="running")["generation"] == 4


def test_a_group_and_a_supervisor_are_meant_by_their_names(shop: Node) -> None:
    shop.otpd("child", "stop", "worker")
    assert {name: state for name, state in shop.states().items() if state == "stopped"} == {
        "worker-1": "stopped",
        "worker-2": "stopped",
    }
    assert sorted(row["name"] for row in shop.json("child", "start", "worker")) == ["worker-1", "worker-2"]
    before = shop.workers()
    shop.otpd("restart", "pricing")
    after = shop.workers()
    assert {name for name in before if before[name]["pid"] != after[name]["pid"]} == {"feed", "quote"}
    shop.otpd("child", "stop", "pricing")
    assert {shop.states()[name] for name in ("feed", "quote")} == {"stopped"}
    above = {"name": "pricing", "state": "stopped", "next_attempt_s": None}
    assert (shop.json("why", "feed")["waits_for"], shop.json("why", "pricing")["waits_for"]) == (above, None)
    assert "supervisor that is not running" in failure(shop, 3, "child", "start", "feed")["what"]
    shop.otpd("child", "start", "pricing")
    assert set(shop.states().values()) == {"running"}


def test_all_of_a_group_are_shown_and_waited_for_and_what_is_for_one_names_them(shop: Node) -> None:
    """The first of them stands for nobody but itself."""
    assert [row["name"] for row in shop.json("status", "worker")] == ["worker-1", "worker-2"]
    assert [row["name"] for row in shop.json("status", "pricing")] == ["feed", "quote"]
    shop.otpd("child", "stop", "worker-1")
    late = shop.otpd("status", "worker", "--wait", "down", "--timeout", "100ms", check=8)
    assert "worker-2 is running" in late.stderr
    shop.otpd("child", "stop", "worker-2")
    waited = shop.json("status", "worker", "--wait", "down", "--timeout", "5s")
    assert [row["state"] for row in waited] == ["stopped", "stopped"]
    shop.otpd("child", "start", "worker")
    shop.otpd("status", "worker", "--wait", "ready", "--timeout", "10s")
    for arguments in (["why", "worker"], ["signal", "USR1", "worker"]):
        said = failure(shop, 2, *arguments)
        assert (said["what"], said["hint"]) == ("'worker' is a group of 2: worker-1, worker-2", "name one of them")


def test_a_group_is_scaled_up_down_to_nothing_and_back(shop: Node) -> None:
    """Rule 98: the highest go, the last one first."""
    before = shop.workers()
    assert shop.json("scale", "worker", "4") == {"added": ["worker-3", "worker-4"], "removed": []}
    assert shop.otpd("scale", "worker", "1").stdout == "worker: removed worker-4, worker-3, worker-2\n"
    assert shop.pid("worker-1") == before["worker-1"]["pid"]
    assert shop.json("scale", "worker", "0")["removed"] == ["worker-1"]
    assert [name for name in shop.workers() if name.startswith("worker")] == []
    assert shop.json("scale", "worker", "2") == {"added": ["worker-1", "worker-2"], "removed": []}
    assert "nothing to do" in shop.otpd("scale", "worker", "2").stdout
    assert shop.worker("worker-1")["state"] == "running"

    assert shop.json("scale", "old", "2") == {"added": ["old-2"], "removed": []}
    assert shop.json("scale", "old", "0") == {"added": [], "removed": ["old-2", "old"]}
    assert shop.json("scale", "old", "1") == {"added": ["old"], "removed": []}
    shop.otpd("reload")
    assert {row["runtime"] for row in shop.workers().values()} == {False}
    assert sorted(shop.workers()) == ["feed", "old", "quote", "worker-1", "worker-2"]


def test_temporary_children_scale_like_others() -> None:
    """They are gone with their process; that is no error."""
    config = '[programs.t]\ncommand = ["sleep", "1000"]\nrestart = "temporary"\ninstances = 3\n'
    with node(config) as n:
        assert n.json("scale", "t", "1") == {"added": [], "removed": ["t-3", "t-2"]}
        assert n.json("restart", "t") == [{"name": "t-1", "ok": True}]
        assert n.states() == {"t-1": "running"}
        n.otpd("child", "stop", "t-1")
        assert n.states() == {}


def test_a_signal_reaches_the_main_process_and_what_it_does_is_the_supervisors_business(shop: Node) -> None:
    pid, generation = shop.pid("old"), shop.worker("old")["generation"]
    assert shop.json("signal", "usr1", "old") == {"pid": pid}
    eventually(lambda: "got USR1" in shop.printed("old"))
    assert "SIGKILL sent" in shop.otpd("signal", "9", "old").stdout
    row = shop.reborn("old", generation)
    assert (row["restarts"], row["last_exit"]["reason"], row["last_exit"]["signal"]) == (1, "killed", 9)


def test_why_shows_the_crash_with_its_last_words(shop: Node) -> None:
    """T16."""
    generation = shop.worker("old")["generation"]
    shop.write("crash", "")
    shop.reborn("old", generation)
    (death, *_) = eventually(lambda: [d for d in shop.json("why", "old")["deaths"] if d["tail"]])
    assert death["generation"] == generation
    assert (death["reason"], death["status"], death["asked_by"]) == ("error(ValueError: no stock)", 1, None)
    assert death["tail"][-1] == "ValueError: no stock"
    assert "about to crash" in death["tail"]
    text = shop.otpd("why", "old").stdout
    assert "error(ValueError: no stock)" in text
    assert "| ValueError: no stock" in text


def test_events_are_followed_as_they_happen(shop: Node) -> None:
    """One JSON object per line, at once, until the reader has enough."""
    with subprocess.Popen(
        [*OTPD, "events", "-f", "-n", "1", "--json"], cwd=shop.home, env=shop.env, stdout=subprocess.PIPE, text=True
    ) as following:
        assert following.stdout is not None
        try:
            row = shop.worker("quote")
            assert following.stdout.readline()  # what was before: root has the request to follow
            shop.otpd("restart", "quote")
            events = map(json.loads, iter(following.stdout.readline, ""))
            ends = ("otpd.child.exited", "otpd.child.started")
            seen = list(itertools.islice((each for each in events if each["event"] in ends), 2))
            assert [(each["event"], each["name"], each["generation"]) for each in seen] == [
                ("otpd.child.exited", "quote", row["generation"]),
                ("otpd.child.started", "quote", row["generation"] + 1),
            ]
            assert abs(seen[1]["at"] - time.time()) < 10
        finally:
            following.terminate()


def test_the_node_is_waited_for_and_stopped() -> None:
    """`status --wait` from start to stop; stop answers when nothing is left, and says so."""
    with node(CONFIG, {"old.py": OLD}, start=False) as n:
        answer = json.loads(n.otpd("start", "--detach", "--json").stdout)
        assert (answer["name"], answer["ready"], answer["children"]) == ("shop", True, 5)
        assert answer["pid"] == n.facts()["pid"]
        n.otpd("status", "--wait", "ready", "--timeout", "10s")
        command = [*OTPD, "status", "--wait", "down", "--json"]
        with subprocess.Popen(command, cwd=n.home, env=n.env, stdout=subprocess.PIPE, text=True) as waiting:
            guardians = n.guardians()
            stopped = n.json("stop")
            assert (stopped["name"], stopped["stopped"], stopped["left"]) == ("shop", True, [])
            assert all(gone(pid) for pid in guardians)
            assert waiting.wait(60) == 0
            assert waiting.stdout is not None
            assert {row["state"] for row in json.load(waiting.stdout)} <= {"stopped"}


def test_a_first_node_from_init_to_stop() -> None:
    """What a newcomer types: init, check, start, tree, stop; init never overwrites."""
    with node("x = 1", start=False) as n:
        (n.home / "otpd.toml").unlink()
        n.otpd("init")
        written = (n.home / "otpd.toml").read_bytes()
        n.otpd("init", check=None)
        assert (n.home / "otpd.toml").read_bytes() == written
        n.otpd("check")
        n.otpd("check", "--show")
        n.start()
        assert set(n.states().values()) == {"running"}
        n.stop()


def test_the_node_is_found_from_below_by_option_and_by_environment(shop: Node) -> None:
    """The nearest otpd.toml upwards, -f before or after the command, $OTPD_CONFIG."""
    below = shop.home / "deep" / "er"
    below.mkdir(parents=True, exist_ok=True)
    config = str(shop.home / "otpd.toml")
    ways: list[tuple[list[str], str, dict[str, str]]] = [
        (["tree", "--json"], str(below), {}),
        (["-f", config, "tree", "--json"], "/", {}),
        (["tree", "--json", "--config", config], "/", {}),
        (["tree", "--json"], "/", {"OTPD_CONFIG": config}),
    ]
    for arguments, cwd, env in ways:
        found = subprocess.check_output([*OTPD, *arguments], cwd=cwd, env={**shop.env, **env}, text=True)
        assert json.loads(found)["node"]["name"] == "shop"


def test_a_broken_config_keeps_nobody_from_looking_or_stopping() -> None:
    with node(CONFIG, {"old.py": OLD}) as n:
        n.write("otpd.toml", "[broken")
        assert n.json("tree")["node"]["name"] == "shop"
        n.otpd("reload", check=2)
        n.otpd("restart", "feed")
        n.stop()
        n.start(2)


def test_a_reader_that_goes_away_is_no_error(shop: Node) -> None:
    """Test 64: `otpd tree | head -1`."""
    command = f'"{sys.executable}" -m otpd.cli.main tree | head -1; exit "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", command], cwd=shop.home, env=shop.env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "shop" in done.stdout
