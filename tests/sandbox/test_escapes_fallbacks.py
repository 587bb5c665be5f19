"""The fallbacks: what escapes from them is what their capability table announces. Quick cases here, all in the soak."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from otpd.agents.sandbox import Pool, PoolSettings
from otpd.agents.sandbox.nesting import LAUNCHER
from tests.sandbox.conftest import SLOT_UIDS
from tests.sandbox.playing import OWN, PUBLIC, escaped, needs_root, play, who

#: Parts of ids of cases that take no time, from every category.
QUICK = [
    "A06",
    "A12",
    "A18",
    "A26",
    "B02",
    "B06",
    "B09",
    "B12b",
    "B13",
    "C0",
    "C1",
    "D0",
    "D1",
    "D22",
    "E0",
    "E1",
    "F2",
    "F3",
    "G",
]


def needs_bwrap() -> None:
    if not os.access("/usr/bin/bwrap", os.X_OK):
        pytest.skip("bubblewrap is not installed")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize("backend", ["bwrap", "landlock"])
def test_only_what_is_announced_escapes_from_a_fallback(backend: str, user: bool) -> None:
    if backend == "bwrap":
        needs_bwrap()
    if not user:
        needs_root()
    only = [word for part in QUICK for word in ("--only", part)]
    report = play(PUBLIC, "--backend", backend, *who(user), *only)
    assert escaped(report) == {}
    assert report["capability"]["backend"] == backend


def test_bubblewrap_needs_no_way_to_where_otpd_is_installed(tmp_path: Path) -> None:
    """In root's home, say, which is closed to the uid as which bubblewrap runs."""
    needs_bwrap()
    needs_root()
    if not os.access(LAUNCHER, os.X_OK):
        pytest.skip("the compiled nest is not built here: no compiler")
    tmp_path.chmod(0o700)
    (tmp_path / "home").symlink_to(tmp_path)
    shutil.copy(LAUNCHER, tmp_path / "nest")
    assert echo_by_bubblewrap(str(tmp_path / "home" / "nest")) == (b"here\n", "c")


def test_bubblewrap_runs_commands_where_there_was_no_compiler() -> None:
    needs_bwrap()
    assert echo_by_bubblewrap("") == (b"here\n", "python")


#: Says which signal the process gets when its parent dies, at the exec of bwrap (PR_GET_PDEATHSIG is 2).
AT_THE_EXEC = """
import ctypes
from otpd.agents.sandbox import bubblewrap

bubblewrap._before(None, None, 0)
number = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(number))
print(number.value)
"""


def test_bubblewrap_decides_itself_from_when_on_it_dies_with_its_worker() -> None:
    """It does when its child is about to go on. One that died sooner left the child waiting for it for ever."""
    told = subprocess.run([sys.executable, "-c", AT_THE_EXEC], check=True, timeout=120, capture_output=True)
    assert told.stdout == b"0\n"


def echo_by_bubblewrap(launcher: str) -> tuple[bytes, str]:
    """What a command says, and which nest has started it."""
    with Pool(PoolSettings(workers=1, backend="bwrap", slot_uids=SLOT_UIDS), launcher=launcher) as pool:
        done = pool.run(["echo", "here"])
        return done.stdout, pool.capability().launcher


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("file", [PUBLIC, OWN], ids=["public", "own"])
@pytest.mark.parametrize("user", [False, True], ids=["root", "user"])
@pytest.mark.parametrize(
    "options",
    [["native"], ["native", "--launcher", "python"], ["bwrap"], ["bwrap", "--launcher", "python"], ["landlock"]],
    ids=["native-c", "native-python", "bwrap-c", "bwrap-python", "landlock"],
)
def test_the_whole_corpus_on_every_backend(options: list[str], user: bool, file: Path) -> None:
    if options[0] == "bwrap":
        needs_bwrap()
    if not user:
        needs_root()
    assert escaped(play(file, "--backend", *options, *who(user))) == {}
