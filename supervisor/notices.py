"""What the tree tells observers, and when an end deserves OTP's error report. A catalogue and truth tables; no state."""

from __future__ import annotations

from typing import Any, Final

from otpd.supervisor.child import Child, is_clean
from otpd.supervisor.spec import BRUTAL_KILL, ChildSpec, Dynamic, Restart

#: kind -> (what Notice.path names, keys of Notice.data with their meaning).
NOTICES: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "child_started": ("worker", {"restart": "whether it was an automatic restart", "offender": "see `offender`"}),
    "child_start_failed": ("worker", {"reason": "why", "asked": "whether the attempt was given up on request"}),
    "child_ignored": ("worker", {}),
    "child_exited": (
        "worker",
        {"reason": "exit reason", "asked": "whether its supervisor had asked", "uptime": "seconds since it was ready"},
    ),
    "children_ended": ("worker", {}),
    "child_removed": ("child", {}),
    "restart_scheduled": ("child", {"delay": "seconds", "next_attempt": "on the clock of `now`", "reason": "why"}),
    "supervisor_init": ("supervisor", {}),
    "supervisor_started": ("supervisor", {"restart": "whether it was an automatic restart"}),
    "supervisor_ignored": ("supervisor", {}),
    "supervisor_start_failed": ("supervisor", {"reason": "why, as in a reply", "text": "a sentence, or None"}),
    "supervisor_killed": ("supervisor", {}),
    "supervisor_stopped": ("supervisor", {"reason": "exit reason", "asked": "whether the parent had asked"}),
    "gave_up": (
        "supervisor",
        {"child": "that would have been restarted", "max_restarts": "the limit", "max_seconds": "the period"},
    ),
    "auto_shutdown": ("supervisor", {"child": "whose end led to it"}),
    # OTP's reports at error level
    "child_terminated": ("supervisor", {"child": "id", "reason": "exit reason", "offender": "see `offender`"}),
    "start_error": ("supervisor", {"child": "id", "reason": "why", "offender": "see `offender`"}),
    "shutdown": ("supervisor", {"child": "id", "reason": "reached_max_restart_intensity", "offender": "see `offender`"}),
    "shutdown_error": (
        "supervisor",
        {"child": 'id, or ["children", n]', "reason": "exit reason", "offender": "see `offender`"},
    ),
}


def offender(child: Child) -> dict[str, Any]:
    """What a report says about the child: OTP's word for it, in its progress reports, too (rule 11)."""
    spec = child.spec
    return {
        "id": child.id,
        "path": child.path,
        "generation": child.generation,
        "restart": str(spec.restart),
        "shutdown": spec.shutdown,
        "type": str(spec.type),
    }


def is_crash(spec: ChildSpec, reason: str) -> bool:
    """Whether an end that nobody asked for is reported: always for permanent children, else only when not clean."""
    return spec.restart == Restart.PERMANENT or not is_clean(reason)


def needs_restart(spec: ChildSpec, reason: str) -> bool:
    """permanent: always; transient: unless clean; temporary: never (rules 23-25)."""
    match spec.restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return not is_clean(reason)
    return False


def is_stop_error(engine: Dynamic | None, spec: ChildSpec, reason: str, *, unnoticed: bool) -> bool:
    """Whether the end of a child that was being stopped is reported (rules 56-58).

    `unnoticed`: it had ended by itself before it could be asked. Where the engines differ the recorded traces decide.
    """
    temperate = spec.restart != Restart.PERMANENT
    if engine is Dynamic.DYNAMIC:
        if unnoticed:
            return not (temperate and reason == "normal")
        if spec.shutdown == BRUTAL_KILL:
            return reason != "killed"
        return not (reason.startswith("shutdown") or (temperate and reason == "normal"))
    expected = "killed" if spec.shutdown == BRUTAL_KILL else "shutdown"
    return not (reason == expected or (temperate and is_clean(reason)))
