"""Which node a client means."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from otpd.agents import NodeNotRunning
from otpd.agents.locate import control_socket


@pytest.fixture
def running(tmp_path: Path) -> Path:
    """What a running node leaves: a config, and in its state directory where its sockets are and where it is itself."""
    state = tmp_path / "shop" / "state"
    state.mkdir(parents=True)
    (tmp_path / "shop" / "otpd.toml").write_text('[node]\nstate_dir = "state"\n')
    (state / "runtime").write_bytes(os.fsencode(tmp_path / "run"))
    found = os.stat(state)
    (state / "place").write_text(f"{found.st_dev}:{found.st_ino}")
    return tmp_path / "shop"


def test_argument_control_config_and_the_nearest_in_this_order(running: Path, tmp_path: Path) -> None:
    found, elsewhere = tmp_path / "run" / "control.sock", tmp_path / "elsewhere"
    elsewhere.mkdir()
    below = running / "a" / "b"
    below.mkdir(parents=True)
    both = {"OTPD_CONTROL": "/x/control.sock", "OTPD_CONFIG": str(running / "otpd.toml")}
    assert control_socket(running, both, elsewhere) == found
    assert control_socket(None, both, elsewhere) == Path("/x/control.sock")
    assert control_socket(None, {"OTPD_CONFIG": both["OTPD_CONFIG"]}, elsewhere) == found
    assert control_socket(None, {}, below) == found
    assert control_socket("otpd.toml", {}, running) == found


def test_a_socket_is_a_node_too(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "c"))
        assert control_socket(tmp_path / "c", {}, tmp_path) == tmp_path / "c"


def test_a_tree_in_python_is_taken_to_have_the_default(running: Path) -> None:
    (running / "tree.py").write_text("raise SystemExit('never run')")
    (running / "state").rename(running / ".otpd")
    assert control_socket(running / "tree.py", {}, running).name == "control.sock"


def test_a_state_directory_that_was_copied_is_not_the_node_that_it_names(running: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    (copy / "state").mkdir(parents=True)
    for name in ("otpd.toml", "state/runtime", "state/place"):
        (copy / name).write_bytes((running / name).read_bytes())
    with pytest.raises(NodeNotRunning, match="was copied from another one; start it with: otpd start"):
        control_socket(copy, {}, tmp_path)
