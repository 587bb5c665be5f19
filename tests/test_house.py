"""What holds for the sources as a whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
#: Turn bytes into whatever they say, code too.
LOADERS = {"pickle", "cloudpickle", "marshal", "shelve", "dill"}
#: Pools with `pickle = true`, between processes of the node's user alone; what a sandbox runs, of the house's own files.
ASKED_FOR = {"agents/tasks/payload.py", "agents/sandbox/bundle.py"}


def imported(file: Path) -> set[str]:
    """The first module of each import statement, wherever it stands."""
    return set(re.findall(r"^\s*(?:import|from) (\w+)", file.read_text(), re.MULTILINE))


def test_only_data_crosses_between_processes() -> None:
    """T49: no process of the house can be told code by bytes, but where a pool asks for it."""
    files = [file for room in ("ipc", "supervisor", "agents", "cli") for file in (HOUSE / room).rglob("*.py")]
    found = {str(file.relative_to(HOUSE)) for file in files if LOADERS & imported(file)}
    assert found == ASKED_FOR


@pytest.mark.parametrize("room", ["supervisor", "agents"])
def test_the_architecture_names_every_file(room: str) -> None:
    words = set(re.findall(r"\w+", (HOUSE / "docs" / "architecture.md").read_text()))
    files = {file.stem for file in (HOUSE / room).glob("*.py")} - {"__init__"}
    assert files - words == set()
