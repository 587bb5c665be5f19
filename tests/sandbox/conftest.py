"""Pools for tests: one per launcher and module, because a worker takes a tenth of a second to start."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import pytest

from otpd.agents.sandbox import Pool, PoolSettings, SandboxUnavailable
from otpd.agents.sandbox.nesting import LAUNCHER

#: Apart from those of other pools on this machine.
SLOT_UIDS = (220_000, 220_063)


@functools.cache
def why_not_native() -> str:
    """Why this machine gives no native sandbox; "" if it does."""
    with Pool(PoolSettings(workers=1, backend="native", slot_uids=SLOT_UIDS)) as pool:
        try:
            pool.capability()
        except SandboxUnavailable as error:
            return str(error)
    return ""


@pytest.fixture(params=["c", "python"], scope="module")
def launcher(request: pytest.FixtureRequest) -> str | None:
    """Each test that runs commands does so with both nests."""
    if why_not_native():
        pytest.skip(f"no native sandbox here, which is announced by the capability table: {why_not_native()}")
    if request.param == "python":
        return ""
    if not os.access(LAUNCHER, os.X_OK):
        pytest.skip("the compiled nest is not built here: no compiler")
    return None


@pytest.fixture(scope="module")
def pool(launcher: str | None) -> Iterator[Pool]:
    with Pool(PoolSettings(workers=2, backend="native", slot_uids=SLOT_UIDS, max_per_caller=64), launcher=launcher) as made:
        yield made


@pytest.fixture
def own_settings(launcher: str | None) -> PoolSettings:
    """For a test that needs a pool of its own (`launcher` is the one of the module, too)."""
    return PoolSettings(workers=1, backend="native", slot_uids=SLOT_UIDS, max_per_caller=64)
