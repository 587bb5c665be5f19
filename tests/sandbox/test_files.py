"""Files of the host around a run: what is granted, measured, removed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from otpd.agents.sandbox import GrantRefused
from otpd.agents.sandbox.clearing import remove_tree
from otpd.agents.sandbox.disk import PAUSE, REST, DiskWatch
from otpd.agents.sandbox.grants import check_grant, fill_first_missing
from tests.helpers import eventually


def refusal(path: Path | str, *, writable: bool = True) -> str:
    with pytest.raises(GrantRefused) as error:
        check_grant(str(path), writable=writable)
    return str(error.value)


@pytest.mark.parametrize("path", ["/", "/etc", "/etc/ssh", "/proc", "/sys/fs", "/dev/shm", "/usr", "/tmp", "/home"])
def test_parts_of_the_system_are_never_granted_for_writing(path: str) -> None:
    assert "is a part of the system" in refusal(path)


def test_reading_them_may_be_granted() -> None:
    check_grant("/etc", writable=False)


def test_no_link_leads_to_a_grant(tmp_path: Path) -> None:
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for path in (tmp_path / "link", tmp_path / "link" / "sub"):
        assert "a symbolic link leads there" in refusal(path)
        assert "grant " + os.path.realpath(path) in refusal(path, writable=False)


def test_only_directories_and_files_are_granted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "sock"))
    assert "got a special file" in refusal(tmp_path / "fifo")
    assert "got a special file" in refusal(tmp_path / "sock")
    assert "make it first" in refusal(tmp_path / "missing")


def test_the_first_missing_part_of_a_protected_path_is_filled_and_removed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    filled = fill_first_missing(str(tmp_path), "a/b/c")
    assert filled is not None
    assert (filled.path, (tmp_path / "a" / "b").is_dir(), (tmp_path / "a" / "b" / "c").exists()) == ("a/b", True, False)
    filled.remove()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_filled_part_that_is_in_use_stays(tmp_path: Path) -> None:
    filled = fill_first_missing(str(tmp_path), "x")
    assert filled is not None
    (tmp_path / "x" / "file").touch()
    filled.remove()
    assert (tmp_path / "x" / "file").exists()


def test_what_exists_needs_no_filling_and_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    assert fill_first_missing(str(tmp_path), "a") is None
    with pytest.raises(GrantRefused, match="can't be protected"):
        fill_first_missing(str(tmp_path), "link/x")


def test_directories_in_each_other_are_measured_however_deep_they_lie(tmp_path: Path) -> None:
    watch = DiskWatch((str(tmp_path),))
    top = deep = str(tmp_path / "d")
    for _ in range(1500):
        os.mkdir(deep)
        deep += "/d"
    try:
        watch.look()
    finally:
        remove_tree(top)  # pytest's own way is too short for it
    assert watch.files == 1500


def test_disk_counts_what_has_changed_since_the_start(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 2**20)
    watch = eventually(lambda: (begun := DiskWatch((str(tmp_path),))).look() < 2**16 and begun)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "new").write_bytes(b"x" * 2**20)
    assert 2**20 <= watch.look() < 2**20 + 2**16
    assert watch.files == 3


def test_disk_follows_nothing_and_a_sparse_file_is_small(tmp_path: Path) -> None:
    outside, inside = tmp_path / "out", tmp_path / "in"
    outside.mkdir()
    inside.mkdir()
    watch = DiskWatch((str(inside),))
    (outside / "big").write_bytes(b"x" * 2**20)
    (inside / "link").symlink_to(outside)
    with open(inside / "sparse", "wb") as file:
        file.truncate(2**40)
    assert watch.look() < 2**16


def test_disk_follows_no_link_that_takes_the_place_of_a_directory_on_the_way(tmp_path: Path) -> None:
    outside, inside = tmp_path / "out", tmp_path / "in"
    (outside / "deep").mkdir(parents=True)
    (inside / "a" / "deep").mkdir(parents=True)
    watch = DiskWatch((str(inside),), at_once=2)
    for number in range(10):
        (outside / "deep" / str(number)).touch()
    watch.look()  # knows `a` and `deep`, and has been in neither
    (inside / "a").rename(inside / "b")
    (inside / "a").symlink_to(outside)
    watch.look()
    assert watch.files == 2


def test_disk_counts_empty_files_too_and_each_once_whatever_names_it_has(tmp_path: Path) -> None:
    watch = eventually(lambda: (begun := DiskWatch((str(tmp_path),))).look() < 2**12 and begun)
    for number in range(100):
        (tmp_path / str(number)).touch()
    for number in range(100, 120):
        os.link(tmp_path / "0", tmp_path / str(number))
    assert watch.look() == 99 * 4096 + 21 * (4096 // 21)


def test_disk_goes_on_sooner_while_it_has_not_seen_all(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    watch = DiskWatch((str(tmp_path),), at_once=1)
    pauses = [watch.look() * 0 + watch.pause() for _ in range(4)]
    assert pauses == [REST, REST, PAUSE, REST]


def test_disk_looks_at_a_part_at_a_time(tmp_path: Path) -> None:
    for number in range(15):
        (tmp_path / str(number)).touch()
    watch = DiskWatch((str(tmp_path),), at_once=10)
    watch.look()
    assert watch.files == 10
    watch.look()
    assert watch.files == 15


def test_any_tree_is_removed_and_links_are_left_alone(tmp_path: Path) -> None:
    outside, top = tmp_path / "out", tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "keep").touch()
    (top / "a" / "link").symlink_to(outside)
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"a" * 255):
        with open(os.fsencode(top / "a" / "b") + b"/" + name, "w"):
            pass
    for path in (top / "a" / "b", top / "a", top):
        path.chmod(0)
    remove_tree(str(top))
    assert (top.exists(), (outside / "keep").exists()) == (False, True)


def test_a_deep_tree_is_removed(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    os.mkdir("top", dir_fd=here)
    at = os.open("top", os.O_RDONLY, dir_fd=here)
    for _ in range(150):
        os.mkdir("d" * 50, dir_fd=at)
        inner = os.open("d" * 50, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    remove_tree(str(tmp_path / "top"))
    os.close(here)
    assert list(tmp_path.iterdir()) == []
