"""Tables of start_child: the checks and words of otpd.toml, and what a child has from its owner."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from otpd.supervisor.childtable import MAX_NAME_BYTES, TableError, child_of
from otpd.supervisor.spec import BRUTAL_KILL, ChildSpec, Launch, Limits, Restart, RestartWhen


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("agents/feed.py", "agents/other.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit\n")
    (tmp_path / "agents" / "data").mkdir()
    return tmp_path


def owner(here: Path, **fields: Any) -> Launch:
    return Launch(**{"kind": "agent", "script": str(here / "agents" / "boss.py"), "cwd": str(here), **fields})


def read(here: Path, table: Any, hangs: Iterable[str] = (), **fields: Any) -> ChildSpec:
    return child_of(table, owner(here, **fields), lambda paths: bool(set(hangs) & set(paths)))


def launch(here: Path, table: Any, **fields: Any) -> Launch:
    start = read(here, table, **fields).start
    assert isinstance(start, Launch)
    return start


def wrong(here: Path, table: Any, **fields: Any) -> str:
    with pytest.raises(TableError) as found:
        read(here, table, **fields)
    return str(found.value)


# --- what becomes of a table ---


def test_a_script_beside_the_owner_is_an_agent_with_the_defaults_of_otpd_toml(here: Path) -> None:
    spec = read(here, {"name": "feed-7", "script": "feed.py", "args": {"symbol": "ACME"}})
    script = str(here / "agents" / "feed.py")
    start = Launch(kind="agent", script=script, args={"symbol": "ACME"}, ready="init", cwd=str(here))
    assert spec == ChildSpec(id="feed-7", start=start, restart=Restart.PERMANENT, shutdown=5.0, backoff=None)


def test_every_key_that_makes_sense_is_understood(here: Path) -> None:
    table = {
        "name": "x", "command": ["/bin/sleep", "9"], "restart": "transient", "shutdown": "brutal_kill", "ready": {"tcp": 80},
        "start_timeout": "2s", "stop_signal": "SIGINT", "cwd": "data", "umask": "022", "watchdog": "1s", "detach": True,
        "limits": {"files": 64}, "restart_when": {"memory": "1MiB"}, "env": {"A": "1"},
    }  # fmt: skip
    spec = read(here, table)
    start = spec.start
    assert isinstance(start, Launch)
    assert (spec.restart, spec.shutdown) == ("transient", BRUTAL_KILL)
    assert (start.kind, start.command, start.cwd) == ("program", ("/bin/sleep", "9"), str(here / "agents" / "data"))
    assert (start.start_timeout, start.stop_signal, start.umask, start.watchdog) == (2.0, 2, 0o022, 1.0)
    assert (start.detach, start.limits, start.env) == (True, Limits(files=64), {"A": "1"})
    assert start.restart_when == RestartWhen(memory=2**20)


def test_kind_says_what_script_and_command_do_not(here: Path) -> None:
    plain = launch(here, {"name": "x", "kind": "program", "script": "feed.py", "args": ["-v"]})
    foreign = launch(here, {"name": "y", "kind": "agent", "command": ["/bin/sleep", "1"]})
    assert (plain.kind, plain.argv, plain.ready) == ("program", ("-v",), "spawned")
    assert (foreign.kind, foreign.ready) == ("agent", "init")


def test_a_command_is_looked_for_in_the_path_of_the_child(here: Path) -> None:
    tool = here / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert launch(here, {"name": "x", "command": ["tool"]}, env={"PATH": str(here)}).command == (str(tool),)
    assert launch(here, {"name": "x", "command": ["./tool"]}).command == (str(tool),)


def test_what_the_table_does_not_say_the_child_has_from_its_owner(here: Path) -> None:
    got = launch(here, {"name": "x", "script": "feed.py", "env": {"B": "2"}}, env={"A": "1", "B": "1"}, umask=0o077)
    assert (got.env, got.umask, got.cwd) == ({"A": "1", "B": "2"}, 0o077, str(here))


def test_a_child_never_gets_more_than_its_owner_may(here: Path) -> None:
    table = {"name": "x", "script": "feed.py", "limits": {"files": 4096, "cpu": "10s"}}
    got = launch(here, table, limits=Limits(files=64, processes=9))
    assert got.limits == Limits(files=64, processes=9, cpu=10)


@pytest.mark.parametrize(
    ("own", "owner", "got"),
    [("", "warn", "warn"), ("", "deny", "deny"), ("deny", "warn", "deny"), ("allow", "warn", "warn")],
)
def test_of_two_words_about_processes_of_its_own_the_stricter_holds(here: Path, own: str, owner: str, got: str) -> None:
    table = {"name": "x", "script": "feed.py"} | ({"spawn": own} if own else {})
    assert launch(here, table, spawn=owner).spawn == got


def test_a_child_runs_as_the_user_of_its_owner_and_as_no_other(here: Path) -> None:
    assert launch(here, {"name": "x", "script": "feed.py"}, user="nobody").user == "nobody"
    assert launch(here, {"name": "x", "script": "feed.py", "user": "nobody"}, user="nobody").user == "nobody"
    text = wrong(here, {"name": "x", "script": "feed.py", "user": "root"}, user="nobody")
    assert text == 'the table of "x": user: expected the user of its owner, "nobody", or no key user, got "root"'


def test_only_root_starts_children_as_somebody_else(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    text = wrong(here, {"name": "x", "script": "feed.py", "user": "nobody"})
    assert text.endswith("user: only root can start a worker as another user; you are uid 1000, drop this key")


def test_what_root_sees_with_other_eyes_than_the_owner_is_not_looked_at(here: Path) -> None:
    """Else an agent without rights could ask root what there is."""
    got = launch(here, {"name": "x", "script": "secret.py", "cwd": "nowhere"}, user="nobody")
    assert (got.script, got.cwd) == (str(here / "agents" / "secret.py"), str(here / "agents" / "nowhere"))
    assert launch(here, {"name": "x", "command": ["nothing"]}, user="nobody").command == ("nothing",)


def test_what_may_make_root_wait_is_not_looked_at(here: Path) -> None:
    far = str(here / "agents" / "far.py")
    start = read(here, {"name": "x", "script": "far.py"}, hangs=[far]).start
    assert isinstance(start, Launch) and start.script == far


def test_an_owner_that_is_a_command_has_its_directory_as_the_place_of_scripts(here: Path) -> None:
    got = launch(here, {"name": "x", "script": "agents/feed.py"}, script=None, command=("node", "boss.js"))
    assert got.script == str(here / "agents" / "feed.py")


# --- what is wrong with it ---


def test_all_mistakes_are_told_at_once_in_the_words_of_otpd_toml(here: Path) -> None:
    """Rule 19: an unknown key is named."""
    text = wrong(here, {"name": "x", "script": "fed.py", "restart": "transiet", "tiemout": 3})
    script = here / "agents" / "fed.py"
    assert text == (
        'the table of "x": restart: expected "permanent", "transient" or "temporary", got the string "transiet"; '
        'did you mean "transient"?; tiemout: unknown key; did you mean "start_timeout"?; '
        f'script: expected a Python script, got {script}, which does not exist; did you mean "feed.py"?'
    )


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (7, "expected a table such as "),
        ({}, 'expected a key name, as in {"name": "feed-7"'),
        ({"name": 7}, "name: expected a name, got the integer 7"),
        ({"name": "a/b"}, 'name: expected a name such as feed or price-feed, got "a/b": a name has no "/"'),
        ({"name": "root"}, 'name: expected a name of your own, got "root": the node uses it itself'),
        ({"name": "€" * 40}, f"name: expected at most {MAX_NAME_BYTES} bytes, got 120"),
        ({"name": "x"}, 'the table of "x": nothing to run: expected script = "agents/x.py"'),
        ({"name": "x", "kind": "pool"}, 'kind: expected "agent" or "program", got the string "pool"'),
        ({"name": "x", "kind": []}, 'kind: expected "agent" or "program", got an array'),
        ({"name": "x", "script": "feed.py", "supervisor": "s"}, "supervisor: it is started below the agent"),
        ({"name": "x", "script": "feed.py", "instances": 2}, "instances: one call starts one child"),
        ({"name": "x", "script": "feed.py", "significant": True}, "significant: an agent has no auto_shutdown"),
        ({"name": "x", "script": "feed.py", "backoff": {}}, "backoff: own children restart at once"),
        ({"name": "x", "script": "feed.py", "env_file": ".env"}, "env_file: root opens no files for a running agent"),
        ({"name": "x", "script": "feed.py", "ready": "notify"}, "ready: an agent is ready when its init()"),
        ({"name": "x", "script": "feed.py", "args": [1]}, "args: expected a table of arguments for init()"),
        ({"name": "x", "script": "feed.py", "command": ["a"], "kind": "agent"}, "command: expected one of script and"),
        ({"name": "x", "script": "feed.py", "env": {"OTPD_NODE": "y"}}, "env.OTPD_NODE: otpd sets this variable itself"),
        ({"name": "x", "script": "feed.py", "args": {"a": {1: 2}}}, "expected strings as keys, got the integer 1"),
        ({"name": "x", b"script": "feed.py"}, "expected strings as keys, got a bytes"),
        ({"name": "x", "script": "feed.py", "args": {"a": b"1"}}, "args.a: expected a string, a number, true, false"),
        ({"name": "x", "script": "data"}, "script: expected a Python script, got the directory "),
        ({"name": "x", "script": None}, "script: expected a string, got None"),
        ({"name": "x", "command": []}, 'command: expected a command such as ["gunicorn", "app:app"], got an empty one'),
    ],
)
def test_a_mistake_is_told_with_its_key(here: Path, table: Any, text: str) -> None:
    """Rules 19, 74: children that come at run time can't be significant."""
    assert text in wrong(here, table)


def test_endless_nesting_is_refused_before_anything_walks_through_it(here: Path) -> None:
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    text = wrong(here, {"name": "x", "script": "feed.py", "args": {"a": deep}})
    assert text == "expected a table nested at most 32 deep, got a deeper one"
