"""Cases of an attack corpus: what to run, what may come of it. Values and pure functions; `escapes` runs them.

The format: `about`, preludes, `default_profile`, `placeholders`, `cases`. `{{X}}` is filled in from the stage,
everywhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from otpd.agents.sandbox import Limits, Profile, Result

MIB = 2**20
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
#: What is wrong with a run of which nothing was heard.
NOT_BEGUN = "no begin marker"
#: Kills by the same means have one name in a corpus, whatever a pool calls them.
_SAME = {"files": "disk", "file_size": "disk"}


@dataclass(frozen=True)
class Case:
    """One attack; `table` is the case as the corpus has it, nothing filled in."""

    id: str
    table: Mapping[str, Any]

    @property
    def severity(self) -> str:
        return str(self.table["severity"])

    @property
    def may_refuse(self) -> bool:
        return bool(self.table.get("may_refuse"))


@dataclass(frozen=True)
class Corpus:
    prelude_py: str
    prelude_sh: str
    default_profile: Mapping[str, Any]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Step:
    """One command of a case, ready to run."""

    argv: list[str]
    profile: Profile
    env: dict[str, str]
    cwd: str | None
    stdin: bytes | None
    lane: int = 0
    background: bool = False


@dataclass(frozen=True)
class Verdict:
    """What came of a case. `held`: contained or refused. `why`: what failed."""

    id: str
    severity: str
    outcome: str  # contained | escaped | refused
    kind: str
    why: tuple[str, ...] = ()
    seconds: float = 0.0
    said: str = ""

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self), why=list(self.why))


@dataclass
class Filled:
    """A case with its placeholders filled in."""

    case: Case
    table: dict[str, Any]
    steps: list[Step] = field(default_factory=list)

    @property
    def attack(self) -> Step:
        return self.steps[-1]


def load(path: Path) -> Corpus:
    """ValueError, KeyError: not a corpus."""
    table = json.loads(path.read_text())
    cases = tuple(Case(each["id"], each) for each in table["cases"])
    return Corpus(table["prelude_py"], table["prelude_sh"], table["default_profile"], cases)


def fill(corpus: Corpus, case: Case, values: Mapping[str, str]) -> Filled:
    """The steps of a case: its stages, then the attack."""
    table = _fill(dict(case.table), values)
    default = _fill(dict(corpus.default_profile), values)
    filled = Filled(case, table)
    for stage in [*table.get("stages", []), table]:
        profile = _merge(default, stage.get("profile", {}))
        argv = _argv(corpus, stage, profile, values, marked=table.get("begin_marker", False))
        step = Step(argv, _profile(profile), profile["env"], profile.get("cwd"), _stdin(profile))
        lane, background = int(stage.get("lane", 0)), bool(stage.get("background", False))
        filled.steps.append(replace(step, lane=lane, background=background))
    return filled


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    match value:
        case str():
            return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), value)
        case dict():
            return {_fill(key, values): _fill(each, values) for key, each in value.items()}
        case list():
            return [_fill(each, values) for each in value]
    return value


def _merge(default: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    merged = {**default, **given}
    for key in ("env", "limits"):
        merged[key] = {**default.get(key, {}), **given.get(key, {})}
    return merged


def _argv(
    corpus: Corpus, stage: dict[str, Any], profile: dict[str, Any], values: Mapping[str, str], *, marked: bool
) -> list[str]:
    code = stage.get("code", "")
    match stage["lang"]:
        case "py":
            return ["python3", "-c", _fill(corpus.prelude_py, values) + code]
        case "sh":
            return ["sh", "-c", (_fill(corpus.prelude_sh, values) if marked else "") + code]
    return list(profile["argv"])


def _profile(given: dict[str, Any]) -> Profile:
    return Profile(
        name="corpus",
        ro=tuple(given.get("ro", ())),
        rw=tuple(given.get("rw", ())),
        protect=tuple(given.get("protect", ())),
        net=given.get("net", "none"),
        limits=_limits(given["limits"]),
        unix_sockets=bool(given.get("unix_sockets", False)),
    )


def _limits(given: dict[str, Any]) -> Limits:
    """The corpus's names and units in ours."""
    default = Limits()
    return Limits(
        wall=float(given.get("wall_s", default.wall)),
        cpu=float(given.get("cpu_s", default.cpu)),
        memory=int(given.get("memory_mb", 512) * MIB),
        pids=int(given.get("pids", default.pids)),
        file_size=int(given.get("fsize_mb", 64) * MIB),
        tmp=int(given.get("tmp_mb", 64) * MIB),
        tmp_files=int(given.get("tmp_inodes", default.tmp_files)),
        shm=int(given.get("shm_mb", 16) * MIB),
        files=int(given.get("nofile", default.files)),
        output=int(given.get("output_bytes", default.output)),
        disk=int(given.get("disk_mb", 256) * MIB),
    )


def _stdin(profile: dict[str, Any]) -> bytes | None:
    if "stdin_bytes" in profile:
        return b"x" * int(profile["stdin_bytes"])
    return str(profile["stdin"]).encode() if "stdin" in profile else None


# --- judging ---


def kind_of(result: Result) -> str:
    """The class of a result, in the words of the corpus."""
    if result.killed_by:
        return f"killed:{_SAME.get(result.killed_by, result.killed_by)}"
    if result.status in ("refused", "not_found", "not_executable"):
        return "blocked"
    if result.status not in ("exited", "signaled"):
        return f"error:{result.status}"
    return "truncated" if result.stdout_truncated or result.stderr_truncated else "contained"


def _strictness(kind: str) -> int:
    return {"error": -1, "contained": 0, "blocked": 0, "truncated": 1, "killed": 2}[kind.partition(":")[0]]


def acceptable(kind: str, table: Mapping[str, Any]) -> bool:
    """It is what was expected, or also fine, or stricter than one of these."""
    accepted = [table["expect"], *table.get("also_ok", [])]
    if kind in accepted or (kind == "contained" and "blocked" in accepted):
        return True
    return _strictness(kind) > min(map(_strictness, accepted))


def has_run(result: Result, table: Mapping[str, Any], token: str) -> str:
    """Why the attack did not really run; "" if it did. A sandbox in which nothing starts must not pass."""
    if table.get("may_refuse"):
        return ""
    if result.status not in ("exited", "signaled", "killed"):
        return f"nothing has run: {result.summary()}"
    if table.get("begin_marker") and not result.stdout.startswith(f"BEGIN-{token}".encode()):
        return NOT_BEGUN
    return ""
