"""`connect()` from outside and from programs: how it finds its node, what it says without one, that it leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.agents import BadArguments, CallTimeout, NodeNotRunning, NoMethod, connect
from tests.e2e.fleet import ACTOR, Fleet, actors, fleet
from tests.e2e.node import Node, node
from tests.helpers import eventually


@pytest.fixture(scope="module")
def shared() -> Iterator[Fleet]:
    with fleet(actors("a")) as it:
        yield it


def script(n: Node, source: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """A script of the user, in its own process."""
    return subprocess.run(
        [sys.executable, "-c", source], cwd=cwd or n.home, env={**n.env, **env}, capture_output=True, text=True, timeout=30
    )


ASK = "from otpd.agents import connect\nwith connect() as node: print(node.call('a', 'add', a=1))"


def test_it_finds_its_node_as_the_command_line_does(shared: Fleet, tmp_path: Path) -> None:
    n = shared.node
    below = n.home / "deep" / "below"
    below.mkdir(parents=True, exist_ok=True)
    assert script(n, ASK, below).stdout == "2\n"
    assert script(n, ASK, tmp_path, OTPD_CONFIG=str(n.home / "otpd.toml")).stdout == "2\n"
    assert script(n, ASK, tmp_path, OTPD_CONTROL=n.control).stdout == "2\n"
    for given in (n.home, str(n.home / "otpd.toml"), n.control):
        with connect(given) as client:
            assert client.call("a", "add", a=1) == 2


def test_a_program_of_the_node_needs_no_address() -> None:
    ask = ASK.replace("print(", "print('answer', ") + "\nimport time; time.sleep(3600)\n"
    with node(actors("a") + '[programs.p]\nscript = "p.py"\n', {"actor.py": ACTOR, "p.py": ask}) as n:
        assert eventually(lambda: "answer 2" in n.printed("p"))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("none", r"expected the otpd\.toml of a node, or its directory, got .*none: no such file"),
        ("otpd.toml", r"the node of .*otpd\.toml is not running; start it with: otpd start"),
    ],
)
def test_without_a_node_it_says_what_it_looked_for(tmp_path: Path, given: str, text: str) -> None:
    (tmp_path / "otpd.toml").write_text("[node]\nstate_dir = 'state'\n")
    with pytest.raises(NodeNotRunning, match=text) as caught:
        connect(tmp_path / given)
    assert caught.value.executed == "no"


def test_a_broken_config_and_no_config_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "otpd.toml").write_text("[node\n")
    with pytest.raises(NodeNotRunning, match="look at it with: otpd check"):
        connect(tmp_path)
    monkeypatch.chdir("/")
    monkeypatch.delenv("OTPD_CONFIG", raising=False)
    monkeypatch.delenv("OTPD_CONTROL", raising=False)
    with pytest.raises(NodeNotRunning, match=r"no otpd\.toml in / or above it; say which node is meant"):
        connect()


def test_a_broker_that_is_away_is_said(shared: Fleet) -> None:
    broker = shared.broker["pid"]
    shared.node.kill(broker, signal.SIGSTOP)
    try:
        with pytest.raises(CallTimeout, match=r"the node runs, but its broker did not answer within 0\.2 s"):
            connect(shared.node.home, timeout=0.2)
    finally:
        shared.node.kill(broker, signal.SIGCONT)


def test_threads_share_it(shared: Fleet) -> None:
    found: list[int] = []

    def ask(n: int) -> None:
        found.extend(shared.client.call("a", "add", a=n * 100 + each, b=0) for each in range(50))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(found) == [n * 100 + each for n in range(4) for each in range(50)]


def test_a_script_that_ends_right_after_a_cast_has_sent_it(shared: Fleet) -> None:
    """Also without close(): what was said last gets a moment to leave."""
    source = "from otpd.agents import connect\nnode = connect()\nnode.cast('a', 'note', what='bye')"
    done = script(shared.node, source)
    assert (done.returncode, done.stderr) == (0, "")
    assert eventually(lambda: "bye" in shared.heard("a"))


def test_a_closed_client_leaves_no_thread_and_no_descriptor(shared: Fleet) -> None:
    connect(shared.node.home).close()
    before = set(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        with connect(shared.node.home) as client:
            client.call("a", "add", a=1)
            client.events("x.**")
            client.monitor("a")
    assert eventually(lambda: (set(os.listdir("/proc/self/fd")), threading.active_count()) == before)
    with pytest.raises(NodeNotRunning, match="is closed"):
        client.call("a", "add", a=1)
    client.close()


def test_a_fork_of_it_is_refused(shared: Fleet) -> None:
    """T10: threads and sockets don't cross a fork, and what was sent there would be lost without a word."""
    source = """
import os
from otpd.agents import connect
node = connect()
if os.fork() == 0:
    try:
        node.call("a", "add", a=1)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
print(node.call("a", "add", a=1))
"""
    done = script(shared.node, source)
    assert done.stdout.splitlines()[0].startswith("this process was forked from the one that had connected")
    assert done.stdout.splitlines()[1:] == ["2"]


def test_a_client_is_no_agent(shared: Fleet) -> None:
    with connect(shared.node.home) as other, pytest.raises(NoMethod, match="is a client of connect"):
        shared.client.call(other.name, "add")


def test_events_end_after_silence_and_close_and_bad_patterns_are_refused(shared: Fleet) -> None:
    with shared.client.events("quiet.**", timeout=0.1) as events:
        assert list(events) == []
        shared.client.publish("quiet.once", n=1)
        assert [event.n for event in events] == [1]
    assert list(events) == []
    with pytest.raises(BadArguments, match=r"events: expected \*\* only as the last word"):
        shared.client.events("a.**.b")


def test_a_monitor_waits_no_longer_than_asked(shared: Fleet) -> None:
    monitor = shared.client.monitor("a")
    with pytest.raises(CallTimeout, match="monitor a: it lives"):
        monitor.wait(0.1)
    assert shared.client.monitor("nobody").wait(60).reason == "noproc"


def test_the_end_of_the_node_ends_all_that_waits() -> None:
    with fleet(actors("a")) as it:
        events = it.client.events("news.**")
        it.node.stop()
        with pytest.raises(NodeNotRunning, match="the node has ended"):
            next(events)
        with pytest.raises(NodeNotRunning, match="the node has ended"):
            it.client.call("a", "add", a=1)
