"""Where a node for one process lies: nothing but what such nodes have left is ever removed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from otpd.cli import embed
from otpd.cli.failures import Failure
from otpd.supervisor import linux
from otpd.supervisor.paths import node_paths

#: No process has this pid.
DEAD = "4999999-1-abc"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(embed.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield tmp_path / f"otpd-embedded-{os.getuid()}"


def home(base: Path, name: str) -> Path:
    """With the state of a node."""
    made = base / name
    (made / ".otpd").mkdir(parents=True, mode=0o700)
    (made / ".otpd/lock").write_text("1\n")
    return made


def test_the_base_is_a_directory_of_this_user_alone(base: Path) -> None:
    assert (embed._base(), base.stat().st_mode & 0o777) == (base, 0o700)
    assert embed._base() == base
    base.chmod(0o770)
    with pytest.raises(Failure, match=f"expected {base} to be a directory for uid {os.getuid()} alone, got drwxrwx---"):
        embed._base()


def test_a_link_in_the_place_of_the_base_is_refused_and_what_it_leads_to_stays(base: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    base.symlink_to(precious)
    with pytest.raises(Failure, match="got lrwxrwxrwx"):
        embed._base()


def test_what_dead_processes_have_left_is_removed_and_nothing_else(base: Path, tmp_path: Path) -> None:
    base.mkdir(mode=0o700)
    me = linux.stat(os.getpid())
    assert me is not None
    home(base, DEAD)
    home(base, f"{os.getpid()}-1-abc")  # an earlier one of this pid
    kept = [home(base, name) for name in (f"{os.getpid()}-{me.started}-abc", "documents", "4999999")]
    link, file, precious = base / "4999999-1-link", base / "4999999-1-file", home(tmp_path, "precious")
    link.symlink_to(precious)
    file.write_text("")
    embed._sweep(base)
    assert sorted(base.iterdir()) == sorted([*kept, link, file])
    assert precious.exists()


def test_a_node_that_lives_keeps_its_directory_though_its_process_is_dead(base: Path) -> None:
    alive = home(base, DEAD)
    with open(alive / ".otpd/lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        embed._sweep(base)
        assert alive.exists()
    embed._sweep(base)
    assert not alive.exists()


def test_a_socket_that_a_killed_node_left_keeps_nothing(base: Path) -> None:
    control = node_paths(str(home(base, DEAD) / ".otpd")).control
    control.parent.mkdir(parents=True)
    control.touch()
    embed._sweep(base)
    assert (list(base.iterdir()), control.parent.exists()) == ([], False)


def test_only_the_directory_of_an_embedded_node_is_stopped_and_removed(base: Path, tmp_path: Path) -> None:
    assert embed.stop.callback is not None
    for wrong in (home(base, "documents"), home(tmp_path, DEAD)):
        with pytest.raises(Failure, match="is not the directory of an embedded node"):
            embed.stop.callback(wrong)
        assert wrong.exists()
    with pytest.raises(Failure):
        embed.stop.callback(base / DEAD)
