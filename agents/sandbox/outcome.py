"""From what an init reports to how a run is told: exited, signaled, killed and by what, or why nothing has run. Pure."""

from __future__ import annotations

import errno
import math
import os
import signal
from dataclasses import dataclass
from typing import Any, Final

from otpd.agents.sandbox.course import Course
from otpd.agents.sandbox.errors import CommandRefused, SandboxError, SetupFailed
from otpd.agents.sandbox.records import Report, Step, Word

_FIXES: Final = {
    Step.DIRECTORY: "name a `cwd` that exists in the sandbox: a granted directory, /tmp or the home directory",
    Step.FILE: "files are written before the command starts; give paths below its working directory, and room for them",
    Step.MOUNT: "a granted path must be a place where the view has room for it",
    Step.PROTECT: "a protected path must lead through directories only",
}

#: How much of its limit a run has used that the kernel ends for it, by the signal. RLIMIT_CPU goes by ticks: on a busy
#: machine they may count more than what was used. SIGKILL has other senders, too.
_CPU_SHARES: Final = {int(signal.SIGXCPU): 0.5, int(signal.SIGKILL): 0.9}


@dataclass(frozen=True, slots=True)
class Seen:
    """What the worker knows besides the report."""

    command: str
    oom_killed: bool  # the kernel has killed something because the memory cgroup was full
    cpu_limit: float


def outcome(report: Report | None, course: Course, seen: Seen) -> dict[str, Any]:
    """`status`, `killed_by`, `exit_code`, `signal` and `error` of the result, and what was hit."""
    hits = set(course.hits) | ({"memory"} if seen.oom_killed else set())
    found = _found(report, course, seen)
    killed_by = found.get("killed_by")
    if killed_by in ("memory", "cpu", "files"):
        hits.add(killed_by)
    return {"killed_by": None, "exit_code": None, "signal": None, "error": None, **found, "limit_hits": sorted(hits)}


def _found(report: Report | None, course: Course, seen: Seen) -> dict[str, Any]:
    if report is None or report.word is Word.ENDED:
        return _ended(report, course, seen)
    if report.step is Step.PROTOCOL and course.killed_by is not None:  # asked to end while it was set up: it went, unheard
        return {"status": "killed", "killed_by": course.killed_by}
    return _failed(report, seen)


def _ended(report: Report | None, course: Course, seen: Seen) -> dict[str, Any]:
    status = report.status if report is not None else signal.SIGKILL
    ended: dict[str, Any] = {}
    if os.WIFEXITED(status):
        ended["exit_code"] = os.WEXITSTATUS(status)
    else:
        ended["signal"] = os.WTERMSIG(status)
    killed_by = course.killed_by or _killer(report, ended.get("signal"), seen)
    if killed_by is not None:
        return {"status": "killed", "killed_by": killed_by, **ended}
    return {"status": "exited" if "exit_code" in ended else "signaled", **ended}


def _killer(report: Report | None, number: int | None, seen: Seen) -> str | None:
    """Limits that the kernel enforces by a signal. A command can send itself any signal, but not reach the limit as well."""
    if report is None:
        return "memory" if seen.oom_killed else "worker"
    used = (report.user_us + report.system_us) / 1e6
    if number == signal.SIGXFSZ:
        return "files"
    if number is not None and used >= seen.cpu_limit * _CPU_SHARES.get(number, math.inf):
        return "cpu"
    return "memory" if number == signal.SIGKILL and seen.oom_killed else None


def _failed(report: Report, seen: Seen) -> dict[str, Any]:
    reason = os.strerror(report.errno)
    if report.step is Step.EXEC:
        return _not_started(report.errno, reason, seen.command)
    error: SandboxError = SetupFailed(
        f"step {report.step.name.lower()} failed: {reason}.", layer=report.step.name.lower(), fix=_FIXES.get(report.step, "")
    )
    status = "refused" if report.step in _FIXES else "setup_failed"
    return {"status": status, "error": error.to_dict()}


def _not_started(number: int, reason: str, command: str) -> dict[str, Any]:
    if number == errno.ENOENT:
        fix = "look at the profile's view and PATH; a script's interpreter must be in sight, too"
        return {
            "status": "not_found",
            "error": CommandRefused(f"{command}: not found.", code="not_found", fix=fix).to_dict(),
        }
    fix = {
        errno.EACCES: "make it executable (chmod +x), and readable for the sandbox",
        errno.ENOEXEC: "it is no program: begin a script with #!/path/to/interpreter",
        errno.E2BIG: "pass less in arguments and environment; use stdin or files",
    }.get(number, "")
    error = CommandRefused(f"{command}: {reason}.", code="not_executable", fix=fix)
    return {"status": "not_executable", "error": error.to_dict()}
