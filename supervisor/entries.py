"""The declarations of a configuration before they become specs, and the list of what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otpd.supervisor.locate import Places
from otpd.supervisor.problems import ConfigErrors, Invalid, KeyPath, Problem, dotted


@dataclass(frozen=True, slots=True)
class Entry:
    """One [section.NAME], with the values that are right."""

    section: str
    name: str
    values: Mapping[str, Any]
    wrong: frozenset[str | int] = frozenset()  # keys whose values are not

    @property
    def path(self) -> KeyPath:
        return (self.section, self.name)

    @property
    def is_supervisor(self) -> bool:
        return self.section == "supervisors"

    @property
    def parent(self) -> str | None:
        parent = self.values.get("supervisor")
        return str(parent) if parent is not None else None

    @property
    def children(self) -> tuple[str, ...]:
        """The names of the children that this entry makes."""
        count = self.values.get("instances", 1)
        return (self.name,) if count == 1 else tuple(f"{self.name}-{index}" for index in range(1, count + 1))


@dataclass(slots=True)
class Report:
    """Collects what is wrong with one file."""

    file: str
    found: Places
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: KeyPath, error: Invalid) -> None:
        path = (*path, *error.path)
        line, column = self.found.at(path)
        self.problems.append(
            Problem(
                file=self.file,
                line=line,
                column=column,
                key=dotted(path),
                what=str(Invalid(error.what, error.expected, error.got, error.nearest)),
                expected=error.expected,
                got=error.got,
                nearest=error.nearest,
            )
        )

    def raise_all(self) -> None:
        if self.problems:
            raise ConfigErrors(sorted(self.problems, key=lambda problem: (problem.line, problem.column)))
