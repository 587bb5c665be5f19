"""Where a node keeps its files, and who else may be there (T45, T47)."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from otpd.supervisor.paths import NodePaths, PathError, make_runtime, node_paths
from tests.e2e.others import STRANGER, needs_root


def mode(path: Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_runtime_directory_and_the_one_that_it_stands_in_are_private(tmp_path: Path) -> None:
    paths = NodePaths(tmp_path / "state", tmp_path / "otpd" / "digest")
    make_runtime(paths)
    assert (mode(tmp_path / "otpd"), mode(paths.runtime_dir)) == (0o700, 0o700)
    for each in (tmp_path / "otpd", paths.runtime_dir):
        each.chmod(0o777)
    make_runtime(paths)
    assert (mode(tmp_path / "otpd"), mode(paths.runtime_dir)) == (0o700, 0o700)


@needs_root
def test_a_directory_that_a_stranger_has_made_first_is_refused(tmp_path: Path) -> None:
    """T47: in /tmp anybody can; who owns the parent could put another directory into the place of ours."""
    parent = tmp_path / "otpd-0"
    (parent / "digest").mkdir(parents=True, mode=0o700)
    os.chown(parent, STRANGER, STRANGER)
    why = f"{parent} must be a directory that belongs to uid 0, but it is drwx.* of uid {STRANGER}"
    with pytest.raises(PathError, match=why):
        make_runtime(NodePaths(tmp_path / "state", parent / "digest"))


@needs_root
def test_a_runtime_directory_of_somebody_else_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo otpd` keeps the user's XDG_RUNTIME_DIR."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:  # short, as socket paths must be
        theirs, ours = Path(home, "theirs"), Path(home, "ours")
        for each in (theirs, ours):
            each.mkdir(mode=0o700)
        os.chown(theirs, STRANGER, STRANGER)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(ours))
        assert node_paths(home).runtime_dir.parent == ours / "otpd"
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(theirs))
        assert theirs not in node_paths(home).runtime_dir.parents
