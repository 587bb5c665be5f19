"""`otpd check`: what it prints, as text, JSON and SARIF, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from otpd.cli.main import run
from otpd.supervisor.faults import RULES

Check: TypeAlias = Callable[..., str]
AGENT = "import os\nos.system('ls')\nos.fork()  # otpd: allow own-process it is a test\nos.kill(1, 0)\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node with one agent in a directory that is not the current one, but below it."""
    home = tmp_path / "my fleet"
    (home / "agents").mkdir(parents=True)
    (home / "otpd.toml").write_text('[agents.feed]\nscript = "agents/feed.py"\n')
    monkeypatch.chdir(tmp_path)
    return home


@pytest.fixture
def check(home: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """What `otpd check` prints about that agent, on both streams; asserts the exit code."""

    def run_it(script: str, *options: str, code: int = 0) -> str:
        (home / "agents" / "feed.py").write_text(script)
        found = run(["check", "-f", str(home / "otpd.toml"), *options])
        printed = capsys.readouterr()
        assert found == code, printed
        return printed.out + printed.err

    return run_it


def test_an_error_in_a_script_fails_the_check_and_hints_do_not(home: Path, check: Check) -> None:
    lines = check(AGENT, code=1).splitlines()
    assert [line.partition("feed.py:")[2].partition(":")[0] for line in lines] == ["2", "4", ""]
    assert lines[0].startswith(f"{home}/agents/feed.py:2:1: error own-command: os.system(): a system command run by an ")
    assert lines[2] == f"{home}/otpd.toml: valid, 1 worker, 1 error and 1 hint in scripts"
    assert check("import os\nos.kill(1, 0)\n").endswith("0 errors and 1 hint in scripts\n")


def test_json_has_the_findings_and_whether_all_is_well(home: Path, check: Check) -> None:
    answer = json.loads(check(AGENT, "--json", code=1))
    assert (answer["ok"], answer["errors"], answer["config"]) == (False, 1, f"{home}/otpd.toml")
    assert [(each["rule"], each["level"], each["line"], each["column"]) for each in answer["findings"]] == [
        ("own-command", "error", 2, 1), ("raw-wire", "hint", 4, 1),
    ]  # fmt: skip
    assert json.loads(check("", "--json", "--show"))["node"]["top"]["children"][0]["start"]["spawn"] == "warn"


def test_sarif_has_rules_places_and_what_is_suppressed(home: Path, check: Check) -> None:
    log = json.loads(check(AGENT, "--sarif", code=1))
    (run,) = log["runs"]
    assert (log["version"], run["columnKind"]) == ("2.1.0", "unicodeCodePoints")
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == f"{home.parent.as_uri()}/"
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(RULES)
    assert all(rule["shortDescription"]["text"] and rule["help"]["text"] for rule in rules)
    results = run["results"]
    assert [rules[each["ruleIndex"]]["id"] for each in results] == [each["ruleId"] for each in results]
    assert [(each["ruleId"], each["level"]) for each in results] == [
        ("own-command", "error"), ("own-process", "error"), ("raw-wire", "note"),
    ]  # fmt: skip
    place = results[0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "my%20fleet/agents/feed.py", "uriBaseId": "SRCROOT"}
    assert place["region"] == {"startLine": 2, "startColumn": 1}
    assert [each.get("suppressions") for each in results] == [
        None, [{"kind": "inSource", "justification": "it is a test"}], None,
    ]  # fmt: skip


def test_a_finding_is_known_again_when_its_line_moves_and_two_are_told_apart(home: Path, check: Check) -> None:
    def prints(script: str) -> list[str]:
        results = json.loads(check(script, "--sarif", code=1))["runs"][0]["results"]
        return [each["partialFingerprints"]["otpdFinding/v1"] for each in results]

    once = prints("import os\nos.fork()\nos.fork()\n")
    assert prints("import os\n\n\nos.fork()\nos.fork()\n") == once
    assert len(set(once)) == 2


def test_a_place_outside_of_the_directory_is_absolute(home: Path, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.parent / "elsewhere").mkdir()
    monkeypatch.chdir(home.parent / "elsewhere")
    (result,) = json.loads(check("import os\nos.fork()\n", "--sarif", code=1))["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": (home / "agents" / "feed.py").as_uri()}


def test_sarif_is_an_output_of_its_own_and_a_wrong_config_is_exit_2(home: Path, check: Check) -> None:
    assert "leave --json and --show out" in check("", "--sarif", "--json", code=2)
    (home / "otpd.toml").write_text("[agents.feed]\nscrpt = 3\n")
    check(AGENT, "--sarif", code=2)
