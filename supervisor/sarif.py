"""The findings of `otpd check` as SARIF 2.1.0, which code hosts show beside the lines of a change. Pure.

Places are relative to `base` where they lie below it, so that a host that has the same tree finds them. What a script
allows itself is there, too, with its reason, as suppressed in the source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from otpd.supervisor.codecheck import Finding
from otpd.supervisor.faults import RULES, Rule

SCHEMA: Final = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS: Final = {True: "error", False: "note"}
_ORDER: Final = tuple(RULES)


def log(findings: Sequence[Finding], base: str, version: str) -> dict[str, Any]:
    """A log of one run; `base` is an absolute directory, `version` that of otpd."""
    driver = {"name": "otpd check", "version": version, "rules": [_rule(rule) for rule in RULES.values()]}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"SRCROOT": {"uri": f"{Path(base).as_uri()}/"}},
                "results": list(_results(findings, base)),
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    tags = ["otpd", f"fault-{rule.fault}"] if rule.fault else ["otpd"]
    return {
        "id": rule.id,
        "shortDescription": {"text": f"{rule.what[0].upper()}{rule.what[1:]}."},
        "fullDescription": {"text": f"{rule.title[0].upper()}{rule.title[1:]}: {rule.why}."},
        "help": {"text": f"Instead: {rule.instead}."},
        "defaultConfiguration": {"level": _LEVELS[rule.certain]},
        "properties": {"tags": tags, "precision": "very-high" if rule.certain else "medium"},
    }


def _results(findings: Iterable[Finding], base: str) -> Iterable[dict[str, Any]]:
    seen: dict[str, int] = {}
    for finding in findings:
        location = _location(finding.file, base)
        # Lines move: a finding is known again by its rule, its file, and what was found there the how many-th time.
        same = f"{finding.rule.id} {location['uri']} {finding.what}"
        seen[same] = seen.get(same, 0) + 1
        fingerprint = hashlib.sha256(f"{same} {seen[same]}".encode()).hexdigest()[:32]
        rule = finding.rule
        yield {
            "ruleId": rule.id,
            "ruleIndex": _ORDER.index(rule.id),
            "level": _LEVELS[finding.error],
            "message": {"text": f"{finding.what}: {rule.title}: {rule.why}. Instead: {rule.instead}."},
            "locations": [{"physicalLocation": {"artifactLocation": location, "region": _region(finding)}}],
            "partialFingerprints": {"otpdFinding/v1": fingerprint},
            **({} if finding.allowed is None else {"suppressions": [_suppression(finding.allowed)]}),
        }


def _region(finding: Finding) -> dict[str, int]:
    return {"startLine": finding.line, "startColumn": finding.column}


def _suppression(reason: str) -> dict[str, str]:
    return {"kind": "inSource", "justification": reason}


def _location(file: str, base: str) -> dict[str, str]:
    relative = os.path.relpath(file, base)
    if relative.startswith(os.pardir + os.sep):
        return {"uri": Path(os.path.abspath(file)).as_uri()}
    return {"uri": quote(relative), "uriBaseId": "SRCROOT"}
