"""`otpd start` that does not start: the cause, the next step, and nothing half-done."""

from __future__ import annotations

import fcntl
import json

import pytest

from tests.cli.fake import PROGRAM, FakeNode, facts

DETACH = ["start", "--detach", "--timeout", "10s"]


def untouched(node: FakeNode) -> bool:
    """Nothing was created."""
    return sorted(path.name for path in node.home.iterdir()) == ["otpd.toml", "r"] and not any(node.runtime.iterdir())


def test_every_error_of_the_config_is_shown_at_once(down: FakeNode) -> None:
    (down.home / "otpd.toml").write_text('[node]\nnmae = "x"\n[agents.a]\nscript = "missing.py"\nrestart = "allways"\n')
    done = down.otpd(*DETACH, code=2)
    first, *problems, hint = done.stderr.splitlines()
    assert first == "otpd: the config can't be used, 3 problems:"
    assert [problem.split(": ")[1] for problem in problems] == ["node.nmae", "agents.a.script", "agents.a.restart"]
    assert 'did you mean "name"?' in problems[0] and hint == "next: correct it, then look with: otpd check"
    assert untouched(down)


def test_the_errors_of_the_config_in_json(down: FakeNode) -> None:
    (down.home / "otpd.toml").write_text('[node]\nnmae = "x"\n')
    error = json.loads(down.otpd(*DETACH, "--json", code=2).stderr)["error"]
    (problem,) = error["problems"]
    assert (error["code"], problem["line"], problem["column"], problem["nearest"]) == (2, 2, 1, "name")


@pytest.mark.parametrize("arguments", [["start"], DETACH], ids=["foreground", "detached"])
def test_a_running_node_is_named_and_left_alone(node: FakeNode, arguments: list[str]) -> None:
    done = node.otpd(*arguments, code=9)
    assert done.stderr == (
        "otpd: shop is already running: pid 4711, config /srv/shop/otpd.toml\n"
        "next: look at it with: otpd tree; end it with: otpd stop\n"
    )
    assert [request["op"] for request in node.requests] == ["node"]
    assert [path.name for path in node.control.parent.iterdir()] == ["control.sock"]


def test_a_node_that_does_not_answer_is_running_all_the_same(node: FakeNode) -> None:
    node.answers["node"] = lambda *_: None
    assert "did not answer" in node.otpd("start", code=9).stderr


@pytest.mark.parametrize("arguments", [["start"], DETACH], ids=["foreground", "detached"])
def test_a_lock_that_is_held_is_exit_9(down: FakeNode, arguments: list[str]) -> None:
    (down.home / ".otpd").mkdir(mode=0o700)
    with open(down.home / ".otpd" / "lock", "w") as lock:
        lock.write("4242\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = down.otpd(*arguments, code=9)
    assert "a node is already running" in done.stderr and "4242" in done.stderr
    assert not list(down.control.parent.iterdir())


@pytest.mark.parametrize("arguments", [["start"], DETACH], ids=["foreground", "detached"])
def test_a_state_directory_that_cannot_be_made_names_it(down: FakeNode, arguments: list[str]) -> None:
    (down.home / "otpd.toml").write_text(f'[node]\nstate_dir = "/proc/nowhere"\n{PROGRAM}')
    done = down.otpd(*arguments, code=1)
    assert "/proc/nowhere" in done.stderr
    assert list((down.runtime / "otpd").glob("*/*")) == [], "the draft of the spec is removed"


def test_a_file_that_is_missing_is_exit_2(down: FakeNode) -> None:
    assert "nowhere.py" in down.otpd("start", "nowhere.py", code=2).stderr


def test_a_tree_in_python_that_raises_is_exit_2_with_its_line(down: FakeNode) -> None:
    (down.home / "tree.py").write_text("node = {}\n1 / 0\n")
    assert "tree.py:2:1: ZeroDivisionError" in down.otpd("start", "tree.py", code=2).stderr


def test_facts_of_another_node_are_not_mistaken_for_ours(node: FakeNode) -> None:
    node.answers["node"] = facts(name="other")
    assert "other is already running" in node.otpd("start", "--detach", code=9).stderr


@pytest.mark.parametrize("arguments", [["start"], DETACH], ids=["foreground", "detached"])
def test_a_machine_on_which_no_node_can_run_is_told_before_anything_starts(down: FakeNode, arguments: list[str]) -> None:
    (down.home / "sitecustomize.py").write_text("import platform\nplatform.release = lambda: '4.19.0-27-amd64'\n")
    done = down.otpd(*arguments, code=1, env={"PYTHONPATH": str(down.home)})
    assert done.stderr.splitlines() == [
        "otpd: otpd needs Linux 5.10 or newer, this kernel is 4.19.0-27-amd64; upgrade the kernel",
        "next: otpd doctor",
    ]
    assert not (down.home / ".otpd").exists()
