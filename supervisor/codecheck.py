"""Finds in worker scripts what otpd exists to end: the six faults of hand-made supervision. For `otpd check`.

Scripts are parsed, never imported or run. A finding is a warning: it says what stands where, which fault it is and what
to use instead. A line that ends with `# otpd: allow` is left alone.
"""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from otpd.supervisor.spec import ChildSpec, Launch, NodeSpec, SupervisorSpec


class Fault(enum.IntEnum):
    """The six faults; 0 is a script that can't be read."""

    UNREADABLE = 0
    MONITOR = 1
    MESSAGE = 2
    SCHEDULE = 3
    PARALLEL = 4
    TABLE = 5
    COMMAND = 6


TITLES: Final[Mapping[Fault, str]] = {
    Fault.UNREADABLE: "a script that can't be read",
    Fault.MONITOR: "an unsupervised process",
    Fault.MESSAGE: "a raw message without a relation",
    Fault.SCHEDULE: "an agent that schedules itself",
    Fault.PARALLEL: "an unsupervised parallel map",
    Fault.TABLE: "a process table in a global variable",
    Fault.COMMAND: "a system command run by an agent",
}
INSTEAD: Final[Mapping[Fault, str]] = {
    Fault.UNREADABLE: "make it a Python script that compiles",
    Fault.MONITOR: "declare the process in otpd.toml and watch it with self.monitor(name)",
    Fault.MESSAGE: "use self.call(name, method) or self.cast(name, method), which know whom they reach",
    Fault.SCHEDULE: "use @every, @cron or self.schedule(): timers that die with their owner",
    Fault.PARALLEL: "use self.stream(fn, items) or self.task(fn), which have limits and an owner",
    Fault.TABLE: "ask self.whereis(name); a name outlives the pid of its process",
    Fault.COMMAND: "use self.exec([...]), or declare a long-lived one under [programs.NAME]",
}

#: Dotted names, or their beginnings when they end with a dot.
_CALLS: Final[Mapping[str, Fault]] = {
    "os.fork": Fault.MONITOR, "os.forkpty": Fault.MONITOR, "pty.fork": Fault.MONITOR, "os.waitpid": Fault.MONITOR,
    "os.wait": Fault.MONITOR, "os.wait3": Fault.MONITOR, "os.wait4": Fault.MONITOR, "os.waitid": Fault.MONITOR,
    "multiprocessing.Process": Fault.MONITOR, "multiprocessing.context.": Fault.MONITOR,
    "daemon.DaemonContext": Fault.MONITOR,
    "psutil.pid_exists": Fault.MONITOR, "psutil.process_iter": Fault.MONITOR, "psutil.pids": Fault.MONITOR,
    "psutil.wait_procs": Fault.MONITOR, "psutil.Process": Fault.MONITOR,
    "os.kill": Fault.MESSAGE, "os.killpg": Fault.MESSAGE, "os.mkfifo": Fault.MESSAGE, "zmq.": Fault.MESSAGE,
    "multiprocessing.Queue": Fault.MESSAGE, "multiprocessing.SimpleQueue": Fault.MESSAGE,
    "multiprocessing.JoinableQueue": Fault.MESSAGE, "multiprocessing.Pipe": Fault.MESSAGE,
    "multiprocessing.Manager": Fault.MESSAGE, "multiprocessing.connection.": Fault.MESSAGE,
    "multiprocessing.managers.": Fault.MESSAGE, "multiprocessing.shared_memory.": Fault.MESSAGE,
    "posix_ipc.": Fault.MESSAGE, "sysv_ipc.": Fault.MESSAGE,
    "threading.Timer": Fault.SCHEDULE, "sched.scheduler": Fault.SCHEDULE, "signal.alarm": Fault.SCHEDULE,
    "signal.setitimer": Fault.SCHEDULE, "schedule.": Fault.SCHEDULE, "apscheduler.": Fault.SCHEDULE,
    "multiprocessing.Pool": Fault.PARALLEL, "multiprocessing.pool.": Fault.PARALLEL, "joblib.Parallel": Fault.PARALLEL,
    "concurrent.futures.ProcessPoolExecutor": Fault.PARALLEL, "concurrent.futures.ThreadPoolExecutor": Fault.PARALLEL,
    "concurrent.futures.process.": Fault.PARALLEL, "concurrent.futures.thread.": Fault.PARALLEL,
    "subprocess.": Fault.COMMAND, "os.system": Fault.COMMAND, "os.popen": Fault.COMMAND, "os.exec": Fault.COMMAND,
    "os.spawn": Fault.COMMAND, "os.posix_spawn": Fault.COMMAND, "os.startfile": Fault.COMMAND,
    "pty.spawn": Fault.COMMAND, "pexpect.": Fault.COMMAND, "sh.": Fault.COMMAND, "psutil.Popen": Fault.COMMAND,
    "asyncio.create_subprocess_exec": Fault.COMMAND, "asyncio.create_subprocess_shell": Fault.COMMAND,
    "asyncio.subprocess.": Fault.COMMAND,
}  # fmt: skip
#: `os.exec` stands for execv, execvp, ...; these families have no dot to end with.
_FAMILIES: Final = ("os.exec", "os.spawn", "os.posix_spawn")
_HARMLESS: Final = ("subprocess.list2cmdline", "subprocess.CalledProcessError", "subprocess.TimeoutExpired")
#: Methods that schedule, on whatever event loop.
_METHODS: Final[Mapping[str, Fault]] = {
    "call_later": Fault.SCHEDULE, "call_at": Fault.SCHEDULE, "run_in_executor": Fault.PARALLEL,
    "subprocess_exec": Fault.COMMAND, "subprocess_shell": Fault.COMMAND,
}  # fmt: skip
_SLEEPS: Final = frozenset({"time.sleep", "asyncio.sleep", "anyio.sleep", "trio.sleep"})
_TABLE_NAME: Final = re.compile(
    r"(^|_)(pids?|procs?|process(es)?|workers?|agents?|children|registry)($|_)", re.IGNORECASE
)
_CONTAINERS: Final = frozenset({"dict", "list", "set", "defaultdict", "OrderedDict", "WeakValueDictionary", "deque"})
_MUTATORS: Final = frozenset(
    {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "update"}
)
_Sighting: TypeAlias = tuple[ast.stmt | ast.expr, Fault, str]
_ALLOW: Final = re.compile(r"#\s*otpd:\s*allow\b")


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One warning about a script."""

    file: str
    line: int
    column: int
    fault: Fault
    what: str

    @property
    def instead(self) -> str:
        return INSTEAD[self.fault]

    def __str__(self) -> str:
        title = f"{TITLES[self.fault]} (fault {self.fault:d})" if self.fault else TITLES[self.fault]
        return f"{self.file}:{self.line}:{self.column}: warning: {self.what}: {title}; {self.instead}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": self.file, "line": self.line, "column": self.column, "fault": int(self.fault),
            "title": TITLES[self.fault], "what": self.what, "instead": self.instead,
        }  # fmt: skip


def check_node(node: NodeSpec) -> list[Finding]:
    """The findings in all scripts of the node, each script once, in start order."""
    return [finding for script in dict.fromkeys(_scripts(node.top)) for finding in check_script(script)]


def check_script(path: str) -> list[Finding]:
    """The findings in one script, in the order of its lines."""
    try:
        with open(path, "rb") as file:
            return check_source(file.read(), path)
    except OSError as error:
        return [Finding(path, 1, 1, Fault.UNREADABLE, str(error.strerror))]


def check_source(source: bytes | str, file: str) -> list[Finding]:
    """The findings in a script's text."""
    try:
        module = ast.parse(source)
    except SyntaxError as error:
        return [Finding(file, error.lineno or 1, error.offset or 1, Fault.UNREADABLE, error.msg)]
    except (ValueError, RecursionError, MemoryError) as error:
        return [Finding(file, 1, 1, Fault.UNREADABLE, str(error) or type(error).__name__)]
    text = source.decode("utf-8", "replace") if isinstance(source, bytes) else source
    lines = text.split("\n")
    origins = _origins(module)
    sightings: list[_Sighting] = [*_calls(module, origins), *_loops(module, origins), *_tables(module)]
    found = {
        Finding(file, node.lineno, node.col_offset + 1, fault, what)
        for node, fault, what in sightings
        if not _ALLOW.search(lines[node.lineno - 1] if node.lineno <= len(lines) else "")
    }
    return sorted(found)


def _scripts(supervisor: SupervisorSpec) -> Iterator[str]:
    for child in supervisor.children:
        yield from _scripts_of(child)


def _scripts_of(child: ChildSpec) -> Iterator[str]:
    match child.start:
        case SupervisorSpec():
            yield from _scripts(child.start)
        case Launch(script=str(script)):
            yield script


def _origins(module: ast.Module) -> dict[str, str]:
    """What the imported names of a script stand for: {"run": "subprocess.run", "sp": "subprocess"}."""
    found = {}
    for node in ast.walk(module):
        match node:
            case ast.Import(names=names):
                for item in names:
                    name = item.asname or item.name.partition(".")[0]
                    found[name] = item.name if item.asname else name
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                for item in names:
                    found[item.asname or item.name] = f"{origin}.{item.name}"
    return found


def _dotted(node: ast.expr, origins: Mapping[str, str]) -> str:
    """The full name of what is called, "" when it does not come from an import."""
    match node:
        case ast.Name(id=name):
            return origins.get(name, "")
        case ast.Attribute(value=value, attr=attr):
            owner = _dotted(value, origins)
            return f"{owner}.{attr}" if owner else ""
        case _:
            return ""


def _calls(module: ast.Module, origins: Mapping[str, str]) -> Iterator[_Sighting]:
    for node in ast.walk(module):
        if not isinstance(node, ast.Call):
            continue
        name = _dotted(node.func, origins)
        fault = _fault(name)
        if fault is not None and not _on_itself(name, node, origins):
            yield node, fault, f"{name}()"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and not name:
            yield node, _METHODS[node.func.attr], f"{node.func.attr}()"


def _fault(name: str) -> Fault | None:
    if not name or name in _HARMLESS:
        return None
    if name in _CALLS:
        return _CALLS[name]
    for start, fault in _CALLS.items():
        if (start.endswith(".") or start in _FAMILIES) and name.startswith(start):
            return fault
    return None


def _on_itself(name: str, call: ast.Call, origins: Mapping[str, str]) -> bool:
    """psutil.Process() and os.kill(os.getpid(), ...) concern nobody else."""
    match name, call.args:
        case "psutil.Process", []:
            return True
        case "psutil.Process" | "os.kill", [ast.Call(func=function), *_]:
            return _dotted(function, origins) == "os.getpid"
        case _:
            return False


def _loops(module: ast.Module, origins: Mapping[str, str]) -> Iterator[_Sighting]:
    """`while True` with a sleep in it: a timer that nobody owns."""
    for node in ast.walk(module):
        if isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value:
            sleeps = {_dotted(call.func, origins) for call in _within(node) if isinstance(call, ast.Call)} & _SLEEPS
            for name in sorted(sleeps)[:1]:
                yield node, Fault.SCHEDULE, f"a loop without end around {name}()"


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """What runs in a loop: not the functions defined in it, nor its inner endless loops."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.While):
            continue
        yield child
        yield from _within(child)


def _tables(module: ast.Module) -> Iterator[_Sighting]:
    """Containers at module level that are named after processes and filled at run time."""
    changed = set(_changed_names(module))
    for node in module.body:
        for name, value in _assigned(node):
            if _TABLE_NAME.search(name) and _is_container(value) and (name in changed or _is_empty(value)):
                yield node, Fault.TABLE, f"the global {name}"


def _assigned(node: ast.stmt) -> Iterable[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            return [(target.id, value) for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            return [(name, value)]
        case _:
            return []


def _is_container(value: ast.expr) -> bool:
    match value:
        case ast.Dict() | ast.List() | ast.Set() | ast.DictComp() | ast.ListComp() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name in _CONTAINERS
        case _:
            return False


def _is_empty(value: ast.expr) -> bool:
    match value:
        case ast.Dict(keys=items) | ast.List(elts=items):
            return not items
        case ast.Call():
            return True
        case _:
            return False


def _changed_names(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        match node:
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                yield name
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in _MUTATORS:
                yield name
            case ast.Global(names=names):
                yield from names
