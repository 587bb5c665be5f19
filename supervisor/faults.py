"""The rules of `otpd check`: what each looks for, which of the six faults it is, why, and what to write instead.

A rule is *certain* when what it names can mean nothing else: a finding of it is an error. The others are hints: they go by
a name, a habit, or something that has other uses. docs/check.md is the reference, one section for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

#: The six faults that otpd exists to end.
TITLES: Final[Mapping[int, str]] = {
    1: "an unsupervised process",
    2: "a raw message without a relation",
    3: "an agent that schedules itself",
    4: "an unsupervised parallel map",
    5: "a process table in a global variable",
    6: "a system command run by an agent",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """`fault` 0: none of the six, but something that keeps the check from its work."""

    id: str
    fault: int
    certain: bool
    what: str
    why: str
    instead: str

    @property
    def title(self) -> str:
        return TITLES.get(self.fault, self.what)


OWN_PROCESS: Final = Rule(
    "own-process", 1, True, "a process that the agent starts itself",
    "nobody restarts it, limits it or ends it: it outlives the agent, or dies unseen",
    "declare it in otpd.toml, start it with self.start_child({...}), or run the function with self.task(fn, ...)",
)  # fmt: skip
OWN_WATCH: Final = Rule(
    "own-watch", 1, False, "watching over processes by hand",
    "a pid is soon somebody else's, and who polls learns of a death too late",
    "self.monitor(name) tells of the end at once; what runs on the machine is the health service's: otpd top",
)  # fmt: skip
RAW_MESSAGE: Final = Rule(
    "raw-message", 2, True, "a channel or memory that is shared between processes",
    "who waits at it learns nothing of the other's death, and nothing bounds it or counts what is lost",
    "self.call(name, method), self.cast(name, method) or self.publish(topic): they have deadlines, bounds and monitors",
)  # fmt: skip
RAW_WIRE: Final = Rule(
    "raw-wire", 2, False, "a signal, a pipe or a socket of the agent's own",
    "between agents it is a message without an address that survives a restart; to others it may be right",
    "self.call, self.cast, self.publish between agents; otpd signal, otpd restart for operators",
)  # fmt: skip
OWN_TIMER: Final = Rule(
    "own-timer", 3, True, "a timer or scheduler inside the agent",
    "it runs beside the mailbox, is lost with the process, and nobody sees it or can stop it",
    "@every, @cron or self.schedule(after=..., method=...): they come as messages and end with their owner",
)  # fmt: skip
SLEEP_LOOP: Final = Rule(
    "sleep-loop", 3, False, "a loop that sleeps, or a callback of the event loop's timers",
    "a timer that nobody owns: it drifts, overlaps, and hides from otpd schedule",
    "@every(...) or self.schedule(after=..., method=...)",
)  # fmt: skip
OWN_POOL: Final = Rule(
    "own-pool", 4, True, "a pool of processes of the agent's own",
    "a worker that dies breaks the pool or hangs the map, a timeout kills nobody, and each agent has its own number of them",
    "self.stream(fn, items, max_concurrency=...) or self.task(fn, ...): limits, backpressure, real kills; in code that "
    "expects an executor: otpd.agents.PoolExecutor",
)  # fmt: skip
OWN_THREADS: Final = Rule(
    "own-threads", 4, False, "a pool of threads of the agent's own",
    "a thread can't be killed, so a job that hangs stays for ever; for short blocking calls it may be right",
    "self.task(fn, ...) for what may hang; a plain `def` handler runs in a thread already",
)  # fmt: skip
PROCESS_TABLE: Final = Rule(
    "process-table", 5, True, "a global variable that is filled with processes",
    "it is lost with its process and true for none of the others; its pids are soon somebody else's",
    "self.whereis(name), self.members(group), or self.register(key) and self.lookup(key): the registry forgets the dead",
)  # fmt: skip
TABLE_LIKE: Final = Rule(
    "table-like", 5, False, "a global variable that is named as if it held processes or agents",
    "a table of others that lives in one process is wrong as soon as one of them restarts",
    "self.whereis(name), self.members(group), or self.register(key) and self.lookup(key)",
)  # fmt: skip
OWN_COMMAND: Final = Rule(
    "own-command", 6, True, "a command that the agent runs itself",
    "a timeout leaves it running, its output is unbounded, and it has all rights of the agent",
    "await self.exec([...]), in the sandbox; one that lives long is declared under [programs.NAME]",
)  # fmt: skip
COMMAND_LIKE: Final = Rule(
    "command-like", 6, False, "what looks like a command that the agent runs itself",
    "a timeout leaves it running, its output is unbounded, and it has all rights of the agent",
    "await self.exec([...]), in the sandbox; one that lives long is declared under [programs.NAME]",
)  # fmt: skip
UNREADABLE: Final = Rule(
    "unreadable", 0, True, "a script that can't be read",
    "what can't be compiled can't run, and can't be checked",
    "make it a Python script that compiles",
)  # fmt: skip
BAD_ALLOW: Final = Rule(
    "bad-allow", 0, True, "a comment that allows something without saying what or why",
    "whoever reads it next must know what was weighed",
    "`# otpd: allow RULE reason`, with a rule of docs/check.md, at the line of the finding or alone above it",
)  # fmt: skip
UNUSED_ALLOW: Final = Rule(
    "unused-allow", 0, False, "a comment that allows what is not there",
    "it would hide the next one",
    "remove it",
)  # fmt: skip

RULES: Final[Mapping[str, Rule]] = {
    rule.id: rule
    for rule in (
        OWN_PROCESS, OWN_WATCH, RAW_MESSAGE, RAW_WIRE, OWN_TIMER, SLEEP_LOOP, OWN_POOL, OWN_THREADS, PROCESS_TABLE,
        TABLE_LIKE, OWN_COMMAND, COMMAND_LIKE, UNREADABLE, BAD_ALLOW, UNUSED_ALLOW,
    )
}  # fmt: skip

#: Module, then what of it a rule is about. "*": whatever is called of it.
_CALLS: Final[Mapping[Rule, str]] = {
    OWN_PROCESS: """
        os: fork forkpty | pty: fork | daemon: DaemonContext
        multiprocessing, multiprocessing.context, multiprocessing.process, billiard: Process BaseProcess
        multiprocessing.context: ForkProcess SpawnProcess ForkServerProcess
    """,
    OWN_WATCH: """
        os: wait wait3 wait4 waitid waitpid pidfd_open
        psutil: pid_exists process_iter pids wait_procs Process
    """,
    RAW_MESSAGE: """
        multiprocessing, billiard: Queue SimpleQueue JoinableQueue Pipe Manager Value Array RawValue RawArray
        multiprocessing.queues: Queue SimpleQueue JoinableQueue
        multiprocessing.connection: Client Listener Pipe
        multiprocessing.managers: BaseManager SyncManager SharedMemoryManager
        multiprocessing.shared_memory: SharedMemory ShareableList
        multiprocessing.sharedctypes: Value Array RawValue RawArray
        posix_ipc: MessageQueue SharedMemory Semaphore | sysv_ipc: MessageQueue SharedMemory Semaphore
    """,
    RAW_WIRE: """
        os: kill killpg mkfifo | signal: pidfd_send_signal | socket: socketpair
        zmq, zmq.asyncio: Context Socket | zmq.eventloop: *
    """,
    OWN_TIMER: """
        threading: Timer | sched: scheduler | schedule: every run_pending run_all Scheduler
        apscheduler.schedulers.asyncio: AsyncIOScheduler | apscheduler.schedulers.background: BackgroundScheduler
        apscheduler.schedulers.blocking: BlockingScheduler | apscheduler.schedulers.tornado: TornadoScheduler
        apscheduler: Scheduler AsyncScheduler
    """,
    SLEEP_LOOP: "signal: alarm setitimer",
    OWN_POOL: """
        multiprocessing, multiprocessing.pool, billiard: Pool
        concurrent.futures, concurrent.futures.process: ProcessPoolExecutor
        joblib: Parallel | loky: get_reusable_executor ProcessPoolExecutor | pebble: ProcessPool
    """,
    OWN_THREADS: """
        concurrent.futures, concurrent.futures.thread: ThreadPoolExecutor
        multiprocessing.pool: ThreadPool | multiprocessing.dummy: Pool | pebble: ThreadPool
    """,
    OWN_COMMAND: """
        subprocess: run call check_call check_output Popen getoutput getstatusoutput
        os: system popen posix_spawn posix_spawnp startfile
        os: execl execle execlp execlpe execv execve execvp execvpe
        os: spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe
        asyncio, asyncio.subprocess: create_subprocess_exec create_subprocess_shell
        pty: spawn | psutil: Popen | pexpect: spawn run | distutils.spawn: spawn
        trio: run_process | anyio: run_process open_process
    """,
    COMMAND_LIKE: "sh, plumbum.cmd: * | invoke: run | fabric: Connection",
}
#: Methods of whatever object.
METHODS: Final[Mapping[str, Rule]] = {
    "call_later": SLEEP_LOOP, "call_at": SLEEP_LOOP, "run_in_executor": OWN_THREADS, "subprocess_exec": COMMAND_LIKE,
    "subprocess_shell": COMMAND_LIKE,
}  # fmt: skip


def _names() -> Iterator[tuple[str, Rule]]:
    for rule, table in _CALLS.items():
        for entry in table.replace("\n", "|").split("|"):
            modules, _, names = entry.partition(":")
            for module in modules.split(","):
                yield from ((f"{module.strip()}.{name}", rule) for name in names.split())


_BY_NAME: Final[Mapping[str, Rule]] = dict(_names())


def rule_of(name: str) -> Rule | None:
    """The rule that a call of this dotted name is for.

    >>> rule_of("subprocess.run").id, rule_of("sh.git.log").id, rule_of("subprocess.list2cmdline")
    ('own-command', 'command-like', None)
    """
    found = _BY_NAME.get(name)
    if found is None and "." in name:
        parts = name.split(".")
        starts = (f"{'.'.join(parts[:end])}.*" for end in range(1, len(parts)))
        found = next((_BY_NAME[start] for start in starts if start in _BY_NAME), None)
    return found
