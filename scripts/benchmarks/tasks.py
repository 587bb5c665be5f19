"""What a task costs: its way to a worker and back, many of them, and a large argument; against other pools in the same run.

Two ways in: PoolExecutor, as ProcessPoolExecutor, loky, pebble, Ray and Celery are used; and `self.task` of an agent,
against run_in_executor in the same agent. All pools have two workers.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from otpd.agents import PoolExecutor, connect
from scripts.benchmarks import celeries
from scripts.benchmarks.table import Row, spread
from tests.e2e.node import node

WORKERS, ROUNDS, TURN, TASKS, REPEATS = 2, 400, 20, 3000, 3
MIB = 1024 * 1024
#: Compared where they are installed.
_OTHERS = ("loky", "pebble", "ray", "celery")
LARGE = 64 * MIB

AGENT = f"""
import asyncio, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from otpd.agents import Agent, call, run

class Boss(Agent):
    @call
    async def measure(self) -> dict:
        loop = asyncio.get_running_loop()
        other = ProcessPoolExecutor({WORKERS}, mp_context=get_context("forkserver"))
        await asyncio.gather(*(loop.run_in_executor(other, int) for _ in range(8)))
        await asyncio.gather(*(self.task("builtins:int", pool="two") for _ in range(8)))
        found = {{"ours": [], "executor": [], "stream": [], "map": []}}
        for _ in range({ROUNDS}):
            began = time.perf_counter()
            await self.task("builtins:int", pool="two")
            between = time.perf_counter()
            await loop.run_in_executor(other, int)
            found["ours"].append((between - began) * 1e3)
            found["executor"].append((time.perf_counter() - between) * 1e3)
        for _ in range({REPEATS}):
            began = time.perf_counter()
            async for _ in self.stream("builtins:int", ["1"] * {TASKS}, max_concurrency=64, pool="two"):
                pass
            found["stream"].append({TASKS} / (time.perf_counter() - began))
            began = time.perf_counter()
            await asyncio.to_thread(lambda: list(other.map(int, ["1"] * {TASKS})))
            found["map"].append({TASKS} / (time.perf_counter() - began))
        other.shutdown()
        return found

if __name__ == "__main__":
    run(Boss)
"""


def run(chosen: Callable[[str], bool]) -> Iterator[Row]:
    if chosen("task round trip") or chosen("tasks/s"):
        yield from _executors()
        yield from _from_an_agent()
    if chosen("64 MiB argument"):
        yield _large()


# --- executors ---


@contextlib.contextmanager
def _others() -> Iterator[dict[str, Any]]:
    """By name, warm. What is not installed is left out."""
    with contextlib.ExitStack() as stack:
        # otpd's workers come from a zygote; a fork of this process, with its threads, would be no fair one.
        own = ProcessPoolExecutor(WORKERS, mp_context=get_context("forkserver"))
        found: dict[str, Any] = {"ours": stack.enter_context(PoolExecutor(WORKERS)), "executor": stack.enter_context(own)}
        with contextlib.suppress(ImportError):
            from loky import get_reusable_executor

            loky = get_reusable_executor(WORKERS)
            found["loky"] = loky
            stack.callback(loky.shutdown)
        with contextlib.suppress(ImportError):
            from pebble import ProcessPool

            pebble = stack.enter_context(ProcessPool(WORKERS, context=get_context("forkserver")))
            found["pebble"] = _Pebble(pebble)
        yield found


@contextlib.contextmanager
def _with_ray() -> Iterator[dict[str, Any]]:
    """By itself: its services go on working when a task is over, and whoever is measured next would pay for it."""
    try:
        import ray
    except ImportError:
        yield {}
        return
    ray.init(num_cpus=WORKERS, include_dashboard=False, configure_logging=False, log_to_driver=False)
    with PoolExecutor(WORKERS) as ours:
        yield {"ours": ours, "ray": _Ray(ray)}
    ray.shutdown()


@contextlib.contextmanager
def _with_celery() -> Iterator[dict[str, Any]]:
    """By itself, as Ray, and with the Redis that it needs."""
    with celeries.running(WORKERS) as celery:
        if celery is None:
            yield {}
            return
        with PoolExecutor(WORKERS) as ours:
            yield {"ours": ours, "celery": celery}


class _Pebble(Executor):
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._pool.schedule(fn, args=list(args), kwargs=kwargs)


class _Ray(Executor):
    """It takes no classes, such as `int`: its tasks do nothing. A reference has `get`, without a future."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._nothing = ray, ray.remote(lambda *_: 0)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return _Reference(self._ray, self._nothing.remote(*args, **kwargs))


@dataclass(frozen=True)
class _Reference:
    ray: Any
    own: Any

    def result(self) -> Any:
        return self.ray.get(self.own)


def _executors() -> Iterator[Row]:
    compared: set[str] = set()
    for some in (_others, _with_ray, _with_celery):
        with some() as pools:
            compared.update(pools)
            if pools:
                yield from _compared(pools)
    for name in _OTHERS:
        if name not in compared:
            yield Row(f"tasks: against {name}", f"{name} is absent (pip install {name})", "1x", met=False)


def _compared(pools: dict[str, Any]) -> Iterator[Row]:
    for future in [pool.submit(int) for pool in pools.values() for _ in range(8)]:
        future.result()
    trips: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(ROUNDS // TURN):
        for name, pool in pools.items():
            pool.submit(int).result()  # while threads of the one before finish what they do
            for _ in range(TURN):
                began = time.perf_counter()
                pool.submit(int).result()
                trips[name].append((time.perf_counter() - began) * 1e3)
    rates: dict[str, list[float]] = {name: [] for name in pools}
    for _ in range(REPEATS):
        for name, pool in pools.items():
            began = time.perf_counter()
            for future in [pool.submit(int, "1") for _ in range(TASKS)]:
                future.result()
            rates[name].append(TASKS / (time.perf_counter() - began))
    yield from _trips("PoolExecutor", trips)
    yield from _rates("PoolExecutor", rates)


def _trips(how: str, found: dict[str, list[float]]) -> Iterator[Row]:
    ours = statistics.median(found["ours"])
    for name, values in found.items():
        if name != "ours":
            other = statistics.median(values)
            data = {"ours": spread(found["ours"]), name: spread(values)}
            factor = 1.2 if name == "executor" else 1.0
            title = f"task round trip, {how}: against {_title(name)}"
            value = f"{ours * 1e3:.0f} us against {other * 1e3:.0f} us = {ours / other:.2f}x"
            yield Row(title, value, f"{factor:g}x", ours <= factor * other, data)


def _rates(how: str, found: dict[str, list[float]]) -> Iterator[Row]:
    ours = statistics.median(found["ours"])
    for name, values in found.items():
        if name != "ours":
            other = statistics.median(values)
            factor = 1.2 if name == "executor" else 1.0
            title = f"tasks/s, {how}: against {_title(name)}"
            value = f"{ours:,.0f} against {other:,.0f} = {ours / other:.2f}x"
            yield Row(title, value, f"1/{factor:g}", ours >= other / factor, {"ours": found["ours"], name: values})


def _title(name: str) -> str:
    return "ProcessPoolExecutor" if name == "executor" else name


# --- from an agent ---


def _from_an_agent() -> Iterator[Row]:
    config = f'[agents.boss]\nscript = "boss.py"\nspawn = "allow"\n[pools.two]\nsize = {WORKERS}\n'
    with node(config, {"boss.py": AGENT}) as n:
        with connect(n.control) as client:
            found = client.call("boss", "measure", timeout=300)
    yield from _trips("await self.task", {"ours": found["ours"], "executor": found["executor"]})
    yield from _rates("self.stream", {"ours": found["stream"], "executor": found["map"]})


# --- large arguments ---


def _large() -> Row:
    """Both copy it into shared memory and out of it again; both memories are new each time."""
    from multiprocessing.shared_memory import SharedMemory

    data = bytes(LARGE)
    ours, bare = [], []
    with PoolExecutor(1) as pool, ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as other:
        pool.submit(len, b"").result(), other.submit(_copied, "", 0).result()
        for _ in range(12):
            began = time.perf_counter()
            assert pool.submit(len, data).result() == LARGE
            ours.append((time.perf_counter() - began) * 1e3)
            began = time.perf_counter()
            shared = SharedMemory(create=True, size=LARGE)
            shared.buf[:LARGE] = data
            assert other.submit(_copied, shared.name, LARGE).result() == LARGE
            shared.close()
            shared.unlink()
            bare.append((time.perf_counter() - began) * 1e3)
    mine, base = statistics.median(ours), statistics.median(bare)
    value = f"{mine:.1f} ms against {base:.1f} ms = {mine / base:.2f}x"
    data_of = {"ours": spread(ours), "bare": spread(bare)}
    return Row("64 MiB argument against SharedMemory", value, "2x", mine <= 2 * base, data_of)


def _copied(name: str, size: int) -> int:
    from multiprocessing.shared_memory import SharedMemory

    if not name:
        return 0
    shared = SharedMemory(name=name, track=False) if _untracked() else SharedMemory(name=name)
    copy = bytes(shared.buf[:size])
    shared.close()
    return len(copy)


def _untracked() -> bool:
    import sys

    return sys.version_info >= (3, 13)


