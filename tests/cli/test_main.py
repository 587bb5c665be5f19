"""The group: help, version, spelling, errors as text and as JSON, pipes, and what must not be imported."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from tests.cli.fake import OTPD, FakeNode, fails

HEAVY = ("rich", "asyncio", "zmq", "psutil", "tomllib", "importlib.metadata", "multiprocessing")


def test_version_is_that_of_the_package(down: FakeNode) -> None:
    assert down.otpd("--version").stdout == f"otpd {metadata.version('otpd')}\n"


def test_help_lists_every_command_and_the_exit_codes(down: FakeNode) -> None:
    text = down.otpd("--help").stdout
    commands = (
        "init check start stop tree status top why logs events errors call cast publish describe exec commands "
        "health letters schedule state breaker child restart scale signal reload tasks pool doctor metrics completion"
    )
    assert [line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line] == commands.split()
    assert "7 node not running" in text


@pytest.mark.parametrize("command", ["init", "check", "start", "stop", "tree", "status", "top", "why", "logs", "events",
    "errors", "call", "cast", "publish", "describe", "exec", "commands", "schedule", "state", "breaker", "child",
    "restart",
    "scale", "signal", "reload", "tasks", "pool", "doctor", "metrics", "completion"])  # fmt: skip
def test_every_command_has_help(down: FakeNode, command: str) -> None:
    assert down.otpd(command, "--help").stdout.startswith(f"Usage: otpd {command}")


def test_no_command_shows_the_help_and_is_a_usage_error(down: FakeNode) -> None:
    done = down.otpd(code=2)
    assert (done.stdout, done.stderr.splitlines()[0]) == ("", "Usage: otpd [OPTIONS] [COMMAND] [ARGS]...")


def test_an_unknown_command_names_the_nearest_one(down: FakeNode) -> None:
    done = down.otpd("staus", code=2)
    assert done.stderr == "otpd: there is no command 'staus'\nnext: did you mean: otpd status?\n"


def test_an_unknown_command_that_is_near_none_points_to_the_help(down: FakeNode) -> None:
    assert down.otpd("xyzzy", code=2).stderr.splitlines()[1] == "next: see all commands with: otpd --help"


def test_an_unknown_option_names_the_nearest_one_and_the_help(down: FakeNode) -> None:
    done = down.otpd("tree", "--jsn", code=2)
    assert "--jsn" in done.stderr and "--json" in done.stderr
    assert done.stderr.splitlines()[-1] == "next: see: otpd tree --help"


def test_child_without_an_action_says_which_there_are(down: FakeNode) -> None:
    assert "otpd child start|stop|restart|delete NAME..." in down.otpd("child", code=2).stderr


def test_an_error_is_one_json_object_on_stderr_with_json(node: FakeNode) -> None:
    node.answers["why"] = fails(4, "no child is called 'fed'", "did you mean feed?")
    done = node.otpd("why", "fed", "--json", code=4)
    assert done.stdout == ""
    assert json.loads(done.stderr) == {
        "error": {"code": 4, "what": "no child is called 'fed'", "hint": "did you mean feed?"}
    }


def test_an_unexpected_exception_is_exit_70_without_a_traceback(node: FakeNode) -> None:
    node.answers["tree"] = {"tree": {}}
    done = node.otpd("tree", code=70)
    assert done.stderr.startswith("otpd: internal error: KeyError: ")
    assert "Traceback" not in done.stderr and "OTPD_DEBUG=1" in done.stderr


def test_the_traceback_is_shown_on_request(node: FakeNode) -> None:
    node.answers["tree"] = {"tree": {}}
    assert "Traceback (most recent call last)" in node.otpd("tree", code=70, env={"OTPD_DEBUG": "1"}).stderr


def test_a_reader_that_leaves_is_no_error(node: FakeNode) -> None:
    from tests.cli.fake import wide_tree

    node.answers["tree"] = wide_tree(1000)
    done = subprocess.run(
        ["bash", "-c", 'set -o pipefail; "$@" | head -1; echo "${PIPESTATUS[0]}"', "-", *OTPD, "tree"],
        cwd=node.home, env=node.env, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout.splitlines()[1], done.stderr) == ("0", "")
    assert done.stdout.startswith("● shop  running")


def test_a_full_disk_behind_stdout_is_a_failure_in_words(node: FakeNode) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*OTPD, "tree"], cwd=node.home, env=node.env, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "otpd: can't write the output: No space left on device\n")


def test_a_locale_without_unicode_gets_ascii(node: FakeNode) -> None:
    text = node.otpd("tree", env={"PYTHONIOENCODING": "ascii"}).stdout
    assert text.isascii()
    assert text.splitlines()[2].startswith("|  |- * feed")


@pytest.mark.parametrize("order", [["--config", "{}", "status"], ["status", "--config", "{}"], ["status", "-f", "{}"]])
def test_the_config_can_be_named_before_and_after_the_command(node: FakeNode, order: list[str]) -> None:
    config = str(node.home / "otpd.toml")
    assert "feed" in node.otpd(*[each.format(config) for each in order], cwd="/").stdout


def test_the_config_comes_from_the_environment_or_a_directory_above(node: FakeNode) -> None:
    below = node.home / "a" / "b"
    below.mkdir(parents=True)
    assert "feed" in node.otpd("status", cwd=below).stdout
    assert "feed" in node.otpd("status", cwd="/", env={"OTPD_CONFIG": str(node.home)}).stdout


def test_no_config_anywhere_is_exit_2_with_the_next_step(down: FakeNode) -> None:
    done = down.otpd("tree", code=2, cwd="/")
    assert "otpd.toml" in done.stderr and "otpd init" in done.stderr


def test_a_named_config_that_is_missing_is_exit_2(down: FakeNode) -> None:
    assert "/nowhere/otpd.toml" in down.otpd("-f", "/nowhere/otpd.toml", "tree", code=2).stderr


def test_a_broken_config_keeps_nobody_from_looking_at_the_node(node: FakeNode) -> None:
    (node.home / "otpd.toml").write_text("[node\nstate_dir = '.otpd'\n")
    assert "feed" in node.otpd("status").stdout


@pytest.mark.parametrize("arguments", [["tree", "--json"], ["status", "--json"], ["tree"], ["status"]])
def test_a_look_at_the_node_imports_nothing_heavy(node: FakeNode, arguments: list[str]) -> None:
    """T44: what its time would go to. How long it takes: `scripts/bench`."""
    code = (
        "import sys; from otpd.cli.main import run; code = run(sys.argv[1:]); "
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=node.home, env=node.env, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == "0 []\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_the_script_of_the_shell(down: FakeNode, shell: str) -> None:
    assert "_OTPD_COMPLETE" in down.otpd("completion", shell).stdout


def test_names_of_the_running_node_are_completed(node: FakeNode) -> None:
    done = node.otpd(env={"_OTPD_COMPLETE": "bash_complete", "COMP_WORDS": "otpd why f", "COMP_CWORD": "2"})
    assert done.stdout == "plain,feed\n"


def test_commands_are_completed_while_the_node_is_down(down: FakeNode) -> None:
    done = down.otpd(env={"_OTPD_COMPLETE": "bash_complete", "COMP_WORDS": "otpd sta", "COMP_CWORD": "1"})
    assert done.stdout == "plain,start\nplain,status\nplain,state\n"


def test_names_are_not_completed_while_the_node_is_down(down: FakeNode) -> None:
    done = down.otpd(env={"_OTPD_COMPLETE": "bash_complete", "COMP_WORDS": "otpd why f", "COMP_CWORD": "2"})
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_init_writes_and_never_overwrites(down: FakeNode, home: Path) -> None:
    done = down.otpd("init", "new")
    assert done.stdout == "wrote new/otpd.toml\nwrote new/agents/hello.py\nnext: cd new && otpd start\n"
    again = down.otpd("init", "new", code=1)
    assert "is there already and is not overwritten" in again.stderr
    assert down.otpd("-f", "new/otpd.toml", "check").stdout.endswith("valid, 1 worker, 0 errors and 0 hints in scripts\n")
