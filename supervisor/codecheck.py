"""Finds in worker scripts what otpd exists to end: the six faults of hand-made supervision. For `otpd check`.

Scripts are parsed, never imported or run; what they import from beside them is looked at, too. `faults` has the rules,
`sightings` what they are about, `namescopes` what a name stands for, `allowances` what a script allows itself: that is among
the findings, with the reason. A finding of a certain rule in an agent is an error, all others are hints. A program is told
of certain rules only, as hints: it has no `self` to do it better with.
"""

from __future__ import annotations

import ast
import io
import os
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from otpd.supervisor import faults
from otpd.supervisor.allowances import Allowance, allowances
from otpd.supervisor.faults import Rule
from otpd.supervisor.namescopes import Scopes
from otpd.supervisor.sightings import Sighting, sightings
from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, SupervisorSpec


@dataclass(frozen=True, slots=True)
class Finding:
    """`end_line`: the last line that an allowance may stand at. `error`: it is certain. `allowed`: why it is left alone."""

    file: str
    line: int
    column: int  # from 1, in characters
    rule: Rule
    what: str
    error: bool
    end_line: int = 0
    allowed: str | None = None
    code: str = ""  # the expression that was recognised
    name: str = ""  # the dotted name that it stands for

    @property
    def level(self) -> str:
        return "error" if self.error else "hint"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}"
        fault = f" (fault {self.rule.fault})" if self.rule.fault else ""
        what = f"{self.what}: {self.rule.title}{fault}: {self.rule.why}"
        return f"{place}: {self.level} {self.rule.id}: {what}; instead: {self.rule.instead}"

    def to_dict(self) -> dict[str, Any]:
        rule = self.rule
        return {
            "file": self.file, "line": self.line, "column": self.column, "rule": rule.id, "level": self.level,
            "fault": rule.fault, "title": rule.title, "what": self.what, "why": rule.why, "instead": rule.instead,
        }  # fmt: skip


# --- which files ---


def check_node(node: NodeSpec) -> list[Finding]:
    """The findings in all scripts of the node and in what they import from beside them, each file once, in start order."""
    scripts: dict[str, bool] = {}
    for script, is_agent in _scripts(node.top):
        scripts[script] = scripts.get(script, False) or is_agent
    files: dict[str, bool] = {}
    for script, is_agent in scripts.items():
        for file in _with_its_own(script):
            files[file] = files.get(file, False) or is_agent
    return [finding for file, is_agent in files.items() for finding in check_script(file, is_agent)]


def check_script(path: str, is_agent: bool = True) -> list[Finding]:
    """The findings in one script, in the order of its lines."""
    try:
        with open(path, "rb") as file:
            source = file.read()
    except OSError as error:
        return [_unreadable(path, 1, 1, str(error.strerror))]
    found = check_source(source, path, own_modules(os.path.dirname(path)))
    return found if is_agent else [_of_program(each) for each in found if each.rule.certain]


def _of_program(finding: Finding) -> Finding:
    return replace(finding, error=finding.error and finding.rule.fault == 0)


def own_modules(directory: str) -> Callable[[str], bool]:
    """Whether a script in `directory` would import a top-level module from there."""

    def local(name: str) -> bool:
        return any(map(os.path.exists, _files_of(directory, name)))

    return local


def _scripts(supervisor: SupervisorSpec) -> Iterator[tuple[str, bool]]:
    for child in supervisor.children:
        yield from _scripts_of(child)


def _scripts_of(child: ChildSpec) -> Iterator[tuple[str, bool]]:
    match child.start:
        case SupervisorSpec():
            yield from _scripts(child.start)
        case Launch(script=str(script), kind=kind):
            yield script, kind == "agent"


def _with_its_own(script: str) -> Iterator[str]:
    """A script and the files beside it that it imports, and those that these import."""
    base, todo, seen = os.path.dirname(script), [script], {script}
    while todo:
        path = todo.pop(0)
        yield path
        for file in _imported(path, base):
            if file not in seen and os.path.isfile(file):
                seen.add(file)
                todo.append(file)


def _imported(path: str, base: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            module = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                for item in names:
                    yield from _files_of(base, item.name)
            case ast.ImportFrom(module=origin, names=names, level=level):
                place = _package(path, level) if level else base
                for name in ("", *(each.name for each in names)):
                    yield from _files_of(place, ".".join(filter(None, (origin, name))))


def _package(path: str, level: int) -> str:
    """The directory that so many dots mean in the file `path`."""
    for _ in range(level):
        path = os.path.dirname(path)
    return path


def _files_of(directory: str, module: str) -> tuple[str, ...]:
    stem = os.path.join(directory, *module.split("."))
    return f"{stem}.py", os.path.join(stem, "__init__.py")


# --- one file ---


def check_source(source: bytes | str, file: str, local: Callable[[str], bool] = lambda _: False) -> list[Finding]:
    """The findings in a script's text, in the order of its lines. `local` says whether a top-level module is its own."""
    try:
        module = ast.parse(source)
        text = source if isinstance(source, str) else _decoded(source)
        seen = list(sightings(module, Scopes(module, local)))
    except SyntaxError as error:
        return [_unreadable(file, error.lineno or 1, error.offset or 1, error.msg)]
    except (ValueError, RecursionError, MemoryError) as error:
        return [_unreadable(file, 1, 1, str(error) or type(error).__name__)]
    rows = text.split("\n")
    found = {(each.node.lineno, each.node.col_offset, each.rule.id): _finding(file, rows, each) for each in seen}
    findings = _allowed(list(found.values()), list(allowances(text)), file)
    return sorted(findings, key=lambda each: (each.line, each.column, each.rule.id))


def _decoded(source: bytes) -> str:
    """As Python reads it: by its coding line, with all line ends as one."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(source).readline)
    return io.TextIOWrapper(io.BytesIO(source), encoding, errors="replace", newline=None).read()


def _unreadable(file: str, line: int, column: int, what: str) -> Finding:
    return Finding(file, line, column, faults.UNREADABLE, what, True, line)


def _finding(file: str, rows: list[str], found: Sighting) -> Finding:
    first, last = found.lines
    row = rows[first - 1] if first <= len(rows) else ""
    column = len(row.encode()[: found.node.col_offset].decode(errors="ignore")) + 1
    code = ast.unparse(found.code) if found.code is not None else ""
    error = found.rule.certain and found.sure
    return Finding(file, first, column, found.rule, found.what, error, last, code=code, name=found.name)


def _allowed(findings: list[Finding], comments: list[Allowance], file: str) -> list[Finding]:
    """With the reason in those that are allowed, and with what is wrong with the comments."""
    used: set[Allowance] = set()
    result = []
    for finding in findings:
        by = [each for each in comments if finding.rule.id in each.rules and _meets(each, finding)]
        used.update(by)
        result.append(replace(finding, allowed=by[0].reason) if by else finding)
    return result + [wrong for each in comments for wrong in _wrong_with(each, each in used, file)]


def _meets(allowance: Allowance, finding: Finding) -> bool:
    return any(finding.line <= line <= finding.end_line for line in allowance.lines)


def _wrong_with(comment: Allowance, used: bool, file: str) -> Iterator[Finding]:
    def finding(rule: Rule, what: str) -> Finding:
        return Finding(file, comment.line, comment.column, rule, what, rule.certain, comment.line)

    unknown = [rule for rule in comment.rules if rule not in faults.RULES or not faults.RULES[rule].fault]
    if not comment.rules:
        yield finding(faults.BAD_ALLOW, "expected a rule, got none")
    elif unknown:
        yield finding(faults.BAD_ALLOW, f"expected one of {', '.join(_ALLOWABLE)}, got {unknown[0]}")
    elif not comment.reason:
        yield finding(faults.BAD_ALLOW, f"expected a reason for {', '.join(comment.rules)}, got none")
    elif not used:
        yield finding(faults.UNUSED_ALLOW, f"there is no {', '.join(comment.rules)} here")


_ALLOWABLE: Final = tuple(id for id, rule in faults.RULES.items() if rule.fault)


__all__ = ["Finding", "check_node", "check_script", "check_source", "own_modules"]
