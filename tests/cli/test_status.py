"""`otpd status` and `otpd top`."""

from __future__ import annotations

import json
import subprocess

from otpd.cli.output import plain
from otpd.cli.status_view import table
from otpd.cli.tree_view import Usage
from tests.cli.fake import AT, OTPD, Failed, FakeNode, fails, tree, worker, workers

GOLDEN = """\
NAME  KIND     STATE    PID   GEN  RESTARTS  UPTIME    LAST EXIT
feed  agent    running  4720  3    2         12s       killed 1m30s ago
calc  agent    backoff  -     9    8         in 2.12s  error(1) 2s ago
web   program  failed   -     1    0         -         -  gunicorn: command not found"""

ROWS = workers(tree()["tree"])


def test_the_table() -> None:
    assert "\n".join(plain(line) for line in table(ROWS, AT)) == GOLDEN


def test_the_table_with_usage() -> None:
    shown = [plain(line) for line in table(ROWS[:1], AT, {4720: Usage(3.0, 2**31, 2)})]
    assert shown == [
        "NAME  KIND   STATE    PID   GEN  RESTARTS  UPTIME  CPU     MEMORY     LAST EXIT",
        "feed  agent  running  4720  3    2         12s       3.0%     2.0GiB  killed 1m30s ago",
    ]


def test_the_table_shows_inbox_and_breaker_where_the_broker_said_something() -> None:
    rows = [ROWS[0] | {"inbox": 7, "breaker": "open"}, ROWS[2]]
    assert [plain(line) for line in table(rows, AT, rates={"feed": 12.4})] == [
        "NAME  KIND     STATE    PID   GEN  RESTARTS  UPTIME  INBOX  CALLS/S  BREAKER  LAST EXIT",
        "feed  agent    running  4720  3    2         12s     7      12       open     killed 1m30s ago",
        "web   program  failed   -     1    0         -       -      -        -        -  gunicorn: command not found",
    ]


def test_a_pool_that_is_not_well_says_so_beside_its_tasks() -> None:
    row = worker("tasks-few", state="running", what="silent for 6.2 s, its watchdog waits 10 s", tasks={"running": 2})
    assert plain(table([row], AT)[1]).endswith("-  silent for 6.2 s, its watchdog waits 10 s  tasks: 2 running")


def test_alerts_of_the_machine_stand_below_the_table(node: FakeNode) -> None:
    raised = [{"condition": "disk", "value": 93.2, "limit": 90, "at": AT - 60}]
    node.answers["status"] = [worker("a"), {**worker("health"), "kind": "service", "alerts": raised}]
    lines = node.otpd("status").stdout.splitlines()
    assert (lines[3], lines[4].partition(", ")[0]) == ("", "alert: disk 93.2% (alert at 90%)")
    assert node.json("status")[1]["alerts"] == raised


def test_what_the_broker_knows_joins_the_rows_of_root(node: FakeNode) -> None:
    node.answers["stats"] = [{"name": "feed", "state": "not root's", "inbox": 3, "breaker": "closed"}, {"name": "@1.1"}]
    assert node.json("status") == [ROWS[0] | {"inbox": 3, "breaker": "closed"}, *ROWS[1:]]


def test_json_is_the_list_of_root(node: FakeNode) -> None:
    assert node.json("status") == ROWS
    assert node.asked("status") == [{}]


def test_a_name_is_passed_to_root(node: FakeNode) -> None:
    node.answers["status"] = ROWS[:1]
    assert node.otpd("status", "feed").stdout.splitlines()[1].startswith("feed  agent  running")
    assert node.asked("status") == [{"name": "feed"}]


def test_an_unknown_name_is_exit_4_with_the_nearest(node: FakeNode) -> None:
    node.answers["status"] = fails(4, "no child is called 'fed'", "did you mean feed?")
    done = node.otpd("status", "fed", code=4)
    assert (done.stdout, done.stderr) == ("", "otpd: no child is called 'fed'\nnext: did you mean feed?\n")


def test_an_empty_node_says_what_to_do(node: FakeNode) -> None:
    node.answers["status"] = []
    assert node.otpd("status").stdout == "the node has no workers; add some to its config, then: otpd reload\n"


def test_waiting_asks_root_and_then_shows_the_table(node: FakeNode) -> None:
    node.answers["wait"] = True
    assert node.otpd("status", "--wait", "ready", "--timeout", "250ms").stdout.startswith("NAME")
    assert node.asked("wait") == [{"for": "ready", "timeout": 0.25}]


def test_waiting_for_one_child(node: FakeNode) -> None:
    node.answers["wait"] = True
    node.otpd("status", "feed", "--wait", "down")
    assert node.asked("wait") == [{"for": "down", "timeout": 60.0, "name": "feed"}]


def test_waiting_in_vain_is_exit_8_and_says_what_is_not(node: FakeNode) -> None:
    node.answers["wait"] = fails(8, "timed out: calc is backoff (error(1))", "look with: otpd why NAME")
    done = node.otpd("status", "--wait", "ready", "--timeout", "1s", code=8)
    assert done.stderr == "otpd: timed out: calc is backoff (error(1))\nnext: look with: otpd why NAME\n"


def test_a_node_that_does_not_run_is_down(down: FakeNode) -> None:
    assert down.otpd("status", "--wait", "down").stdout == "the node is down\n"
    assert down.json("status", "--wait", "down") == []


def test_a_node_that_ends_meanwhile_is_down(node: FakeNode) -> None:
    node.answers["wait"] = lambda *_: node.hang_up()
    assert node.otpd("status", "--wait", "down").stdout == "the node is down\n"


def test_the_error_of_a_wait_is_not_taken_for_down(node: FakeNode) -> None:
    def unknown(_request: object, _send: object) -> None:
        raise Failed(4, "no child is called 'x'")

    node.answers["wait"] = unknown
    node.otpd("status", "x", "--wait", "down", code=4)


def test_top_writes_json_lines_for_programs(node: FakeNode) -> None:
    node.answers["status"] = [worker("b"), worker("a", pid=None)]
    process = subprocess.Popen(
        [*OTPD, "top", "--json", "--interval", "100ms", "--sort", "name"],
        cwd=node.home, env=node.env, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        first, second = process.stdout.readline(), process.stdout.readline()
    assert process.wait(60) == 0
    assert [row["name"] for row in json.loads(first)] == ["a", "b"]
    assert json.loads(second)[0]["cpu_percent"] is None


def test_top_needs_a_terminal_without_json(node: FakeNode) -> None:
    assert "a live picture needs a terminal" in node.otpd("top", code=2).stderr
