"""Which paths may make root wait: a table of mounts, links, and a kernel that says when the table changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.supervisor.mounts import Mounts, suspects
from tests.supervisor.processes import open_fds

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - nfs4 server:/ rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:6 / /net\040work rw shared:2 master:1 - cifs //nas/share rw
25 22 0:7 / /sshfs rw - fuse.sshfs me@there:/ rw
26 22 0:8 / /auto rw - autofs systemd-1 rw,fd=29
27 22 0:9 / /over rw - nfs a:/b rw
28 27 8:2 / /over rw - ext4 /dev/sdb rw
29 22 8:3 / /data rw - xfs /dev/sdc rw
"""


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    before = open_fds()
    mounts = Mounts()
    yield mounts
    mounts.close()
    assert open_fds() <= before


def test_file_systems_of_networks_and_of_processes_are_suspects_but_never_the_one_that_root_lives_on() -> None:
    assert suspects(TABLE) == {"/net work", "/sshfs", "/auto"}


def test_links_are_followed_and_nothing_beyond_a_suspect_is_touched(
    mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "direct").symlink_to(tmp_path / "far" / "tool")
    (tmp_path / "indirect").symlink_to("direct")
    (tmp_path / "up").symlink_to(f"../{tmp_path.name}/./far")
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "near").symlink_to("/bin")
    monkeypatch.setattr(mounts, "_suspects", frozenset({str(tmp_path / "far")}))
    touched = []
    readlink = os.readlink
    monkeypatch.setattr(os, "readlink", lambda path: (touched.append(path), readlink(path))[1])
    names = ("far", "far/x/y", "direct", "indirect", "up/z", "round", "near", "near/sh", "missing/x", "far/../near")
    found = {name: mounts.may_hang([f"{tmp_path}/{name}"]) for name in names}
    assert found == {
        "far": True, "far/x/y": True, "direct": True, "indirect": True, "up/z": True, "round": True, "near": False,
        "near/sh": False, "missing/x": False, "far/../near": True,
    }  # fmt: skip
    assert not [path for path in touched if path.startswith(str(tmp_path / "far"))]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_mount_is_seen_at_once(mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpd.supervisor.mounts._SUSPECTS", frozenset({"tmpfs"}))
    path = str(tmp_path / "there")
    os.mkdir(path)
    assert not mounts.may_hang([path])
    if subprocess.run(["mount", "-t", "tmpfs", "none", path], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        assert mounts.may_hang(["/bin", path + "/x"])
    finally:
        subprocess.run(["umount", path], check=True)
    assert not mounts.may_hang([path])
