"""An agent in JavaScript, from examples/node-agent: it registers, answers, crashes and stops as one in Python does."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.agents import Exited, NoMethod, NoProcess, Reject, RemoteError, connect
from tests.e2e.node import Node, node
from tests.helpers import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "node-agent"
CONFIG = '[agents.reverse]\ncommand = ["node", "reverse.js"]\nstart_timeout = "60s"\nwatchdog = "20s"\n'
CONFIG += '[agents.asker]\nscript = "asker.py"\n'


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """npm's zeromq and msgpack, installed once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed here: the agent in JavaScript can't run")
    home = tmp_path_factory.mktemp("packages")
    shutil.copy(EXAMPLE / "package.json", home)
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund"], cwd=home, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"npm can't install zeromq here: {done.stderr[-300:]}")
    return home / "node_modules"


@pytest.fixture
def fleet(packages: Path) -> Iterator[Node]:
    sources = [*EXAMPLE.glob("*.js"), *EXAMPLE.glob("lib/*.js"), EXAMPLE / "package.json", EXAMPLE / "asker.py"]
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in sources}
    with node(CONFIG, files, start=False) as made:
        (made.home / "node_modules").symlink_to(packages)
        made.start()
        yield made


def test_it_answers_calls_of_the_shell_and_of_agents_in_python(fleet: Node) -> None:
    assert json.loads(fleet.otpd("call", "reverse", "reverse", "text=stressed").stdout) == "desserts"
    assert json.loads(fleet.otpd("call", "asker", "ask", "text=drawer").stdout) == "reward"


def test_it_describes_itself_and_rejects_what_it_does_not_take(fleet: Node) -> None:
    assert [each["name"] for each in fleet.json("describe", "reverse")["calls"]] == ["reverse", "asked", "crash"]
    with connect(fleet.control) as client, pytest.raises(Reject, match="expected a string, got number"):
        client.call("reverse", "reverse", text=3)
    with connect(fleet.control) as client, pytest.raises(NoMethod, match="no call named 'revers'"):
        client.call("reverse", "revers", text="a")


def test_a_handler_that_throws_answers_and_crashes_and_the_next_incarnation_is_fresh(fleet: Node) -> None:
    with connect(fleet.control) as client:
        client.call("reverse", "reverse", text="a")
        with pytest.raises(RemoteError, match="asked to crash"):
            client.call("reverse", "crash")
        fleet.reborn("reverse", 1, 30)
        assert client.call("reverse", "asked", timeout=60) == 0
    assert fleet.worker("reverse")["last_exit"]["reason"] == "error(Error: asked to crash)"


def test_killed_during_a_call_its_caller_hears_so_and_a_new_broker_finds_it_again(fleet: Node) -> None:
    with connect(fleet.control) as client:
        monitor = client.monitor("reverse")
        fleet.kill(fleet.pid("reverse"))
        assert monitor.wait(60).reason == "killed"
        fleet.reborn("reverse", 1, 30)
    fleet.kill(fleet.pid("broker"))
    fleet.reborn("broker", 1)

    def answers() -> bool:
        try:
            with connect(fleet.control) as client:
                return bool(client.call("reverse", "reverse", text="ab", timeout=5) == "ba")
        except (NoProcess, Exited):
            return False

    eventually(answers, 20)
    assert fleet.worker("reverse")["generation"] == 2


def test_it_stops_in_order_with_its_last_words(fleet: Node) -> None:
    fleet.otpd("child", "stop", "reverse")
    assert fleet.worker("reverse")["last_exit"]["reason"] in ("shutdown", "normal")
    eventually(lambda: "bye: shutdown" in fleet.printed("reverse"), 5)
