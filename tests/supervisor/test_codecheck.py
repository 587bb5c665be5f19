"""Each of the six faults is found in a script, with its place and what to use instead; honest code is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from otpd.supervisor.codecheck import INSTEAD, TITLES, Fault, check_node, check_script, check_source
from otpd.supervisor.config import load


@pytest.mark.parametrize(
    ("source", "line", "fault", "what"),
    [
        ("import os\nos.fork()", 2, Fault.MONITOR, "os.fork()"),
        ("from os import fork as split\nsplit()", 2, Fault.MONITOR, "os.fork()"),
        ("import multiprocessing as mp\nmp.Process(target=f).start()", 2, Fault.MONITOR, "multiprocessing.Process()"),
        ("import psutil\npsutil.pid_exists(3)", 2, Fault.MONITOR, "psutil.pid_exists()"),
        ("import psutil\npsutil.Process(3)", 2, Fault.MONITOR, "psutil.Process()"),
        ("import os\nos.kill(3, 9)", 2, Fault.MESSAGE, "os.kill()"),
        ("from multiprocessing import Queue\nq = Queue()", 2, Fault.MESSAGE, "multiprocessing.Queue()"),
        ("import zmq\nc = zmq.Context()", 2, Fault.MESSAGE, "zmq.Context()"),
        ("import zmq.asyncio\nc = zmq.asyncio.Context()", 2, Fault.MESSAGE, "zmq.asyncio.Context()"),
        ("import threading\nthreading.Timer(3, f)", 2, Fault.SCHEDULE, "threading.Timer()"),
        ("import sched\nsched.scheduler()", 2, Fault.SCHEDULE, "sched.scheduler()"),
        ("import schedule\nschedule.every(3)", 2, Fault.SCHEDULE, "schedule.every()"),
        ("loop.call_later(3, f)", 1, Fault.SCHEDULE, "call_later()"),
        (
            "import time\nwhile True:\n  f()\n  time.sleep(1)",
            2,
            Fault.SCHEDULE,
            "a loop without end around time.sleep()",
        ),
        (
            "from asyncio import sleep\nasync def f():\n  while 1:\n    if x:\n      await sleep(1)",
            3,
            Fault.SCHEDULE,
            "a loop without end around asyncio.sleep()",
        ),
        ("from multiprocessing import Pool\nwith Pool(3) as p: ...", 2, Fault.PARALLEL, "multiprocessing.Pool()"),
        (
            "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor()",
            2,
            Fault.PARALLEL,
            "concurrent.futures.ProcessPoolExecutor()",
        ),
        ("import joblib\njoblib.Parallel(3)", 2, Fault.PARALLEL, "joblib.Parallel()"),
        ("PIDS = {}\n", 1, Fault.TABLE, "the global PIDS"),
        ("agents: dict[str, int] = {}\n", 1, Fault.TABLE, "the global agents"),
        ("worker_pids = [1]\ndef f(): worker_pids.append(2)", 1, Fault.TABLE, "the global worker_pids"),
        ("registry = {1: 2}\ndef f(): registry[3] = 4", 1, Fault.TABLE, "the global registry"),
        ("import subprocess\nsubprocess.run(['ls'])", 2, Fault.COMMAND, "subprocess.run()"),
        ("from subprocess import Popen\nPopen('ls')", 2, Fault.COMMAND, "subprocess.Popen()"),
        ("import os\nos.system('ls')", 2, Fault.COMMAND, "os.system()"),
        ("import os\nos.execvp('ls', ['ls'])", 2, Fault.COMMAND, "os.execvp()"),
        (
            "import asyncio\nasync def f(): await asyncio.create_subprocess_exec('ls')",
            2,
            Fault.COMMAND,
            "asyncio.create_subprocess_exec()",
        ),
        ("def f(:\n", 1, Fault.UNREADABLE, "invalid syntax"),
        ("\0", 1, Fault.UNREADABLE, "source code string cannot contain null bytes"),
    ],
)
def test_a_fault_is_found_where_it_stands(source: str, line: int, fault: Fault, what: str) -> None:
    assert [(found.line, found.fault, found.what) for found in check_source(source, "a.py")] == [(line, fault, what)]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def run(): ...\nrun()\nself.exec(['ls'])\nsubprocess.run()  # not imported",
        "import os\nos.kill(os.getpid(), 9)",
        "import psutil, os\npsutil.Process().memory_info()\npsutil.Process(os.getpid())",
        "import time\ntime.sleep(1)\nfor _ in range(3): time.sleep(1)\nwhile x: time.sleep(1)",
        "while True:\n  handle(queue.get())",
        "import time\nwhile True:\n  def f(): time.sleep(1)\n  break",
        "WORKERS = 4\nAGENTS = ['a', 'b']\ncapital = {}\ndef f(): pids = {}",
        "import subprocess\ntry: ...\nexcept subprocess.CalledProcessError(): ...",
        "import os\nos.system('ls')  # otpd: allow",
        "import threading, os\nthreading.Lock(); os.path.join('a'); os.executable",
    ],
)
def test_honest_code_has_no_findings(source: str) -> None:
    assert check_source(source, "a.py") == []


def test_a_finding_says_what_to_use_instead() -> None:
    found = check_source("import os\nx = os.system('ls')\n", "a.py")[0]
    assert str(found) == (
        "a.py:2:5: warning: os.system(): a system command run by an agent (fault 6); "
        "use self.exec([...]), or declare a long-lived one under [programs.NAME]"
    )
    assert found.to_dict() == {
        "file": "a.py", "line": 2, "column": 5, "fault": 6, "title": "a system command run by an agent",
        "what": "os.system()", "instead": INSTEAD[Fault.COMMAND],
    }  # fmt: skip


def test_every_fault_has_a_title_and_a_way_out() -> None:
    assert set(TITLES) == set(INSTEAD) == set(Fault)


def test_each_script_of_a_node_is_checked_once_in_start_order(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\nos.fork()\n")
    (tmp_path / "b.py").write_text("import os\nos.fork()\n")
    (tmp_path / "otpd.toml").write_text(
        '[supervisors.s]\n[agents.x]\nscript = "b.py"\nsupervisor = "s"\ninstances = 3\n'
        '[programs.y]\nscript = "a.py"\n[programs.z]\nscript = "b.py"\n'
    )
    found = check_node(load(tmp_path / "otpd.toml"))
    assert [finding.file for finding in found] == [str(tmp_path / "b.py"), str(tmp_path / "a.py")]


def test_a_script_that_is_gone_is_a_finding(tmp_path: Path) -> None:
    assert [finding.what for finding in check_script(str(tmp_path / "gone.py"))] == ["No such file or directory"]
