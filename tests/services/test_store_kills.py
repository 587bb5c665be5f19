"""What becomes of the files of a store when it is killed in the midst of what it does to them: all that was acknowledged is
there, at the next start and after the next try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("scene", "at_least"), [("migration", 10), ("rescue", 30), ("copying", 10)])
def test_a_kill_in_the_midst_of_it_loses_nothing(tmp_path: Path, scene: str, at_least: int) -> None:
    """In a process of its own, because it forks."""
    command = [sys.executable, "-m", "tests.services.store_kills", scene, str(tmp_path)]
    found = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    if found.stderr.startswith("skip: "):
        pytest.skip(found.stderr)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) >= at_least
