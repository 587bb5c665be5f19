"""What can go wrong around a command. Every error says what, which layer, and what to do next."""

from __future__ import annotations

from typing import Any


class SandboxError(Exception):
    """`code` is for programs, `layer` the part of the sandbox that it is about, `fix` the next step."""

    code = "sandbox"

    def __init__(self, text: str, *, layer: str = "", fix: str = "", code: str = "") -> None:
        super().__init__(text)
        self.text, self.layer, self.fix = text, layer, fix
        self.code = code or type(self).code

    def __str__(self) -> str:
        return f"{self.text} Fix: {self.fix}." if self.fix else self.text

    def to_dict(self) -> dict[str, Any]:
        return {"code": self.code, "layer": self.layer, "text": self.text, "fix": self.fix}


class ProfileError(SandboxError):
    """A table of the configuration is not as it must be; `key` says where."""

    code = "profile"

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key}: {text}" if key else text, layer="profile")
        self.key = key


class SandboxUnavailable(SandboxError):
    """This machine gives no backend, or not the one that was asked for."""

    code = "unavailable"


class NotEnforceable(SandboxError):
    """The profile asks for what this machine can't give."""

    code = "not_enforceable"


class GrantRefused(SandboxError):
    """A directory or file can't be given to the command as it is now."""

    code = "grant"

    def __init__(self, path: str, text: str, fix: str = "") -> None:
        super().__init__(f"{path}: {text}", layer="mounts", fix=fix)
        self.path = path


class CommandRefused(SandboxError):
    """The command itself is not as it must be, or not one of those that the profile allows."""

    code = "command"


class SandboxBusy(SandboxError):
    """The queue is full, or the command has waited in it for too long."""

    code = "busy"


class SetupFailed(SandboxError):
    """A step between the request and the exec failed."""

    code = "setup"


class NotInTime(SetupFailed):
    """A step has taken too long: the machine is under load, which says nothing about what it allows."""

    code = "late"


class PoolClosed(SandboxError):
    """The pool takes no more commands."""

    code = "closed"
