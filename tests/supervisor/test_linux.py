"""The wrappers around the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys

import pytest

from otpd.supervisor import linux


def test_this_machine_is_supported() -> None:
    linux.require_linux()


def test_another_system_is_refused_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(linux.UnsupportedError, match=r"needs Linux 5\.10 or newer, this is darwin"):
        linux.require_linux()


def test_an_old_kernel_is_refused_with_its_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "4.19.0-27-amd64")
    with pytest.raises(linux.UnsupportedError, match=r"this kernel is 4\.19\.0-27-amd64"):
        linux.require_linux()


def test_an_unknown_architecture_is_refused_by_name() -> None:
    with pytest.raises(linux.UnsupportedError, match="x86_64 and aarch64, this machine is sparc64"):
        linux.clone_call("sparc64")


def test_children_are_those_of_the_scan() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in linux.children(os.getpid())
        assert sorted(linux.children(os.getpid())) == sorted(linux.scan_children(os.getpid()))
    finally:
        child.communicate()


def test_a_process_that_is_gone_has_no_stat_environment_or_children() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert (linux.stat(child.pid), linux.environ_block(child.pid), linux.children(child.pid)) == (None, None, [])


def test_stat_reads_a_name_with_parentheses_and_blanks() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "open('/proc/self/comm', 'w').write('a) (b c'); print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.readline()
    found = linux.stat(child.pid)
    child.communicate()
    assert found is not None
    assert (found.ppid, found.session, found.group) == (os.getpid(), child.pid, child.pid)


def test_the_subreaper_flag_is_set_and_cleared() -> None:
    for on in (True, False):
        linux.set_child_subreaper(on)
        found = ctypes.c_int(-1)
        assert ctypes.CDLL(None).prctl(37, ctypes.byref(found), 0, 0, 0) == 0  # PR_GET_CHILD_SUBREAPER
        assert found.value == on


def test_the_title_leaves_the_environment_alone() -> None:
    code = (
        "from otpd.supervisor import linux; linux.set_title('otpd: test'); "
        "print(open('/proc/self/cmdline').read().strip(chr(0))); print('COOKIE=here' in open('/proc/self/environ').read())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "COOKIE": "here"}, capture_output=True, text=True
    )
    assert run.stdout.splitlines() == ["otpd: test", "True"]


def test_a_title_does_not_shift_what_python_reads_of_the_kernel_when_it_forks() -> None:
    code = "from otpd.supervisor import linux; linux.set_title('otpd: a test'); print(open('/proc/self/stat').read())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert (found[1], found[19]) == ("(otpd:atest)", "1")  # the twentieth field: one thread


def test_a_complaint_that_nobody_reads_holds_nobody_up() -> None:
    """A terminal under ^S, or a pipe whose reader sleeps: what is behind stderr is full."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writer, b"x" * 4096):
            pass
    os.set_blocking(writer, True)
    code = "from otpd.supervisor import linux; linux.complain('x' * 100)"
    done = subprocess.run([sys.executable, "-c", code], stderr=writer, timeout=60)
    assert done.returncode == 0
    os.close(writer)
    with open(reader, "rb") as file:
        assert set(file.read()) == {ord("x")}


def test_a_complaint_is_one_line_that_is_never_lost_half() -> None:
    code = "from otpd.supervisor import linux; linux.complain('no ' + chr(0xdcff)); linux.complain('y' * 10_000)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.stderr == b"no \\udcff\n" + b"y" * 4096
