"""What a sandbox costs: commands and snippets, against the same without one and against bubblewrap, in the same run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from otpd.agents.sandbox import Pool, PoolSettings, kernel, seccomp
from otpd.agents.sandbox.nesting import LAUNCHER, memory
from scripts.benchmarks.table import Row, spread

ROUNDS, SNIPPETS, SECONDS = 300, 100, 5.0
Chosen = Callable[[str], bool]
Call = Callable[[], object]
#: The namespaces and the view of a sandbox, and a filter: less than our layers, no limits, no Landlock.
BWRAP = (
    "bwrap --unshare-all --die-with-parent --new-session --clearenv --cap-drop ALL --hostname sandbox"
    " --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --ro-bind /etc /etc"
    " --proc /proc --tmpfs /dev --dev-bind /dev/null /dev/null --dev-bind /dev/zero /dev/zero"
    " --dev-bind /dev/urandom /dev/urandom"
    " --tmpfs /tmp --tmpfs /dev/shm --tmpfs /home/sandbox --remount-ro / --seccomp {fd} /bin/true"
)


def run(chosen: Chosen) -> Iterator[Row]:
    parts = {"sandboxed /bin/true": one_command, "commands/s": throughput, "exec_python": snippets}
    for name, measure in parts.items():
        if chosen(name):
            yield from measure()


def one_command() -> Iterator[Row]:
    """p50 of /bin/true in a warm worker, its next slot ready."""
    for launcher, name, factor in ((None, "C launcher", 3.0), ("", "pure Python", 5.0)):
        if launcher is None and not os.access(LAUNCHER, os.X_OK):
            yield Row("sandboxed /bin/true, C launcher", "not built here", "", met=False)
            continue
        with Pool(PoolSettings(workers=1), launcher=launcher) as pool:
            pool.run(["/bin/true"]).check()
            calls: dict[str, Call] = {"bare": _bare, "ours": lambda p=pool: p.run(["/bin/true"]).check()}
            if _has_bwrap():
                calls["bwrap"] = _bwrap
            found = _interleaved(calls, ROUNDS)
        bare, ours = (statistics.median(found[key]) for key in ("bare", "ours"))
        data = {key: spread(values) for key, values in found.items()}
        title = f"sandboxed /bin/true, {name}"
        yield Row(
            f"{title}: against subprocess.run",
            f"{ours:.2f} ms = {ours / bare:.2f}x",
            f"{factor:g}x",
            ours <= factor * bare,
            data,
        )
        yield _against_bwrap(f"{title}: against bwrap", found, 2.0 if launcher is None else 1.0)


def _against_bwrap(name: str, found: dict[str, list[float]], factor: float) -> Row:
    target = f"{factor:g}x faster" if factor > 1 else "on a par (0.9x)"
    if "bwrap" not in found:
        return Row(name, "bwrap is absent (apt-get install bubblewrap)", target, met=False)
    ratio = statistics.median(found["bwrap"]) / statistics.median(found["ours"])
    return Row(name, f"{ratio:.2f}x faster", target, ratio >= min(factor, 2.0) * (0.9 if factor == 1 else 1))


def _interleaved(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each call, one after the other, so that all see the same machine."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name].append((time.perf_counter() - began) * 1000)
    return found


def _bare() -> None:
    subprocess.run(["/bin/true"], check=True)


def _has_bwrap() -> bool:
    return Path("/usr/bin/bwrap").exists()


def _bwrap() -> None:
    fd = memory(seccomp.program(seccomp.Policy(), kernel.machine()))
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        subprocess.run(BWRAP.format(fd=fd).split(), pass_fds=[fd], check=True, capture_output=True)
    finally:
        os.close(fd)


def throughput() -> Iterator[Row]:
    """Two callers, one after the other command each, for some seconds."""
    with Pool(PoolSettings(workers=2)) as pool:
        pool.run(["/bin/true"]).check()
        ours = _per_second(lambda: pool.run(["/bin/true"]).check())
    if not _has_bwrap():
        yield Row("commands/s, two callers", f"{ours:.0f}/s; bwrap is absent", "2x bwrap", met=False)
        return
    theirs = _per_second(_bwrap)
    yield Row(
        "commands/s, two callers",
        f"{ours:.0f}/s = {ours / theirs:.1f}x bwrap ({theirs:.0f}/s)",
        "2x bwrap",
        ours >= 2 * theirs,
    )


def _per_second(call: Call) -> float:
    counts = [0, 0]
    end = time.monotonic() + SECONDS

    def repeat(index: int) -> None:
        while time.monotonic() < end:
            call()
            counts[index] += 1

    threads = [threading.Thread(target=repeat, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / SECONDS


def snippets() -> Iterator[Row]:
    """A snippet in a warm interpreter against a new one without any sandbox."""
    python = os.path.realpath(sys.executable)
    with Pool(PoolSettings(workers=1)) as pool:
        pool.run_python("pass").check()
        calls: dict[str, Call] = {
            "bare": lambda: subprocess.run([python, "-c", "pass"], check=True),
            "ours": lambda: pool.run_python("pass").check(),
        }
        found = _interleaved(calls, SNIPPETS)
    bare, ours = (statistics.median(found[key]) for key in ("bare", "ours"))
    data = {key: spread(values) for key, values in found.items()}
    yield Row(
        "exec_python('pass') against python3 -c pass", f"{ours:.1f} ms against {bare:.1f} ms", "faster", ours < bare, data
    )
