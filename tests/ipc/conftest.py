"""Broker processes for tests: one that many share, and a runtime directory for those that need their own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ipc.stage import Agent, Broker


@pytest.fixture(scope="module")
def shared() -> Iterator[Broker]:
    """For tests that leave it as it was: each uses names of its own."""
    with tempfile.TemporaryDirectory(prefix="otpd") as runtime:
        broker = Broker.started(Path(runtime))
        yield broker
        broker.close()


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A short path, as sockets need it."""
    path = Path(tempfile.mkdtemp(prefix="otpd"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def brokers(runtime: Path) -> Iterator[Callable[..., Broker]]:
    """Starts brokers that end with the test."""
    made: list[Broker] = []

    def start(generation: int = 1, **options: object) -> Broker:
        made.append(Broker.started(runtime, generation, **options))
        return made[-1]

    yield start
    for broker in made:
        broker.close()


@pytest.fixture
def joined() -> Iterator[Callable[..., Agent]]:
    """Agents whose sockets are closed with the test: `joined(broker, name)`."""
    made: list[Agent] = []

    def join(broker: Broker, name: str, generation: int = 1, **row: object) -> Agent:
        made.append(Agent.joined(broker, name, generation, **row))
        return made[-1]

    yield join
    for agent in made:
        agent.close()
