"""Every error that the SDK raises. Each says what failed, to whom, and what to do next.

`executed` is "no" when the other side has certainly not acted, so that trying again is safe, and "maybe" when it may have.
docs/troubleshooting.md has a section for each class.

>>> error = failure("call of inventory.reserve", "noproc", "no", "inventory")
>>> type(error).__name__, error.executed
('NoProcess', 'no')
>>> str(error)
'call of inventory.reserve: nobody has this name (inventory); see who is there with: otpd status'
"""

from __future__ import annotations

import errno
from typing import Any, Final, Literal, TypeAlias

Executed: TypeAlias = Literal["no", "maybe"]


class OtpdError(Exception):
    """Something that otpd says; catch this to catch them all."""

    executed: Executed = "no"

    def __init__(self, message: str = "", executed: Executed | None = None) -> None:
        super().__init__(message)
        if executed is not None:
            self.executed = executed


class NoProcess(OtpdError):
    """Nobody has the name or key, or the group is empty. Not executed."""


class CallTimeout(OtpdError):
    """No answer within the deadline. Executed "no" if it passed before the call was delivered, else "maybe"."""


class CircuitOpen(OtpdError):
    """The target has failed so often that it is left alone for a while. Not executed."""


class Overloaded(OtpdError):
    """The inbox or restart buffer of the target, or the broker's memory, is full. Not executed."""


class Exited(OtpdError):
    """The target died during the call; `reason` is its exit reason. Maybe executed."""

    executed: Executed = "maybe"

    def __init__(self, message: str = "", executed: Executed | None = None, reason: str = "") -> None:
        super().__init__(message, executed)
        self.reason = reason


class StoreFull(OtpdError):
    """The store can keep no more: its bounds, or the disk, are reached. Nothing was kept."""


class BrokerLost(OtpdError):
    """The broker died during the call. Maybe executed; the agents live on."""

    executed: Executed = "maybe"


class Stale(OtpdError):
    """This process is not the current incarnation of its name: a newer one has taken over. Not executed."""


class TooLarge(OtpdError):
    """A message of more than 16 MiB, or a state of more than the store takes. Nothing was sent or stored."""


class DamagedState(OtpdError):
    """What is stored of a name is not what was saved, or may be missing: it is not given out. Not executed."""


class Deadlock(OtpdError):
    """A call, or a lock, that the asker itself would have to give. Not executed."""


class AlreadyRegistered(OtpdError):
    """Another process holds the key. Not executed."""


class Refused(OtpdError):
    """The broker did not do what it was asked, `code` says why in one word. Not executed."""

    def __init__(self, message: str = "", executed: Executed | None = None, code: str = "refused") -> None:
        super().__init__(message, executed)
        self.code = code


class ChildError(OtpdError):
    """Root did not start or stop a child; the message is its reason."""


class SpawnRefused(OtpdError, PermissionError):
    """This agent may make no processes of its own (`spawn = "deny"`); names the call, its place and what to use instead.

    A PermissionError too, which is what libraries expect that can do without the process.
    """

    def __init__(self, message: str = "", executed: Executed | None = None) -> None:
        super().__init__(message, executed)
        self.errno = errno.EPERM


class BadArguments(OtpdError):
    """Arguments don't fit the signature: names method, argument, expected and got. The handler has not run."""


class NotData(OtpdError, TypeError):
    """An argument or result that can't be sent: names it. None, bool, int, float, str, bytes, list, dict can."""


class NoMethod(OtpdError):
    """The target has no such method; the message names the nearest. Nothing has run."""


class NodeNotRunning(OtpdError):
    """`connect()` found no node, or its node has ended. Not executed."""


class RemoteError(OtpdError):
    """The handler of a call raised: `type`, `message` and `traceback` are of what it raised. The callee has crashed."""

    executed: Executed = "maybe"

    def __init__(self, message: str, *, type: str = "", text: str = "", traceback: str = "") -> None:
        super().__init__(message)
        self.type, self.message, self.traceback = type, text, traceback


class Reject(OtpdError):
    """An answer, not a crash: raised by a handler, it is raised again in the caller with `message` and `data`.

    >>> Reject("sold out", data={"left": 0}).data
    {'left': 0}
    """

    executed: Executed = "maybe"

    def __init__(self, message: str = "", data: Any = None) -> None:
        super().__init__(message)
        self.message, self.data = message, data


def stale(name: str, why: str) -> str:
    """Why the broker refuses an incarnation: another has taken its place, or it has not kept to the protocol.

    >>> stale("feed", "generation 3 is current")
    'feed: a newer incarnation has taken over (generation 3 is current)'
    """
    if why.startswith("protocol: "):
        return f"{name}: the broker refuses it after three malformed frames within a minute ({why}); is it of another otpd?"
    return f"{name}: a newer incarnation has taken over ({why})"


#: What the codes of docs/protocol.md, 7, are called here: class, cause, what to do next.
_CODES: Final[dict[str, tuple[type[OtpdError], str, str]]] = {
    "noproc": (
        NoProcess, "nobody has this name", "see who is there with: otpd status",
    ),
    "overloaded": (
        Overloaded, "the inbox of the target is full", "send slower, or give it more instances; look with: otpd top",
    ),
    "circuit_open": (
        CircuitOpen, "the breaker of the target is open after its failures",
        "it is tried again after 30 s; see why it fails with: otpd why",
    ),
    "expired": (
        CallTimeout, "the deadline passed before it was delivered", "give it more time, or look what keeps it: otpd top",
    ),
    "timeout": (
        CallTimeout, "no answer within the deadline", "it may have been done; give it more time, or look with: otpd top",
    ),
    "too_large": (TooLarge, "the message is over 16 MiB", "send it in parts, or send a path"),
    "deadlock": (Deadlock, "who asks would wait for itself", "call the method of self directly, or cast"),
    "stale": (Stale, "a newer incarnation has taken over", "end this process"),
    "down": (Exited, "the target died during the call", "it may have been done; see why it died with: otpd why"),
    "broker_lost": (BrokerLost, "the broker died meanwhile", "it may have been done; it comes back by itself, try again"),
    "store_full": (
        StoreFull, "the store can keep no more", "see what waits for whom with: otpd letters waiting; and the disk: df",
    ),
    "already_registered": (AlreadyRegistered, "somebody else holds the key", "look who with: self.lookup(key)"),
}  # fmt: skip


def failure(what: str, code: str, executed: str, detail: str = "") -> OtpdError:
    """The error for a code of the protocol; an unknown one is Refused."""
    kind, cause, advice = _CODES.get(code, (Refused, f"refused ({code})", "see docs/troubleshooting.md"))
    more = f" ({detail})" if detail and detail != cause else ""
    text = f"{what}: {cause}{more}; {advice}"
    done: Executed = "no" if executed == "no" else "maybe"
    if kind is Exited:
        return Exited(text, done, reason=detail)
    return Refused(text, done, code=code) if kind is Refused else kind(text, done)
