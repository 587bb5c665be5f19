"""A tree in Python means what the same tree in TOML means, and its mistakes are named by key."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from otpd.supervisor import config, treefile
from otpd.supervisor.problems import ConfigErrors

TOML = """
[node]
name = "shop"
[agents.a]
script = "a.py"
args = { n = [1, 2] }
[supervisors.s]
strategy = "one_for_all"
[programs.p]
command = ["sleep", "1"]
supervisor = "s"
limits = { files = 64 }
"""
PYTHON = """
import helper
node = {
    "node": {"name": "shop"},
    "agents": {helper.NAME: {"script": "a.py", "args": {"n": (1, 2)}}},
    "supervisors": {"s": {"strategy": "one_for_all"}},
    "programs": {f"{x}": {"command": ["sleep", "1"], "supervisor": "s", "limits": {"files": 2**6}} for x in "p"},
}
"""

NOTHING = "nothing to run: expected [agents.NAME] or [programs.NAME]; `otpd init` writes an example"
SAMPLE = 'node = {"agents": {"hello": {"script": "agents/hello.py"}}}'


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "a.py").write_text("")
    (tmp_path / "helper.py").write_text('NAME = "a"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    return tmp_path


def test_a_python_tree_is_the_same_node_as_the_toml_tree(home: Path) -> None:
    (home / "otpd.toml").write_text(TOML)
    (home / "tree.py").write_text(PYTHON)
    path = list(sys.path)
    node = treefile.load("tree.py")
    assert node == replace(config.load("otpd.toml"), config=str(home / "tree.py"))
    assert sys.path == path
    (home / "tree.py").write_text(PYTHON.replace("node = {", "tree = {"))
    assert treefile.load("tree.py") == node


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "tree.py: expected the file to define node, for example " + SAMPLE),
        ("node = [1]", "tree.py: node: expected a dict with any of node, supervisors, agents, programs; got an array"),
        ("\nnode = {\n", "tree.py:2:8: not valid Python: '{' was never closed"),
        ("x = 1\ny = 1 / 0\n", "tree.py:2:1: ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "tree.py:1:1: SystemExit: 3"),
        ("node = {'agents': {3: {}}}", "tree.py: agents: expected strings as keys, got the integer 3"),
        ("node = a = {}\na['agents'] = a", "tree.py: agents.agents.agents...: nested deeper than 32 levels"),
        (
            "node = {'agents': {'a': {'script': 'a.py', 'restrat': 1}}}",
            'tree.py: agents.a.restrat: unknown key; did you mean "restart"?',
        ),
        (
            "node = {'agents': {'a': {'script': 'a.py', 'cwd': None}}}",
            "tree.py: agents.a.cwd: expected a string, got None",
        ),
        (
            "node = {'agents': {'a': {'script': 'a.py', 'args': {'x': b'1'}}}}",
            "tree.py: agents.a.args.x: expected a string, a number, true, false, an array or a table, got a bytes",
        ),
        (
            "node = {'agents': {'a': {'script': 'a.py'}}, 'programs': {'a': {'command': ['sleep', '1']}}}",
            'tree.py: programs.a: the name "a" is taken by agents.a; names are unique in the node',
        ),
        ("node = {}", "tree.py: the file is empty; " + NOTHING),
    ],
)
def test_a_mistake_in_a_python_tree_names_the_key(home: Path, text: str, message: str) -> None:
    (home / "tree.py").write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        treefile.load("tree.py")
    assert str(caught.value) == message
