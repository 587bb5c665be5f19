"""The runner of the corpus: it must fail where a sandbox fails, or its passing means nothing."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from otpd.agents.sandbox import Result
from tests.sandbox import corpus, escapes, stage
from tests.sandbox.playing import OWN, PUBLIC, REPO


def table(expect: str, *also: str, **more: Any) -> dict[str, Any]:
    return {"expect": expect, "also_ok": list(also), **more}


@pytest.mark.parametrize("file", [PUBLIC, OWN])
def test_every_case_can_be_filled_in_and_every_check_is_known(file: Path) -> None:
    loaded = corpus.load(file)
    kinds = {check["kind"] for case in loaded.cases for check in case.table["check"]}
    assert kinds <= set(escapes.checks.KINDS)
    for case in loaded.cases:
        filled = corpus.fill(loaded, case, {"TOKEN": "t", "WS": "/ws"})
        assert filled.attack.argv
        assert "{{TOKEN}}" not in json.dumps(filled.table)


def test_the_attack_comes_after_its_stages_with_its_own_profile() -> None:
    loaded = corpus.load(PUBLIC)
    case = next(case for case in loaded.cases if case.id == "D15-symlinked-grant")
    stage, attack = corpus.fill(loaded, case, {"WS": "/ws", "HOST": "/host"}).steps
    assert (stage.profile.rw, attack.profile.rw) == (("/ws",), ("/ws/sub",))
    assert stage.argv == ["sh", "-c", "rm -rf /ws/sub; ln -s /host /ws/sub"]


def test_what_an_attack_has_left_is_removed_however_deep_and_closed_it_is(tmp_path: Path) -> None:
    left = tmp_path / "left"
    subprocess.run(["mkdir", "-p", left / "/".join("d" * 1100), left / "closed" / "inner"], check=True)
    (left / "closed").chmod(0)
    stage.remove(left)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "given", "fine"),
    [
        ("contained", table("contained"), True),
        ("contained", table("blocked"), True),
        ("blocked", table("contained"), False),
        ("killed:pids", table("contained"), True),
        ("contained", table("killed:timeout"), False),
        ("killed:cpu", table("killed:timeout", "killed:cpu"), True),
        ("killed:memory", table("killed:timeout"), False),
        ("killed:output", table("truncated"), True),
        ("contained", table("truncated"), False),
        ("error:setup_failed", table("contained"), False),
    ],
)
def test_a_class_must_be_as_expected_or_stricter(kind: str, given: dict[str, Any], fine: bool) -> None:
    assert corpus.acceptable(kind, given) is fine


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Result("r", "exited", exit_code=1), "contained"),
        (Result("r", "exited", exit_code=0, stderr_truncated=True), "truncated"),
        (Result("r", "killed", killed_by="files"), "killed:disk"),
        (Result("r", "refused"), "blocked"),
        (Result("r", "setup_failed"), "error:setup_failed"),
    ],
)
def test_results_have_the_classes_of_the_corpus(result: Result, kind: str) -> None:
    assert corpus.kind_of(result) == kind


def test_a_sandbox_in_which_nothing_starts_does_not_pass() -> None:
    given = table("contained", begin_marker=True)
    assert corpus.has_run(Result("r", "refused"), given, "t") != ""
    assert corpus.has_run(Result("r", "exited", stdout=b"hello"), given, "t") == "no begin marker"
    assert corpus.has_run(Result("r", "exited", stdout=b"BEGIN-t\n"), given, "t") == ""


ESCAPING = {
    "format": 1, "prelude_py": "", "prelude_sh": "echo BEGIN-{{TOKEN}}; ", "placeholders": {},
    "default_profile": {"env": {"OTPD_MARK": "{{TOKEN}}"}, "limits": {}, "rw": ["{{WS}}"]},
    "cases": [
        {
            "id": name, "category": "x", "title": "x", "lang": "sh", "code": code, "expect": "contained", "also_ok": [],
            "check": [check], "profile": {}, "severity": "must", "may_refuse": False, "begin_marker": True,
        }
        for name, code, check in (
            ("out", "echo ESCAPED", {"kind": "no_output", "text": "ESCAPED"}),
            ("left", "touch {{WS}}/pwn", {"kind": "file_absent", "path": "{{WS}}/pwn"}),
            ("fine", "true", {"kind": "file_absent", "path": "{{WS}}/pwn"}),
            ("absent", "no-such-program", {"kind": "result", "exit_code": 0}),
        )
    ],
}  # fmt: skip


def test_what_gets_out_is_counted_and_the_script_says_so(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(ESCAPING))
    script = [REPO / "scripts" / "escapes", tmp_path / "c.json", "--backend", "landlock"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stderr
    assert done.stdout.rstrip().endswith("1 contained, 3 escaped, 0 refused"), done.stdout


def test_a_file_that_is_no_corpus_is_a_mistake_of_usage(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as leave:
        escapes.main([str(tmp_path / "none.json")])
    assert leave.value.code == 2
    assert escapes.main([str(PUBLIC), "--only", "no-such-case"]) == 2
