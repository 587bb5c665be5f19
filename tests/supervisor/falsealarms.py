"""Looks for false alarms of `otpd check`: findings of certain rules in well-known packages, proved against the real thing.

Nobody wrote these packages for otpd, so they do start processes; a false alarm is an expression that is *not* what the
finding says. The judge is Python: the module is imported, the expression evaluated in it, and the object must be the very
one that the dotted name means. `scripts/falsealarms` runs it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otpd.supervisor import faults
from otpd.supervisor.codecheck import Finding, check_source

#: What the virtual environment of a developer has anyway.
PACKAGES = (
    "click", "psutil", "msgpack", "_pytest", "pluggy", "xdist", "execnet", "packaging", "iniconfig", "pytest_timeout",
    "hypothesis", "zmq", "mypy", "pip", "setuptools",
)  # fmt: skip
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass
class Verdict:
    """`proved` and `open` (nobody could tell: a module for another system) are certain findings, as `false` are."""

    files: int = 0
    hints: int = 0
    proved: list[Finding] = field(default_factory=list)
    open: list[Finding] = field(default_factory=list)
    false: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        certain = len(self.proved) + len(self.open) + len(self.false)
        return (
            f"{self.files} files, {certain} certain findings: {len(self.proved)} proved, {len(self.open)} that nobody can "
            f"tell here, {len(self.false)} false alarms; {self.hints} hints"
        )


def judge(sources: Iterable[tuple[str, Path]]) -> Verdict:
    """The verdict on modules, by their names and files."""
    verdict = Verdict()
    for module, path in sources:
        verdict.files += 1
        for finding in check_source(path.read_bytes(), str(path)):
            if not finding.error:
                verdict.hints += 1
            else:
                _ruling(verdict, module, path, finding).append(finding)
    return verdict


def installed(packages: Iterable[str]) -> Iterator[tuple[str, Path]]:
    """The modules of packages that are installed here."""
    for package in packages:
        yield from _modules(package)


def _modules(package: str) -> Iterator[tuple[str, Path]]:
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"{package} is not installed"
    for place in spec.submodule_search_locations or ():
        for path in sorted(Path(place).rglob("*.py")):
            parts = path.relative_to(place).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path
    if not spec.submodule_search_locations and spec.origin is not None:
        yield package, Path(spec.origin)


def standard_library() -> Iterator[tuple[str, Path]]:
    """But for the two that do something when they are imported."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        if path.stem not in ("this", "antigravity"):
            yield path.stem, path


def _ruling(verdict: Verdict, module: str, path: Path, finding: Finding) -> list[Finding]:
    try:
        space = dict(vars(importlib.import_module(module)))
        meant = _object(finding.name) if finding.name else None
    except BaseException:  # for another system, or with an optional dependency that is not there
        return verdict.open
    if not _DOTTED.fullmatch(finding.code):
        return verdict.open
    for statement in _local_imports(path, finding.line):
        try:
            exec(compile(ast.Module([statement], []), str(path), "exec"), space)
        except ImportError:
            return verdict.open
    try:
        found = eval(finding.code, space)
    except (NameError, AttributeError):  # imported on another system only
        return verdict.open
    right = isinstance(found, list | dict | set) if finding.rule is faults.PROCESS_TABLE else found == meant
    return verdict.proved if right else verdict.false


def _object(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _local_imports(path: Path, line: int) -> Iterator[ast.stmt]:
    """Imports of the functions and conditions around a line, outermost first."""
    around = ast.FunctionDef | ast.AsyncFunctionDef | ast.If
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, around) and node.lineno <= line <= (node.end_lineno or 0):
            yield from (each for each in ast.walk(node) if isinstance(each, ast.Import | ast.ImportFrom))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/falsealarms", description=__doc__)
    parser.add_argument("packages", nargs="*", default=list(PACKAGES), help="importable packages; a dozen by default")
    parser.add_argument("--stdlib", action="store_true", help="the modules of the standard library instead")
    parser.add_argument("-v", "--verbose", action="store_true", help="print what was proved, too")
    given = parser.parse_args()
    verdict = judge(standard_library() if given.stdlib else installed(given.packages))
    shown = {"proved": verdict.proved if given.verbose else [], "open": verdict.open, "FALSE": verdict.false}
    for word, findings in shown.items():
        for each in findings:
            print(f"{word}: {each.file}:{each.line}:{each.column}: {each.rule.id}: {each.code} as {each.name}")
    print(verdict)
    return bool(verdict.false)


if __name__ == "__main__":
    sys.exit(main())
