"""The examples in the docs of the SDK's modules."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import otpd.agents

MODULES = sorted(f"otpd.agents.{each.name}" for each in pkgutil.iter_modules(otpd.agents.__path__))


@pytest.mark.parametrize("module", ["otpd.agents", *MODULES])
def test_the_examples_are_true(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0
