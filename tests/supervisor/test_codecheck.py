"""Each of the six faults is found in a script, with its place and what to write instead; honest code is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from otpd.supervisor import faults
from otpd.supervisor.codecheck import Finding, check_node, check_script, check_source
from otpd.supervisor.config import load
from otpd.supervisor.faults import RULES, TITLES
from tests.supervisor import falsealarms

DOCS = Path(__file__).parents[2] / "docs"


def look(source: str) -> list[Finding]:
    return [each for each in check_source(source, "a.py") if each.allowed is None]


def found(source: str) -> list[tuple[int, str, str, str]]:
    """Line, rule, level, what."""
    return [(each.line, each.rule.id, each.level, each.what) for each in look(source)]


CERTAIN = [
    ("own-process", "import os\nos.fork()", "os.fork()"),
    ("own-process", "import pty\npty.fork()", "pty.fork()"),
    ("own-process", "import multiprocessing\nmultiprocessing.Process(target=f).start()", "multiprocessing.Process()"),
    ("own-process", "import multiprocessing\nclass P(multiprocessing.Process): ...", "class P(multiprocessing.Process)"),
    ("raw-message", "from multiprocessing import Queue\nq = Queue()", "multiprocessing.Queue()"),
    ("raw-message", "import multiprocessing.shared_memory\nmultiprocessing.shared_memory.SharedMemory()",
     "multiprocessing.shared_memory.SharedMemory()"),
    ("raw-message", "from multiprocessing.connection import Client\nClient(x)", "multiprocessing.connection.Client()"),
    ("own-timer", "import threading\nthreading.Timer(3, f)", "threading.Timer()"),
    ("own-timer", "import sched\nsched.scheduler()", "sched.scheduler()"),
    ("own-timer", "import schedule\nschedule.every(3)", "schedule.every()"),
    ("own-timer", "from apscheduler.schedulers.asyncio import AsyncIOScheduler\nAsyncIOScheduler()",
     "apscheduler.schedulers.asyncio.AsyncIOScheduler()"),
    ("own-pool", "from multiprocessing import Pool\nwith Pool(3) as p: ...", "multiprocessing.Pool()"),
    ("own-pool", "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor()",
     "concurrent.futures.ProcessPoolExecutor()"),
    ("own-pool", "import joblib\njoblib.Parallel(3)", "joblib.Parallel()"),
    ("own-command", "import subprocess\nsubprocess.run(['ls'])", "subprocess.run()"),
    ("own-command", "import os\nos.system('ls')", "os.system()"),
    ("own-command", "import os\nos.execvp('ls', ['ls'])", "os.execvp()"),
    ("own-command", "import asyncio\nasync def f(): await asyncio.create_subprocess_exec('ls')",
     "asyncio.create_subprocess_exec()"),
    ("own-command", "import pty\npty.spawn('ls')", "pty.spawn()"),
    # a name may be another, and a function may be given to somebody who calls it
    ("own-command", "import subprocess as sp\nsp.run(['ls'])", "subprocess.run()"),
    ("own-command", "from os import system as s\ns('ls')", "os.system()"),
    ("own-command", "from subprocess import *\nrun('ls')", "subprocess.run()"),
    ("own-command", "from subprocess import Popen\nclass Quiet(Popen): ...", "class Quiet(subprocess.Popen)"),
    ("own-command", "import subprocess; run = subprocess.run\nrun('ls')", "subprocess.run()"),
    ("own-command", "import asyncio.subprocess as a\nasync def f(): await a.create_subprocess_exec('ls')",
     "asyncio.subprocess.create_subprocess_exec()"),
    ("own-command", "import asyncio, subprocess as sp\nasync def f(): await asyncio.to_thread(sp.run, ['ls'])",
     "subprocess.run given to asyncio.to_thread()"),
    ("own-command", "import os\npool.submit(os.system, 'ls')", "os.system given to submit()"),
    ("own-command", "import os, threading\nthreading.Thread(target=os.system, args=['ls'])",
     "os.system given to threading.Thread()"),
    ("own-process", "from os import fork as split\nsplit()", "os.fork()"),
    ("own-process", "import multiprocessing as mp; ctx = mp.get_context('spawn')\nctx.Process(target=f)",
     "multiprocessing.Process()"),
    ("own-process", "try: import multiprocessing as mp\nexcept ImportError: mp = None\nmp.Process()",
     "multiprocessing.Process()"),
    ("raw-message", "import multiprocessing as mp\nmp.get_context('spawn').Queue()", "multiprocessing.Queue()"),
    ("own-timer", "from threading import Timer as Later\nLater(3, f)", "threading.Timer()"),
    ("own-pool", "import concurrent.futures as cf\ncf.ProcessPoolExecutor()", "concurrent.futures.ProcessPoolExecutor()"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "source", "what"), CERTAIN, ids=lambda value: value.splitlines()[-1][:40])
def test_what_can_mean_nothing_else_is_an_error_in_an_agent(rule: str, source: str, what: str) -> None:
    (finding,) = [each for each in look(source) if each.rule.certain]
    assert (finding.line, finding.rule.id, finding.level, finding.what) == (source.count("\n") + 1, rule, "error", what)


TABLES = [
    "import subprocess\nRUNNING = {}\ndef f(k): RUNNING[k] = subprocess.Popen(['ls'])",
    "import subprocess as sp\nseen = []\ndef f(): p = sp.Popen('ls'); seen.append((1, p.pid))",
    "import os\nids = set()\nids.add(os.getpid())",
    "import multiprocessing as mp\nfound = []\ndef f():\n  child = mp.Process()\n  found.append(child)",
    "import asyncio\nby_name: dict = {}\nasync def f(): by_name['x'] = await asyncio.create_subprocess_exec('ls')",
    "import psutil\nknown = {}\ndef f(pid): known.setdefault(pid, psutil.Process(pid))",
]


@pytest.mark.parametrize("source", TABLES)
def test_a_global_that_is_filled_with_processes_is_a_process_table(source: str) -> None:
    tables = [each for each in look(source) if each.rule is faults.PROCESS_TABLE]
    assert [(each.line, each.level) for each in tables] == [(source.count("\n") + 1, "error")]


HINTS = [
    ("own-watch", "import psutil\npsutil.pid_exists(3)", 2, "psutil.pid_exists()"),
    ("own-watch", "import psutil\npsutil.Process(3)", 2, "psutil.Process()"),
    ("own-watch", "import os\nos.waitpid(3, 0)", 2, "os.waitpid()"),
    ("raw-wire", "import os\nos.kill(3, 9)", 2, "os.kill()"),
    ("raw-wire", "import zmq.asyncio\nc = zmq.asyncio.Context()", 2, "zmq.asyncio.Context()"),
    ("sleep-loop", "loop.call_later(3, f)", 1, "call_later()"),
    ("sleep-loop", "import time\nwhile True:\n  f()\n  time.sleep(1)", 2, "a loop without end around time.sleep()"),
    ("sleep-loop", "from asyncio import sleep\nasync def f():\n  while 1:\n    if x:\n      await sleep(1)", 3,
     "a loop without end around asyncio.sleep()"),
    ("sleep-loop", "import time\nfrom itertools import count\nfor n in count(1): time.sleep(3)", 3,
     "a loop without end around time.sleep()"),
    ("own-threads", "from concurrent.futures import ThreadPoolExecutor as T\nT()", 2,
     "concurrent.futures.ThreadPoolExecutor()"),
    ("own-threads", "loop.run_in_executor(None, f)", 1, "run_in_executor()"),
    ("table-like", "PIDS = {}\n", 1, "the global PIDS"),
    ("table-like", "agents: dict[str, int] = {}\n", 1, "the global agents"),
    ("table-like", "worker_pids = [1]\ndef f(): worker_pids.append(2)", 1, "the global worker_pids"),
    ("table-like", "registry = {1: 2}\ndef f(): registry[3] = 4", 1, "the global registry"),
    ("command-like", "import sh\nsh.git.log()", 2, "sh.git.log()"),
    ("command-like", "loop.subprocess_exec(f, 'ls')", 1, "subprocess_exec()"),
    # ambiguous: what it is depends on what has run before
    ("own-command", "from subprocess import run\nif x: run = print\nrun('ls')", 3, "subprocess.run()"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "source", "line", "what"), HINTS)
def test_what_may_be_right_is_a_hint(rule: str, source: str, line: int, what: str) -> None:
    assert found(source) == [(line, rule, "hint", what)]


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
        "import threading, os\nthreading.Lock(); os.path.join('a'); os.executable",
        # names that are bound to something else where they are used
        "from subprocess import run\ndef f(run): run()",
        "import subprocess\ndef f(subprocess): subprocess.run()",
        "from os import system\ndef f():\n  system = print\n  system()",
        "from os import fork\n[fork() for fork in x]",
        "def f():\n  from os import fork\ndef g(): fork()",
        "class A:\n  from os import fork\n  def f(self): fork()",
        "from . import subprocess\nsubprocess.run()",
        "from .subprocess import run\nrun()",
        "import os\nos = Fake()\nos.system = print",
        "from os import fork\nclass fork: ...",
        "from os import fork\nwith x as fork: ...",
        "from os import fork\ntry: ...\nexcept E as fork: ...",
        "from os import fork\nmatch x:\n  case [fork, *rest]: fork",
        "from os import fork\ndef f():\n  def g():\n    nonlocal fork\n    fork()\n  fork = print",
        # attributes of objects, computed names, references that nobody calls
        "self.subprocess.run()",
        "import subprocess\ngetattr(subprocess, 'run')()",
        "import subprocess\nisinstance(x, subprocess.Popen)\nf: subprocess.Popen = x",
        "import subprocess\nmock.patch.object(subprocess, 'run')",
        "import threading\nthreading.Thread(target=work)",
        "import multiprocessing\nmultiprocessing.cpu_count(); multiprocessing.current_process()",
        "import multiprocessing.connection\nmultiprocessing.connection.wait([])",
        # globals that hold no processes
        "import subprocess\nCACHE = {}\ndef f(): CACHE['x'] = subprocess.list2cmdline([])",
        "import os\ndef f():\n  ids = set()\n  ids.add(os.getpid())",
        "CACHE = {}\ndef f(p): CACHE['x'] = p.pid",
    ],
)
def test_honest_code_has_no_findings(source: str) -> None:
    assert found(source) == []


def test_an_ambiguous_name_can_be_no_error_however_often_it_is_bound() -> None:
    lines = "\n".join(f"s = s.replace({n})" for n in range(300))
    assert found(f"import os\ns = os.system\n{lines}\ns('ls')") == []


def test_a_module_beside_the_script_is_not_the_one_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "schedule.py").write_text("def every(n): ...\n")
    (tmp_path / "a.py").write_text("import schedule\nschedule.every(3)\nfrom schedule import every\nevery(3)\n")
    assert check_script(str(tmp_path / "a.py")) == []


def test_a_finding_says_where_which_rule_why_and_what_to_write_instead() -> None:
    (finding,) = look("import os\né = 1; x = os.system('ls')\n")
    assert str(finding) == (
        "a.py:2:12: error own-command: os.system(): a system command run by an agent (fault 6): a timeout leaves it "
        "running, its output is unbounded, and it has all rights of the agent; instead: await self.exec([...]), in the "
        "sandbox; one that lives long is declared under [programs.NAME]"
    )
    assert finding.to_dict() == {
        "file": "a.py", "line": 2, "column": 12, "rule": "own-command", "level": "error", "fault": 6,
        "title": "a system command run by an agent", "what": "os.system()", "why": faults.OWN_COMMAND.why,
        "instead": faults.OWN_COMMAND.instead,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [("def f(:\n", 1, "invalid syntax"), ("x = 1\n\0", 1, "source code string cannot contain null bytes")],
)
def test_what_can_not_be_read_is_an_error(source: str, line: int, what: str) -> None:
    assert found(source) == [(line, "unreadable", "error", what)]


def test_a_script_that_is_gone_is_a_finding(tmp_path: Path) -> None:
    assert [finding.what for finding in check_script(str(tmp_path / "gone.py"))] == ["No such file or directory"]


# --- what a script allows itself ---


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.fork()  # otpd: allow own-process a test of forks",
        "import os\n# otpd: allow own-process a test of forks\nos.fork()",
        "import os\n# otpd: allow own-process a test of forks\n# and of nothing else\nos.fork()",
        "import os\nos.system(\n  'ls',\n)  # otpd: allow own-command it is a test",
        "import os\nos.fork(), os.system('ls')  #otpd:allow own-process,own-command both are tests",
        "import time\nwhile True:  # otpd: allow sleep-loop a test\n  time.sleep(1)",
    ],
)
def test_what_is_allowed_with_a_reason_is_left_alone(source: str) -> None:
    assert look(source) == []
    assert {each.allowed for each in check_source(source, "a.py")} <= {
        "a test of forks", "it is a test", "both are tests", "a test",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os\nos.fork()  # otpd: allow own-process", (2, 12, "expected a reason for own-process, got none")),
        ("import os\nos.fork()  # otpd: allow", (2, 12, "expected a rule, got none")),
        ("import os\n# otpd: allow forking here\nos.fork()", (2, 1, "expected one of own-process, own-watch, ")),
        ("x = 1  # otpd: allow bad-allow because", (1, 8, "expected one of own-process, own-watch, ")),
    ],
)
def test_an_allowance_without_a_rule_or_reason_is_an_error_of_its_own(source: str, expected: tuple[int, int, str]) -> None:
    line, column, what = expected
    (wrong,) = [each for each in look(source) if each.rule is faults.BAD_ALLOW]
    assert (wrong.line, wrong.column, wrong.level) == (line, column, "error")
    assert wrong.what.startswith(what)


def test_an_allowance_is_for_its_rule_and_its_lines_only_and_one_too_many_is_a_hint() -> None:
    assert found("import os\nos.fork()  # otpd: allow own-command it is no command") == [
        (2, "own-process", "error", "os.fork()"),
        (2, "unused-allow", "hint", "there is no own-command here"),
    ]
    assert [line for line, *_ in found("import os\n# otpd: allow own-process one\nos.fork()\nos.fork()")] == [4]


def test_a_string_is_no_comment() -> None:
    assert [rule for _, rule, *_ in found("import os\nos.system('# otpd: allow own-command not me')")] == ["own-command"]


# --- which files, and the rules ---


def test_each_script_of_a_node_is_checked_once_in_start_order_and_a_program_gets_hints(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os, time\nos.fork()\nwhile True: time.sleep(1)\n")
    (tmp_path / "b.py").write_text("import os\nos.fork()\n")
    (tmp_path / "otpd.toml").write_text(
        '[supervisors.s]\n[agents.x]\nscript = "b.py"\nsupervisor = "s"\ninstances = 3\n'
        '[programs.y]\nscript = "a.py"\n[programs.z]\nscript = "b.py"\n'
    )
    findings = check_node(load(tmp_path / "otpd.toml"))
    told = [(Path(each.file).name, each.line, each.level) for each in findings]
    assert told == [("b.py", 2, "error"), ("a.py", 2, "hint")]


def test_what_a_script_imports_from_beside_it_is_checked_too(tmp_path: Path) -> None:
    files = {
        "a.py": "import json, lib.deep as d, twin\nfrom lib import part\n",
        "twin.py": "import a, os\nos.fork()\n",
        "lib/__init__.py": "",
        "lib/deep.py": "from . import sibling\nfrom .. import nobody\n",
        "lib/sibling.py": "import os\nos.system('ls')\n",
        "lib/part.py": "from .deep import x\nimport os\nos.fork()\n",
        "lib/unused.py": "import os\nos.fork()\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "otpd.toml").write_text('[agents.a]\nscript = "a.py"\n')
    findings = check_node(load(tmp_path / "otpd.toml"))
    told = sorted(str(Path(each.file).relative_to(tmp_path)) for each in findings)
    assert told == ["lib/part.py", "lib/sibling.py", "twin.py"]


def test_every_fault_has_a_certain_rule_that_a_test_shows_and_a_section_in_the_reference() -> None:
    assert {rule.fault for rule in RULES.values() if rule.certain and rule.fault} == set(TITLES) == {1, 2, 3, 4, 5, 6}
    shown = {rule for rule, *_ in CERTAIN} | {rule for rule, *_ in HINTS} | {"process-table"}
    assert shown == {rule.id for rule in RULES.values() if rule.fault}
    reference = (DOCS / "check.md").read_text()
    for rule in RULES.values():
        assert f"\n### {rule.id}\n" in reference
        assert rule.instead in " ".join(reference.split()), rule.id


TEN = ("click", "psutil", "msgpack", "_pytest", "pluggy", "xdist", "execnet", "packaging", "iniconfig", "zmq")


def test_certain_rules_raise_no_false_alarm_in_ten_well_known_packages() -> None:
    verdict = falsealarms.judge(falsealarms.installed(TEN))
    assert (verdict.false, verdict.files > 200, len(verdict.proved) > 10) == ([], True, True), verdict


def test_certain_rules_raise_no_false_alarm_in_the_standard_library() -> None:
    verdict = falsealarms.judge(falsealarms.standard_library())
    assert (verdict.false, len(verdict.proved) > 20) == ([], True), verdict


def test_the_judge_of_false_alarms_knows_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done to globals() is not followed."""
    source = "from subprocess import *\nglobals().update(run=print)\nif 0: run('ls')\n"
    (tmp_path / "planted.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    verdict = falsealarms.judge([("planted", tmp_path / "planted.py")])
    assert [(each.line, each.name) for each in verdict.false] == [(3, "subprocess.run")]


def test_the_examples_have_no_findings() -> None:
    for config in sorted((DOCS.parent / "examples").glob("*/otpd.toml")):
        assert [str(each) for each in check_node(load(config)) if each.allowed is None] == [], config
