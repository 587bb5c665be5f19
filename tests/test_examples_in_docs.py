"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOMS = ("ipc", "supervisor", "agents", "cli")
HOUSE = Path(__file__).parents[1]
MODULES = [
    ".".join(("otpd", *path.relative_to(HOUSE).with_suffix("").parts))
    for room in ROOMS
    for path in sorted((HOUSE / room).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
