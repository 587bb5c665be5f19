"""A reload restarts exactly what must be restarted, and says so beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from otpd.supervisor.config import load
from otpd.supervisor.plan import Plan, diff
from otpd.supervisor.spec import NodeSpec

TEXT = """\
[node]
name = "shop"
[agents.a]
script = "a.py"
[supervisors.s]
[agents.b]
script = "a.py"
supervisor = "s"
[agents.c]
script = "a.py"
supervisor = "s"
[programs.d]
command = ["sleep", "1"]
"""


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], NodeSpec]:
    (tmp_path / "a.py").touch()
    (tmp_path / "b.py").touch()

    def read(text: str) -> NodeSpec:
        (tmp_path / "otpd.toml").write_text(text)
        return load(tmp_path / "otpd.toml")

    return read


def plan_of(read: Callable[[str], NodeSpec], *changes: tuple[str, str], text: str = TEXT) -> Plan:
    new = text
    for old_part, new_part in changes:
        assert old_part in new
        new = new.replace(old_part, new_part, 1)
    return diff(read(text), read(new))


def test_the_same_tree_in_other_words_is_an_empty_plan(read: Callable[[str], NodeSpec]) -> None:
    plan = plan_of(read, ("[agents.a]", "# a comment\n\n[agents.a]  # and another\nrestart = 'permanent'"))
    assert plan == Plan()
    assert plan.empty
    assert plan.lines() == ["nothing to do: the file and the node are the same"]
    assert plan.to_dict() == {
        "empty": True, "removed": [], "added": [], "changed": [], "updated": [], "supervisors": [], "moved": [],
        "reordered": [], "node": [], "refused": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('script = "b.py"', "script"),
        ('script = "a.py"\nargs = { x = 1 }', "args"),
        ('script = "a.py"\nenv = { X = "1" }', "env"),
        ('script = "a.py"\ncwd = "/"', "cwd"),
        ('script = "a.py"\nuser = "root"', "user"),
        ('script = "a.py"\numask = "022"', "umask"),
        ('script = "a.py"\nlimits = { files = 99 }', "limits"),
        ('script = "a.py"\nwatchdog = "5s"', "watchdog"),
        ('script = "a.py"\nspawn = "deny"', "spawn"),
    ],
)
def test_what_the_process_has_in_it_restarts_that_child_alone(
    read: Callable[[str], NodeSpec], line: str, field: str
) -> None:
    plan = plan_of(read, ('script = "a.py"\nsupervisor', f"{line}\nsupervisor"))
    assert plan.lines() == [f"restart  s/b: {field}"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('restart = "transient"', "restart"),
        ('shutdown = "1s"', "shutdown"),
        ('backoff = { max = "9s" }', "backoff"),
        ('start_timeout = "1s"', "start_timeout"),
        ('stop_signal = "SIGINT"', "stop_signal"),
        ('restart_when = { memory = "1GiB" }', "restart_when"),
        ('health = { call = true }', "health"),
        ("detach = true", "detach"),
    ],
)
def test_what_only_the_node_does_with_it_restarts_nothing(
    read: Callable[[str], NodeSpec], line: str, field: str
) -> None:
    plan = plan_of(read, ('supervisor = "s"', f'supervisor = "s"\n{line}'))
    assert plan.lines() == [f"update   s/b: {field}"]


def test_flags_of_a_supervisor_are_updated_in_place(read: Callable[[str], NodeSpec]) -> None:
    plan = plan_of(read, ("[supervisors.s]", '[supervisors.s]\nstrategy = "rest_for_one"\nmax_restarts = 9'))
    assert plan.lines() == ["update   s: strategy, max_restarts"]
    assert plan.to_dict()["supervisors"] == [
        {
            "path": "s",
            "fields": [
                {"field": "strategy", "old": "one_for_one", "new": "rest_for_one"},
                {"field": "max_restarts", "old": 3, "new": 9},
            ],
        }
    ]


def test_children_come_and_go_in_the_right_order(read: Callable[[str], NodeSpec]) -> None:
    few, many = '[agents.a]\nscript = "a.py"', '[agents.a]\nscript = "a.py"\ninstances = 3'
    grown = plan_of(read, (few, many))
    assert grown.to_dict()["removed"] == ["a"]
    assert grown.to_dict()["added"] == ["a-1", "a-2", "a-3"]
    shrunk = plan_of(read, (many, few), text=TEXT.replace(few, many))
    assert shrunk.supervisors[0].removed == ("a-3", "a-2", "a-1")
    assert shrunk.lines() == ["stop     a-3", "stop     a-2", "stop     a-1", "start    a"]


def test_a_subtree_is_named_once(read: Callable[[str], NodeSpec]) -> None:
    new = '[supervisors.t]\n[agents.e]\nscript = "a.py"\nsupervisor = "t"\n[programs.d]'
    assert plan_of(read, ("[programs.d]", new)).lines() == ["start    t with 1 child"]


def test_a_child_under_another_parent_is_moved(read: Callable[[str], NodeSpec]) -> None:
    plan = plan_of(read, ('script = "a.py"\n[sup', 'script = "a.py"\nsupervisor = "s"\n[sup'))
    assert plan.lines() == ["move     a -> s/a"]
    assert plan.to_dict()["moved"] == [{"name": "a", "from": "a", "to": "s/a"}]
    assert [(item.path, item.removed, [child.id for child in item.added]) for item in plan.supervisors] == [
        ("", ("a",), []),
        ("s", (), ["a"]),
    ]


def test_a_child_that_becomes_a_supervisor_is_replaced(read: Callable[[str], NodeSpec]) -> None:
    plan = plan_of(read, ('[programs.d]\ncommand = ["sleep", "1"]\n', "[supervisors.d]\n"))
    assert plan.lines() == ["stop     d", "start    d with 0 children"]


def test_another_order_is_told_and_restarts_nothing(read: Callable[[str], NodeSpec]) -> None:
    b, c = ('[agents.b]\nscript = "a.py"', '[agents.c]\nscript = "a.py"')
    plan = plan_of(read, (b, "[agents.x]"), (c, b), ("[agents.x]", c))
    assert plan.lines() == ["reorder  children of s"]
    assert [child.id for child in plan.supervisors[0].spec.children] == ["c", "b"]


def test_the_logs_of_the_node_change_without_a_restart(read: Callable[[str], NodeSpec]) -> None:
    plan = plan_of(read, ('name = "shop"', 'name = "shop"\nlog = { keep = 1 }'))
    assert plan.lines() == ["update   node: log.keep"]
    assert plan.to_dict()["node"] == [{"field": "log.keep", "old": 5, "new": 1}]


def test_another_name_or_state_directory_is_refused(read: Callable[[str], NodeSpec]) -> None:
    node = read(TEXT)
    plan = diff(replace(node, state_dir="/old"), replace(node, name="other", state_dir="/new"))
    assert plan.refused == (
        "node.name can't change while the node runs: it is shop, the file says other; `otpd stop` and `otpd start` the node",
        "node.state_dir can't change while the node runs: it is /old, the file says /new; `otpd stop` and `otpd start` the "
        "node",
    )
    assert not plan.empty
    assert plan.lines() == [f"refused: {reason}" for reason in plan.refused]


def test_true_is_not_one(read: Callable[[str], NodeSpec]) -> None:
    text = TEXT.replace("[agents.a]", "[agents.a]\nargs = { x = 1 }")
    assert plan_of(read, ("x = 1", "x = true"), text=text).lines() == ["restart  a: args"]


def test_a_pool_that_is_changed_is_a_difference_of_the_node_and_restarts_no_child(read: Callable[[str], NodeSpec]) -> None:
    old = read(TEXT + "[pools.a]\nsize = 2\n[pools.same]\n[pools.gone]\n")
    plan = diff(old, read(TEXT + "[pools.a]\nsize = 3\n[pools.same]\n[pools.new]\n"))
    assert [change.name for change in plan.node] == ["pools.a", "pools.gone", "pools.new"]
    assert (plan.supervisors, plan.lines()) == ((), ["update   node: pools.a, pools.gone, pools.new"])
