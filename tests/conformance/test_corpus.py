"""The tree does what Erlang/OTP did: every recorded scenario, with results, snapshots, events and log reports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.replay import left_out, load, replay

CORPUS = Path(__file__).with_name("public.jsonl")
SCRIPT = Path(__file__).parents[2] / "scripts" / "conformance"
SCENARIOS = load(CORPUS)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario["name"] for scenario in SCENARIOS])
def test_the_tree_does_what_otp_did(scenario: dict[str, Any]) -> None:
    assert left_out(scenario) is None
    assert replay(scenario, "C") == []


@pytest.mark.parametrize("what", ["result", "snapshot", "events"])
def test_the_runner_notices_every_wrong_outcome(what: str) -> None:
    for scenario in SCENARIOS:
        wrong = json.loads(json.dumps(scenario))
        for outcome in wrong["expect"]:
            outcome[what] = ["something", "else"]
        noticed = [difference.step for difference in replay(wrong, "C") if difference.what == what]
        assert noticed == list(range(len(wrong["expect"]))), scenario["name"]


def test_the_levels_compare_more_and_more() -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario["name"] == "one_for_one_middle_child")
    no_report = json.loads(json.dumps(scenario))
    no_stop = json.loads(json.dumps(scenario))
    no_report["expect"][1]["events"] = [e for e in no_report["expect"][1]["events"] if e[0] != "report"]
    no_stop["expect"][1]["events"] = [e for e in no_stop["expect"][1]["events"] if e[0] != "stop"]
    found = {level: (len(replay(no_report, level)), len(replay(no_stop, level))) for level in "ABC"}
    assert found == {"A": (0, 0), "B": (0, 1), "C": (1, 1)}


def test_the_script_counts_and_its_exit_code_tells(tmp_path: Path) -> None:
    good, bad = SCENARIOS[0], json.loads(json.dumps(SCENARIOS[1]))
    bad["expect"][0]["result"] = "nonsense"
    quirk = {**good, "name": "odd", "tags": ["quirk"]}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps(scenario) + "\n" for scenario in (good, bad, quirk)))
    done = run_script(str(corpus))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "1 passed, 1 failed, 1 left out"
    assert f'{bad["name"]}, step 0: result: expected "nonsense"' in done.stdout
    corpus.write_text(json.dumps(good) + "\n")
    done = run_script(str(corpus), "--json", "--level", "B")
    assert (done.returncode, json.loads(done.stdout)) == (
        0,
        {"level": "B", "passed": 1, "failed": 0, "left_out": 0, "differences": []},
    )


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60)
