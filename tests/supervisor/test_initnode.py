"""`otpd init` writes a node that is right as it is, and never touches what is there."""

from __future__ import annotations

import asyncio
import os
import runpy
import tomllib
from pathlib import Path

import pytest

from otpd.agents import testing
from otpd.supervisor import initnode
from otpd.supervisor.codecheck import check_node
from otpd.supervisor.config import load
from otpd.supervisor.initnode import InitError, init_node
from otpd.supervisor.spec import Launch
from tests.agents.scenes import scene


def test_a_new_node_is_valid_and_free_of_findings(tmp_path: Path) -> None:
    home = tmp_path / "new" / "node"
    assert init_node(home) == (home / "otpd.toml", home / "agents" / "hello.py")
    node = load(home / "otpd.toml")
    start = node.top.children[0].start
    assert isinstance(start, Launch)
    assert (node.name, [child.id for child in node.top.children]) == ("node", ["hello"])
    assert (start.script, start.args) == (str(home / "agents" / "hello.py"), {"greeting": "hello"})
    assert check_node(node) == []


@scene
async def test_the_first_agent_greets_and_counts_by_the_scheduler(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init_node(tmp_path)
    hello = runpy.run_path(str(tmp_path / "agents" / "hello.py"))["Hello"]
    async with testing.run(hello, greeting="hi") as agent:
        assert await agent.call("greet", name="Ann") == "hi, Ann"
        await asyncio.sleep(6.5)
    assert capsys.readouterr().out.splitlines()[:3] == ["hi, I am up", "hi number 1", "hi number 2"]


def test_what_is_commented_out_is_valid_too(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    for name in ("hello", "feed"):
        (tmp_path / "agents" / f"{name}.py").write_text(initnode.AGENT)
    lines = initnode.CONFIG.split("\n")
    text = "\n".join(line[2:] if line.startswith("# ") and ("=" in line or "[" in line) else line for line in lines)
    (tmp_path / "otpd.toml").write_text(text)
    assert "feed" in tomllib.loads(text)["agents"]
    assert [child.id for child in load(tmp_path / "otpd.toml").top.children] == ["hello", "web", "pricing"]


@pytest.mark.parametrize("name", ["otpd.toml", "agents/hello.py"])
def test_nothing_is_overwritten_and_nothing_else_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / name).symlink_to("nowhere")
    with pytest.raises(InitError) as caught:
        init_node(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name} is there already and is not overwritten; choose another directory or remove it"
    )
    found = sorted(os.path.join(where, file) for where, _, files in os.walk(tmp_path) for file in files)
    assert found == [str(tmp_path / name)]


def test_a_directory_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InitError) as caught:
        init_node(tmp_path / "file" / "node")
    path = tmp_path / "file" / "node" / "otpd.toml"
    assert str(caught.value) == f"can't write {path}: Not a directory; choose a directory that is yours to write"
