"""Celery with a Redis of its own, as an Executor to compare with: `python -m scripts.benchmarks.celeries` is its worker.

Neither is a dependency of otpd: `running` says None where Celery, its Redis client or redis-server is absent.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

#: Seconds for Redis and for the worker to be there.
_START = 60.0
_URL = "OTPD_BENCH_CELERY"


def app() -> Any:
    from celery import Celery

    made = Celery("bench", broker=os.environ[_URL], backend=os.environ[_URL])
    made.conf.update(worker_hijack_root_logger=False, task_ignore_result=False, broker_connection_retry_on_startup=True)
    made.task(_nothing, name="nothing")
    return made


def _nothing(*_: Any) -> int:
    return 0


class Celery(Executor):
    """It runs what a worker has registered: its tasks do nothing. A result has `get`, without a future."""

    def __init__(self, made: Any) -> None:
        self._task = made.tasks["nothing"]

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return _Result(self._task.delay(*args))


class _Result:
    def __init__(self, own: Any) -> None:
        self._own = own

    def result(self) -> Any:
        return self._own.get(interval=0.001)


@contextlib.contextmanager
def running(workers: int) -> Iterator[Celery | None]:
    """With as many worker processes, over a Unix socket, nothing on a disk."""
    if not (shutil.which("redis-server") and all(map(importlib.util.find_spec, ("celery", "redis")))):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="otpd-celery-") as home, contextlib.ExitStack() as stack:
        path = Path(home, "redis.sock")
        _start(stack, ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", home])
        _wait(path.exists)
        os.environ[_URL] = f"redis+socket://{path}"
        stack.callback(os.environ.pop, _URL)
        made = app()
        _start(stack, [sys.executable, "-m", "scripts.benchmarks.celeries", str(workers)])
        _wait(lambda: bool(made.control.ping(timeout=0.5)))
        yield Celery(made)


def _start(stack: contextlib.ExitStack, argv: list[str]) -> None:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)


def _wait(there: Callable[[], bool]) -> None:
    end = time.monotonic() + _START
    while not there():
        if time.monotonic() > end:
            raise TimeoutError(f"Redis or Celery's worker was not there within {_START:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    app().worker_main(["worker", "--pool", "prefork", "--concurrency", sys.argv[1], "--loglevel", "ERROR"])
