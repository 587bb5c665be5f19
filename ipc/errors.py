"""What can be wrong with a message before anything is sent; `otpd.agents` turns these into its own errors."""

from __future__ import annotations

from otpd.ipc.wire import MAX_BODY


class TooLarge(ValueError):
    """A message is over the limit of the wire. Nothing of it was queued."""

    def __init__(self, what: str, size: int) -> None:
        super().__init__(
            f"{what}: expected a message of at most {MAX_BODY} bytes (16 MiB), got {size}; "
            "send it in parts, or send a path or a key by which the other side finds it"
        )
        self.size = size


def fitting(what: str, body: bytes) -> bytes:
    """`body`, or TooLarge."""
    if len(body) > MAX_BODY:
        raise TooLarge(what, len(body))
    return body


class ForkedError(RuntimeError):
    """Sockets were used in a process that was forked from the one that opened them (messaging.md, T10)."""

    def __init__(self, owner: int, here: int) -> None:
        super().__init__(
            f"expected process {owner}, which opened these sockets, got its fork {here}: what that sends is lost without a "
            "word; start processes with self.exec() or self.task(), or connect() anew in the child"
        )
