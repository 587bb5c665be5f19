"""Lives only grow: over starts, damage, a clock that was set back, and a disk that refuses (A1, invariant 41)."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from otpd.supervisor import life
from otpd.supervisor.life import Life
from otpd.supervisor.paths import NodePaths


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    found = NodePaths(tmp_path / "state", tmp_path / "run")
    found.state_dir.mkdir()
    found.runtime_dir.mkdir()
    return found


def lived(paths: NodePaths) -> None:
    """As a node leaves its directory behind."""
    (paths.state_dir / "events.jsonl").write_text("{}\n")


def test_the_first_life_is_1_and_each_start_is_one_more(paths: NodePaths) -> None:
    assert [life.begin(paths) for _ in range(3)] == [Life(1), Life(2), Life(3)]
    assert paths.life.read_bytes() == b"3\n"
    assert sorted(path.name for path in paths.state_dir.iterdir()) == ["life"]


def test_the_file_counts_also_after_the_runtime_directory_was_removed(paths: NodePaths) -> None:
    life.begin(paths)
    paths.life_bridge.unlink()
    assert life.begin(paths) == Life(2)


def test_a_removed_file_is_no_loss_while_the_node_goes_on(paths: NodePaths) -> None:
    """heart starts root again: the copy beside the sockets is still there."""
    life.begin(paths)
    lived(paths)
    paths.life.unlink()
    assert life.begin(paths) == Life(2)


DAMAGED = [b"", b"3", b"\n", b"-3\n", b"3 \n", b"x\n", b"\0" * 12, b"0\n", b"%d\n" % 2**32, b"9" * 40 + b"\n", b"\xd9\xa3\n"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_told_and_the_clock_is_above_every_life(paths: NodePaths, content: bytes) -> None:
    paths.life.write_bytes(content)
    before = int(time.time())
    found = life.begin(paths)
    assert before < found.number <= time.time() + 1
    assert (found.saved, found.problem) == (True, f"{paths.life} is damaged; counting on from the clock")
    assert life.begin(paths) == Life(found.number + 1), "from there it counts by one"


def test_a_missing_file_in_a_directory_that_was_lived_in_is_told(paths: NodePaths) -> None:
    lived(paths)
    found = life.begin(paths)
    assert found.number > 1_700_000_000
    assert found.problem == f"{paths.life} is missing; counting on from the clock"


def test_a_clock_that_was_set_back_is_corrected_by_the_files(paths: NodePaths) -> None:
    lived(paths)
    later = int(time.time()) + 1_000_000
    os.utime(paths.state_dir / "events.jsonl", (later, later))
    assert life.begin(paths).number == later + 1


@pytest.mark.parametrize("obstacle", ["directory", "fifo", "link in a circle"])
def test_what_is_no_file_is_damage_and_never_a_wait(paths: NodePaths, obstacle: str) -> None:
    match obstacle:
        case "directory":
            paths.life.mkdir()
        case "fifo":
            os.mkfifo(paths.life)
        case _:
            paths.life.symlink_to(paths.life)
    assert life.begin(paths).number > 1_700_000_000


def test_a_life_that_can_t_be_saved_is_not_taken_again_while_the_node_goes_on(
    paths: NodePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state directory is read-only for a while: roots go on counting beside the sockets, and save when they can."""
    life.begin(paths)
    write = life._write

    def refuse(path: Path, number: int) -> None:
        if path == paths.life:
            raise OSError(30, "Read-only file system")
        write(path, number)

    monkeypatch.setattr(life, "_write", refuse)
    problem = f"{paths.life} can't be written: Read-only file system"
    assert [life.begin(paths) for _ in range(2)] == [Life(2, False, problem), Life(3, False, problem)]
    assert life.save(paths, 3) == problem
    monkeypatch.undo()
    assert life.save(paths, 3) is None
    assert life.begin(paths) == Life(4)


def test_a_start_that_dies_while_it_saves_leaves_a_whole_file(paths: NodePaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """T28: at every step of the writing the file is the old or the new one."""
    life.begin(paths)
    for step in ("fsync", "replace"):
        with monkeypatch.context() as context:
            context.setattr(os, step, _die)
            with pytest.raises(KeyboardInterrupt):
                life.begin(paths)
        assert paths.life.read_bytes() == b"1\n"
    assert life.begin(paths).number > 1


def _die(*_arguments: object) -> None:
    raise KeyboardInterrupt
