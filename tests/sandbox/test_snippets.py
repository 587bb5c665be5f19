"""Python source in a warm interpreter: as `python3 -c` would run it, and fresh each time."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from otpd.agents.sandbox import Limits, Pool, Profile, Result


def run(pool: Pool, code: str, **options: object) -> Result:
    return pool.run_python(code, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "out", "err"),
    [
        ("print(6 * 7)", 0, "42\n", ""),
        ("import sys; sys.exit(3)", 3, "", ""),
        ("import sys; sys.exit()", 0, "", ""),
        ("import sys; sys.exit('bye')", 1, "", "bye\n"),
        ("raise SystemExit(256 + 7)", 7, "", ""),
        ("import os; os._exit(9)", 9, "", ""),
        ("import atexit; atexit.register(print, 'last'); print('first')", 0, "first\nlast\n", ""),
        (
            "import threading, time\nthreading.Thread(target=lambda: (time.sleep(.1), print('late'))).start()",
            0,
            "late\n",
            "",
        ),
        ("print(__name__, [n for n in globals() if not n.startswith('__')])", 0, "__main__ []\n", ""),
        ("import os\nif os.fork() == 0:\n  os._exit(4)\nprint(os.waitstatus_to_exitcode(os.wait()[1]))", 0, "4\n", ""),
        ("import subprocess; print(subprocess.run(['id', '-u'], capture_output=True, text=True).stdout)", 0, "1000\n\n", ""),
        ("print(input() + input())", 0, "ab\n", ""),
        ("import sys; print(sys.argv)", 0, "['-c', 'x']\n", ""),
        ("import os; print(os.environ['A'], os.getcwd())", 0, "1 /tmp\n", ""),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", 0, "\ufffd", ""),
        ("import multiprocessing.dummy, json, random, asyncio; print(asyncio.run(asyncio.sleep(0, 5)))", 0, "5\n", ""),
    ],
)
def test_a_snippet_behaves_as_a_program(pool: Pool, code: str, status: int, out: str, err: str) -> None:
    result = run(pool, code, argv=["-c", "x"], stdin=b"a\nb\n", env={"A": "1"}, cwd="/tmp")
    assert (result.exit_code, result.text, result.stderr.decode()) == (status, out, err)


def test_an_error_is_shown_with_its_lines(pool: Pool) -> None:
    result = run(pool, "def f():\n    return 1 / 0\nf()\n")
    lines = result.stderr.decode().splitlines()
    assert (result.exit_code, lines[0], lines[-1]) == (
        1,
        "Traceback (most recent call last):",
        "ZeroDivisionError: division by zero",
    )
    assert lines[1:3] == ['  File "<exec_python>", line 3, in <module>', "    f()"]


def test_wrong_syntax_is_an_error_of_the_snippet(pool: Pool) -> None:
    result = run(pool, "if 1:\nprint(2)")
    assert (result.exit_code, "IndentationError" in result.stderr.decode()) == (1, True)


def test_each_run_is_fresh(pool: Pool) -> None:
    run(pool, "import builtins, os, sys; builtins.x = 1; os.environ['X'] = '1'; sys.modules['y'] = sys; open('/tmp/f', 'w')")
    code = (
        "import builtins, os, sys; print(hasattr(builtins, 'x'), 'X' in os.environ, 'y' in sys.modules, os.listdir('/tmp'))"
    )
    assert run(pool, code).text == "False False False []\n"


def test_random_numbers_differ_from_run_to_run(pool: Pool) -> None:
    assert len({run(pool, "import random; print(random.random())").text for _ in range(4)}) == 4


def test_nothing_of_the_pool_is_in_the_interpreter(pool: Pool) -> None:
    code = "import sys, os; print([m for m in sys.modules if 'otpd' in m or 'msgpack' in m], os.listdir('/proc/self/fd'))"
    assert run(pool, code).text == "[] ['0', '1', '2', '3']\n"


def test_a_snippet_is_as_locked_in_as_a_command(pool: Pool) -> None:
    status = dict(
        line.split(":\t") for line in run(pool, "print(open('/proc/self/status').read())").text.splitlines() if ":\t" in line
    )
    assert [status[name] for name in ("CapEff", "CapBnd", "NoNewPrivs", "Seccomp")] == ["0" * 16, "0" * 16, "1", "2"]
    result = run(pool, "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))")
    assert result.text == "-1\n"


def test_limits_hold_for_snippets(pool: Pool) -> None:
    assert run(pool, "while 1: pass", timeout=0.5).killed_by == "timeout"
    profile = Profile(limits=Limits(memory=64 * 2**20))
    assert run(pool, "x = []\nwhile 1: x.append(bytearray(b'x' * (4 << 20)))", profile=profile).killed_by == "memory"


def test_a_virtual_environment_brings_its_packages(pool: Pool, tmp_path: Path) -> None:
    """The interpreter is the environment's own; its packages are read-only like everything else."""
    if os.geteuid() == 0:
        tmp_path.chmod(0o755)
    home = tmp_path / "env"
    venv.create(home, symlinks=True, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    (site / "gift.py").write_text("WHAT = 'a gift'\n")
    profile = Profile(python=str(home / "bin" / "python"))
    result = run(pool, "import gift, sys; print(gift.WHAT, sys.prefix); open(gift.__file__, 'w')", profile=profile)
    assert (result.text, "Read-only" in result.stderr.decode()) == (f"a gift {home}\n", True)


def test_an_interpreter_in_a_writable_directory_is_refused(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to(sys.executable)
    profile = Profile(rw=(str(tmp_path),), python=str(tmp_path / "python"))
    result = run(pool, "print(1)", profile=profile)
    assert (result.status, "commands may have changed it" in result.summary()) == ("refused", True)


def test_a_command_and_a_snippet_agree(pool: Pool) -> None:
    code = "import sys; print(sys.version_info[:2], sys.flags.isolated)"
    expected = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert run(pool, code).text == expected
