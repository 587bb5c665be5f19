"""docs/agents.md does what it says: its files are written, its commands run, its test passes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.node import node

GUIDE = Path(__file__).parents[2] / "docs" / "agents.md"
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> tuple[dict[str, str], list[str]]:
    """The files of the guide by the names in their first lines, and what it shows of a terminal."""
    found = [(kind, text) for kind, text in _BLOCK.findall(GUIDE.read_text())]
    files = {text.splitlines()[0].removeprefix("# "): text for kind, text in found if kind in ("python", "toml")}
    return files, [text for kind, text in found if not kind]


def test_the_guide_runs_as_it_is_written() -> None:
    files, terminal = blocks()
    with node(files.pop("otpd.toml"), files) as n:
        done = subprocess.run([sys.executable, "ask.py"], cwd=n.home, env=n.env, capture_output=True, text=True, timeout=30)
        assert done.stderr == ""
        shown = terminal[0].partition("$ python ask.py\n")[2]
        assert done.stdout == shown
        assert n.worker("orders")["generation"] == n.worker("inventory")["generation"] == 1


def test_the_test_of_the_guide_passes(tmp_path: Path) -> None:
    for name, text in blocks()[0].items():
        (tmp_path / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
