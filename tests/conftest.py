"""What tests of several rooms share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.supervisor.processes import Root

# How long an example takes says something of the machine only. The suite tries the same examples each time;
# scripts/test --hypothesis-profile=explore tries others.
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", settings.get_profile("suite"), derandomize=False, max_examples=1000)


def pytest_configure(config: pytest.Config) -> None:
    """A shell ignores ^C for what it runs in the background, and whom we start would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.getoption("--hypothesis-profile"):
        settings.load_profile("suite")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    """The test in the role of root, with a directory that every user may enter; nothing is left behind."""
    tmp_path.chmod(0o755)
    made = Root(tmp_path)
    yield made
    made.close()
