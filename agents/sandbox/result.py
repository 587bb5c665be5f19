"""What came of a command: how it ended and what ended it, what it said and used, and what was really in force.

A command that ends by itself with status 124 or 137, or kills itself, is `exited` or `signaled`, never `killed`.
"""

from __future__ import annotations

import base64
import signal
from dataclasses import dataclass, field, fields
from typing import Any

from otpd.agents.sandbox.errors import SandboxError

#: How a run can end. `exited`: with `exit_code`. `signaled`: by `signal`, its own doing. `killed`: see `killed_by`. The
#: others mean that nothing has run.
STATUSES = (
    "exited", "signaled", "killed", "refused", "not_found", "not_executable", "setup_failed", "busy", "cancelled",
)  # fmt: skip
#: What ended a killed run. `files`: it wrote too much; `owner`: who had ordered it is gone; `worker`: its worker died.
KILLERS = ("timeout", "cpu", "memory", "pids", "output", "files", "cancelled", "owner", "worker")

_HINTS = {
    "timeout": "it ran for longer than `limits.wall`; raise it, or give it less to do",
    "cpu": "it used more processor time than `limits.cpu`; raise it, or give it less to do",
    "memory": "it used more than `limits.memory`; raise it, or process the data in pieces",
    "output": "it printed more than `limits.output`; raise it, or write to a file",
    "files": "it wrote more than `limits.file_size` or `limits.disk`; raise them, or write less",
    "pids": "it started more than `limits.pids` processes and threads; raise it, or start fewer",
    "worker": "the worker that ran it was killed from outside; run it again",
}


@dataclass(frozen=True, slots=True)
class Result:
    """Times in seconds, sizes in bytes. `limits`: name to value, how strictly it was enforced, and by what."""

    id: str
    status: str
    killed_by: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    queue_s: float = 0.0
    setup_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    max_rss: int = 0
    peak_procs: int = 0
    limits: dict[str, dict[str, Any]] = field(default_factory=dict)
    limit_hits: tuple[str, ...] = ()
    isolation: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    @property
    def ok(self) -> bool:
        return self.status == "exited" and self.exit_code == 0

    @property
    def timed_out(self) -> bool:
        return self.killed_by == "timeout"

    @property
    def text(self) -> str:
        """Standard output; what is not UTF-8 is replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def hint(self) -> str:
        """What to do next; "" when all is well."""
        if self.error is not None:
            return str(self.error["fix"])
        return _HINTS.get(self.killed_by or "", "")

    def check(self) -> Result:
        """This result, if the command exited with status 0; else SandboxError with the end of what it said."""
        if self.ok:
            return self
        said = self.stderr.decode(errors="replace").strip()[-2000:]
        raise SandboxError(f"{self.summary()}{': ' if said else ''}{said}", code=self.status, fix=self.hint)

    def summary(self) -> str:
        """In a few words: `exited 3`, `killed (memory)`, `refused: ...`."""
        if self.error is not None:
            return f"{self.status}: {self.error['text']}"
        match self.status:
            case "exited":
                return f"exited {self.exit_code}"
            case "signaled":
                return f"signaled {_signal_name(self.signal or 0)}"
            case "killed":
                return f"killed ({self.killed_by})"
        return self.status

    def to_dict(self) -> dict[str, Any]:
        """For JSON. What a stream said is text; if it is not UTF-8, its bytes are there, too, in base64."""
        table = {each.name: getattr(self, each.name) for each in fields(self)}
        for stream in ("stdout", "stderr"):
            content = table[stream]
            table[stream] = content.decode(errors="replace")
            if table[stream].encode() != content:
                table[f"{stream}_b64"] = base64.b64encode(content).decode()
        derived = {"ok": self.ok, "timed_out": self.timed_out, "hint": self.hint}
        return {**table, "limit_hits": list(self.limit_hits), **derived}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def failure(run: str, status: str, error: SandboxError, **more: Any) -> Result:
    """A run of which nothing has run."""
    return Result(run, status, error=error.to_dict(), **more)
