"""No orphan survives anything: not the end of its worker, not the end of root, not the end of heart (T1-T4, T19)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.node import Node, node
from tests.e2e.shapes import SHAPES
from tests.e2e.watching import (
    Seen,
    alive,
    by_child,
    dead_without_a_socket,
    everything,
    holds,
    no_old_zombies,
    nothing_is_left,
    of_child,
    seen,
)
from tests.helpers import eventually

#: Each shape with the number of processes that note their pid: the worker and what it leaves behind.
LEAVERS = {"member": 2, "session": 2, "daemon": 2, "nohup": 2, "holder": 2}
HOPPERS = ("hopper", "leaper", "execer")

PROGRAM = """
[programs.{name}]
script = "shapes.py"
args = ["{shape}"]
backoff = false
"""
AGENT = """
[agents.{name}]
script = "idle.py"
"""


def programs(shapes: list[str]) -> str:
    return "".join(PROGRAM.format(name=shape, shape=shape) for shape in shapes)


def noted(n: Node, name: str, count: int) -> list[Seen]:
    """The processes that `name` has made, once there are so many."""

    def found() -> list[Seen] | None:
        try:
            lines = (n.home / f"{name}.pids").read_text().split()
        except FileNotFoundError:
            return None
        processes = [process for line in lines if (process := seen(int(line)))]
        return processes if len(processes) == count else None

    return eventually(found, 10, f"{count} processes of {name}")  # type: ignore[return-value]


def hops(n: Node, name: str) -> int:
    try:
        return int.from_bytes((n.home / f"{name}.hops").read_bytes()[:8], "little")
    except FileNotFoundError:
        return 0


def hopping(n: Node, name: str) -> None:
    before = hops(n, name)
    eventually(lambda: hops(n, name) > before + 3, 10, f"{name} hops")


def hops_no_more(n: Node, name: str) -> bool:
    last = hops(n, name)
    return holds(lambda: hops(n, name) == last, 0.2) and not of_child(n, name)


# --- T1: nothing of a worker outlives its stop, or its death ---


def test_nothing_of_a_worker_is_left_when_its_stop_has_answered() -> None:
    """T1, tests 16, 17, 18, 23: group member that ignores TERM, setsid grandchild, daemon, nohup shell, holder of stdout."""
    with node(programs(list(LEAVERS)), {"shapes.py": SHAPES}) as n:
        old = {name: noted(n, name, count) for name, count in LEAVERS.items()}
        for name in LEAVERS:
            n.ask("child", action="stop", names=[name])
            assert alive(old[name]) == [], name
            assert of_child(n, name) == [], name
        assert set(n.states().values()) == {"stopped"}


def test_the_next_incarnation_never_meets_what_the_last_one_left() -> None:
    """T1 for a death that nobody asked for: when generation 2 runs, nothing of generation 1 does."""
    with node(programs(list(LEAVERS)), {"shapes.py": SHAPES}) as n, no_old_zombies(n):
        for name, count in LEAVERS.items():
            old = noted(n, name, count)
            n.kill(n.pid(name))
            n.reborn(name, 1)
            assert alive(old) == [], name
            new = noted(n, name, count)
            assert set(new) <= set(of_child(n, name)), name
            assert not set(new) & set(old), name


@pytest.mark.parametrize("shape", HOPPERS)
def test_a_hopper_is_caught(shape: str) -> None:
    """T1, test 19: a descendant that forks and exits (or execs, or leaves its session with each hop) for ever."""
    with node(programs([shape]), {"shapes.py": SHAPES}) as n, no_old_zombies(n):
        hopping(n, shape)
        n.ask("child", action="stop", names=[shape])
        assert hops_no_more(n, shape)


def test_a_worker_that_is_itself_a_hopper_is_ended_with_all_its_hops() -> None:
    """Test 19: the main process exits with its first hop."""
    config = PROGRAM.format(name="itself", shape="itself") + 'restart = "transient"\n'
    with node(config, {"shapes.py": SHAPES}) as n:
        ended = n.when("itself", state="stopped")
        assert hops_no_more(n, "itself")
        assert ended["last_exit"]["reason"] == "normal"


# --- T4 ---


def test_a_helper_that_opts_out_is_left_alone_and_reported() -> None:
    """T4: detach = true."""
    config = PROGRAM.format(name="daemon", shape="daemon") + "detach = true\n"
    with node(config, {"shapes.py": SHAPES}) as n:
        main = n.pid("daemon")
        (helper,) = [each for each in noted(n, "daemon", 2) if each.pid != main]
        n.ask("child", action="stop", names=["daemon"])
        assert helper.alive
        assert str(helper.pid) in n.ask("why", name="daemon")["deaths"][0]["left"][0]
        detached = [each for each in n.events() if each["event"] == "otpd.child.detached"]
        assert [(each["name"], each["generation"]) for each in detached] == [("daemon", 1)]
        n.kill(helper.pid)


# --- T2: root, heart, both ---

#: 50 children, 10 of them with a grandchild that has left their session: 60 processes.
FLEET = "".join(AGENT.format(name=f"a{i}") for i in range(40)) + "".join(
    PROGRAM.format(name=f"d{i}", shape="daemon") for i in range(10)
)
SIZES = {f"a{i}": 1 for i in range(40)} | {f"d{i}": 2 for i in range(10)}


def fleet(n: Node) -> list[Seen]:
    """All 60 processes of the workers, when they are there: one for each agent, two for each daemon, no more."""

    def complete() -> list[Seen] | None:
        found = by_child(n)
        services = found.pop("broker", [])
        sizes = {name: len(processes) for name, processes in found.items()}
        return sum(found.values(), []) if sizes == SIZES and len(services) == 1 else None

    return eventually(complete, 10, "60 processes")  # type: ignore[return-value]


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process of another node, with a child of the same name; must survive whatever happens here."""
    cookie = {"OTPD_NODE": "0" * 32, "OTPD_CHILD": "d0", "OTPD_GENERATION": "1"}
    process = subprocess.Popen(["sleep", "1000"], env={**os.environ, **cookie}, start_new_session=True)
    try:
        yield process
        assert process.poll() is None, "a stranger was touched"
    finally:
        process.kill()
        process.wait()


def all_run(n: Node) -> bool:
    try:
        states = n.states()
    except OSError:
        return False
    return len(states) == 50 and set(states.values()) == {"running"}


def test_kill_9_of_root_ends_every_process_and_brings_the_tree_back_complete() -> None:
    """T2, rule 67: none of the 60 old processes lives, then the tree is up again, without duplicates. How soon:
    `scripts/bench`."""
    with stranger(), node(FLEET, {"shapes.py": SHAPES}) as n, no_old_zombies(n):
        old, root, heart = fleet(n), n.facts()["pid"], n.facts()["heart_pid"]
        n.kill(root)
        eventually(lambda: not alive(old), what="none of the old processes lives")
        eventually(lambda: n.answers() and all_run(n), what="the tree is complete")
        assert n.facts()["heart_pid"] == heart
        assert n.facts()["pid"] != root
        new = fleet(n)
        assert not set(old) & set(new)
        assert {row["generation"] for row in n.workers().values()} == {1}


def test_kill_9_of_heart_is_an_ordered_stop_that_leaves_nothing() -> None:
    """T2, DESIGN section 3: nobody would guard root any more, so root stops the tree in order."""
    with stranger(), node(FLEET, {"shapes.py": SHAPES}) as n:
        old = fleet(n)
        n.kill(n.facts()["heart_pid"])
        nothing_is_left(n)
        assert alive(old) == []
        assert "terminate shutdown" in n.log("a0")
        n.start()
        assert len(fleet(n)) == 60


@pytest.mark.parametrize("first", ["heart", "root"])
def test_heart_and_root_killed_at_once_leave_nothing_that_the_next_start_does_not_end(first: str) -> None:
    """T2, tests 10, 50: PDEATHSIG ends the workers, the next start sweeps the rest by cookie; a stranger stays."""
    with stranger(), node(FLEET, {"shapes.py": SHAPES}) as n:
        old, (heart, root) = fleet(n), n.guardians()
        for pid in (heart, root) if first == "heart" else (root, heart):
            n.kill(pid)
        n.start()
        assert alive(old) == []
        new = fleet(n)
        assert len(everything(n)) == len(new) + len(house(n))


def house(n: Node) -> list[int]:
    facts = n.facts()
    services = [row["pid"] for row in n.services().values()]
    return [facts["heart_pid"], facts["pid"], facts["zygote_pid"], facts["logger_pid"], *services, *facts["blanks"]]


@pytest.mark.parametrize("shape", ["leaper"])
def test_the_end_of_root_is_the_end_of_a_hopper(shape: str) -> None:
    """T2, test 19: heart ends it before it starts root again; the new incarnation may hop anew."""
    with node(programs([shape]), {"shapes.py": SHAPES}) as n, no_old_zombies(n):
        hopping(n, shape)
        n.kill(n.facts()["pid"])
        eventually(n.answers, 10, "root answers")
        n.ask("child", action="stop", names=[shape])
        assert hops_no_more(n, shape)


def test_the_logger_ends_what_heart_and_root_left() -> None:
    """T2: it is the last one; a daemon and a hopper, which PDEATHSIG does not reach, end without another start."""
    with stranger(), node(programs(["daemon", "leaper"]), {"shapes.py": SHAPES}) as n:
        old = noted(n, "daemon", LEAVERS["daemon"])
        hopping(n, "leaper")
        for pid in n.guardians():
            n.kill(pid)
        dead_without_a_socket(n)
        assert alive(old) == []
        assert hops_no_more(n, "leaper")


@pytest.mark.parametrize("shape", ["hopper", "leaper"])
def test_the_next_start_ends_a_hopper_that_heart_root_and_logger_left(shape: str) -> None:
    """T1, T2, test 19: without its parents a hopper belongs to nobody; the sweep by cookie still ends it."""
    with node(programs([shape]), {"shapes.py": SHAPES}) as n:
        hopping(n, shape)
        logger = n.facts()["logger_pid"]
        n.kill(logger, signal.SIGSTOP)
        for pid in (*n.guardians(), logger):
            n.kill(pid)
        hopping(n, shape)
        n.write("otpd.toml", AGENT.format(name="other"))
        n.start()
        assert hops_no_more(n, shape)


# --- T19: strangers ---


def test_a_stale_lock_file_with_the_pid_of_a_stranger_harms_nobody() -> None:
    """T19, tests 48, 50: state files of a dead node name a pid that is somebody else's now."""
    with stranger() as other, node(AGENT.format(name="a"), start=False) as n:
        state = n.home / ".otpd"
        state.mkdir(mode=0o700)
        (state / "lock").write_text(f"{other.pid}\n")
        n.stop(check=7)
        n.stop("--now", check=7)
        n.start()
        assert n.states() == {"a": "running"}
        assert (state / "lock").read_text() == f"{n.facts()['heart_pid']}\n"


def test_a_process_that_only_mentions_the_node_is_not_swept() -> None:
    """T19: another node's cookie, the same child name, and this node's id in a variable of another name."""
    with node(AGENT.format(name="a")) as n:
        cookie = {"OTPD_NODE": "f" * 32, "OTPD_CHILD": "a", "OTPD_GENERATION": "1", "NOTE": f"OTPD_NODE={n.node_id()}"}
        process = subprocess.Popen(["sleep", "1000"], env={**os.environ, **cookie}, start_new_session=True)
        try:
            n.ask("child", action="restart", names=["a"])
            for pid in n.guardians():
                n.kill(pid, signal.SIGKILL)
            n.start()
            n.stop()
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
