"""A fake node for each test; short directories, because a socket path has 107 bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake import FakeNode, fake_node


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ot.") as directory:
        yield Path(directory)


@pytest.fixture
def node(home: Path) -> Iterator[FakeNode]:
    """A node that answers."""
    with fake_node(home) as made:
        yield made


@pytest.fixture
def down(home: Path) -> Iterator[FakeNode]:
    """A config whose node does not run."""
    with fake_node(home, running=False) as made:
        yield made
