"""What a node is made of: child specs and supervisor flags (OTP's terms) and how a worker is launched.

Values only, frozen, without defaults that depend on anything outside. `config` reads them from otpd.toml, `tree`
decides with them, `root` executes them. The tree reads `ChildSpec` and `SupervisorSpec`, never a `Launch`.

Units: seconds (float) for times, bytes (int) for sizes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias


class Restart(enum.StrEnum):
    """When a child that ended is started again (rules 23-25)."""

    PERMANENT = "permanent"
    TRANSIENT = "transient"
    TEMPORARY = "temporary"


class Strategy(enum.StrEnum):
    """Whom the end of one child touches (rules 31-33)."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class AutoShutdown(enum.StrEnum):
    """When a supervisor ends because significant children ended (rules 69-71)."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class ChildType(enum.StrEnum):
    WORKER = "worker"
    SUPERVISOR = "supervisor"


class Dynamic(enum.StrEnum):
    """The two engines of dynamic supervisors: children are added at run time and stop all at once.

    SIMPLE copies one template (simple_one_for_one); DYNAMIC takes a spec with each child (Elixir's DynamicSupervisor).
    """

    SIMPLE = "simple_one_for_one"
    DYNAMIC = "elixir"


BRUTAL_KILL: Final = "brutal_kill"
INFINITY: Final = "infinity"
#: Seconds between the request to stop and the kill, or one of the two words.
Shutdown: TypeAlias = float | Literal["brutal_kill", "infinity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Delay before a restart. The first after a stable run is at once, then initial, initial*factor, ... up to max."""

    initial: float = 0.1
    factor: float = 2.0
    max: float = 30.0
    jitter: float = 0.2  # a delay is spread over delay * (1 +- jitter)
    reset_after: float = 60.0  # ready for so long: the run was stable


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpReady:
    port: int
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecReady:
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReady:
    url: str


#: "init": an agent's init() has returned; "spawned": it runs; "notify": sd_notify READY=1; else a probe that succeeds.
Ready: TypeAlias = Literal["init", "spawned", "notify"] | TcpReady | ExecReady | HttpReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """rlimits of a worker; None leaves what root has."""

    memory: int | None = None  # RLIMIT_AS, bytes
    files: int | None = None  # RLIMIT_NOFILE
    files_soft: int | None = None  # its soft limit alone, where `files` is None: root raises its own, workers don't get it
    cpu: int | None = None  # RLIMIT_CPU, seconds
    processes: int | None = None  # RLIMIT_NPROC
    core: int | None = None  # RLIMIT_CORE, bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """What the broker keeps for an agent that takes nothing just now, and what it does when that is full."""

    messages: int = 100
    bytes: int = 1024 * 1024
    policy: Literal["reject", "drop_oldest", "drop_newest"] = "reject"


#: What becomes of an agent's own processes: nothing is said, they are reported, they are refused.
SpawnPolicy: TypeAlias = Literal["allow", "warn", "deny"]
#: From the laxest to the strictest.
SPAWN_POLICIES: Final[tuple[SpawnPolicy, ...]] = ("allow", "warn", "deny")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a worker is asked whether it is well, and what follows when it is not. Times in seconds."""

    check: TcpReady | ExecReady | HttpReady | Literal["call"]  # "call": an agent, through the broker
    interval: float = 10.0
    timeout: float = 2.0
    failures: int = 3  # in a row: unhealthy
    successes: int = 2  # in a row, after that: healthy again
    grace: float = 30.0  # failures in so long after it is ready, and before its first success, don't count
    action: Literal["report", "restart"] = "report"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartWhen:
    """What a worker's whole process tree may use; more, and it is restarted under the normal budget."""

    memory: int | None = None  # bytes
    cpu: float | None = None  # percent of one core, on average over `cpu_over` seconds
    cpu_over: float = 60.0
    files: int | None = None  # open descriptors
    threads: int | None = None
    age: float | None = None  # seconds since it was ready


Kind: TypeAlias = Literal["agent", "program", "service", "pool"]
#: Kinds that have a channel to root as long as they live, and an address.
SPEAKING: Final = ("agent", "service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How one worker is started. Exactly one of `script` (absolute path, runs in the zygote's Python) and `command`."""

    kind: Kind
    script: str | None = None
    command: tuple[str, ...] | None = None
    args: dict[str, Any] = field(default_factory=dict)  # keyword arguments of an agent's init()
    argv: tuple[str, ...] = ()  # sys.argv[1:] of a script
    ready: Ready = "spawned"
    start_timeout: float = 10.0
    stop_signal: int = 15
    env: dict[str, str] = field(default_factory=dict)  # on top of root's own environment; env_file is already in it
    cwd: str = "/"
    user: str | None = None
    umask: int | None = None
    limits: Limits = field(default_factory=Limits)
    watchdog: float | None = None  # silent for so long: stacks are dumped, then it is killed
    health: Health | None = None
    restart_when: RestartWhen | None = None
    group: str | None = None  # instances = n: the name they share
    inbox: Inbox = field(default_factory=Inbox)
    spawn: SpawnPolicy = "allow"  # an agent has "warn" unless its table says something else
    commands: tuple[str, ...] | None = None  # patterns of what an agent may have run for it; None: anything
    detach: bool = False  # helpers that it leaves behind are left alone and reported


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSpec:
    """Flags and children of a supervisor. `max_restarts` None: no limit."""

    strategy: Strategy = Strategy.ONE_FOR_ONE
    max_restarts: int | None = 3
    max_seconds: int = 5
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    children: tuple[ChildSpec, ...] = ()
    dynamic: Dynamic | None = None
    template: ChildSpec | None = None  # Dynamic.SIMPLE only
    max_children: int | None = None  # Dynamic.DYNAMIC only
    #: The top-level supervisor isolates first: a child that fails to start does not fail the supervisor but is
    #: retried with its back-off, like a failed restart.
    isolate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What a supervisor knows about a child. `start` is a SupervisorSpec or, opaque to the tree, a worker's Launch."""

    id: str
    start: SupervisorSpec | Launch | object
    restart: Restart = Restart.PERMANENT
    shutdown: Shutdown = 5.0  # the default of a supervisor is INFINITY; whoever builds the spec fills it in
    type: ChildType = ChildType.WORKER
    significant: bool = False
    backoff: Backoff | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    max_bytes: int = 16 * 1024 * 1024  # one file; then it is rotated
    keep: int = 5  # rotated files kept per child
    full: Literal["drop", "block"] = "drop"  # what happens to output when the disk is full


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """One node, completely resolved: no defaults, no relative paths, nothing left to look up."""

    name: str
    state_dir: str  # absolute
    config: str  # absolute path of the file that it came from, for people
    top: SupervisorSpec
    log: LogPolicy = field(default_factory=LogPolicy)
    commands: dict[str, Any] | None = None  # the table [commands] as it was written; None: there is none
    services: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> options of [services.NAME] that are given
    pools: dict[str, Any] = field(default_factory=dict)  # [pools.NAME]: name -> its options
