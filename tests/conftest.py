"""What tests of several rooms share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.processes import Root


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """The test in the role of root, with a directory that every user may enter; nothing is left behind."""
    tmp_path.chmod(0o755)
    made = Root(tmp_path)
    yield made
    made.close()
