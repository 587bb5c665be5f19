"""What every test of agents must hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.helpers import eventually


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Neither of a handler nor of a connection."""
    before = set(threading.enumerate())
    yield
    eventually(lambda: not [each.name for each in set(threading.enumerate()) - before if each.name.startswith("otpd")])
