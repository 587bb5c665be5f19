"""Which backends there are, in the order in which they are tried, and the uid that a worker started by root takes."""

from __future__ import annotations

import os
import pwd
import socket
from typing import Final

from otpd.agents.sandbox.backend import Backend
from otpd.agents.sandbox.bubblewrap import Bubblewrap
from otpd.agents.sandbox.errors import SandboxUnavailable, SetupFailed
from otpd.agents.sandbox.locked import Locked
from otpd.agents.sandbox.native import Native
from otpd.agents.sandbox.profile import Settings

#: Only the host's own user namespace has so many.
_HIGHEST: Final = 2**32 - 2
ORDER: Final = ("native", "bwrap", "landlock")


def make(name: str, settings: Settings, slot_uid: int, launcher: str | None) -> Backend:
    """Not started yet. `launcher`: path of the compiled nest, "" for the one in Python, None for what is there."""
    if name == "native":
        return Native(settings, slot_uid, launcher=launcher)
    if name == "bwrap":
        return Bubblewrap(settings, slot_uid, launcher=launcher)
    if name == "landlock":
        return Locked(settings, slot_uid)
    raise SandboxUnavailable(f"expected a backend of {', '.join(ORDER)}, got {name!r}")


def claim_slot_uid(uids: tuple[int, int]) -> tuple[int, socket.socket | None]:
    """A uid that no account and no other worker on this machine has, while the socket is open. 0: run as who we are.

    The name of an abstract socket is the claim: it ends with the process, in whatever way that ends. Root of a user
    namespace that has none of `uids` is an ordinary user outside, and treated as one.
    """
    if os.geteuid() != 0:
        return 0, None
    known = [uid for uid in range(uids[0], uids[1] + 1) if _is_mapped(uid)]
    if not known and not _is_mapped(_HIGHEST):
        return 0, None
    for uid in known:
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0otpd-slot-{uid}")
        except OSError:
            claim.close()
            continue
        if not _is_account(uid):
            return uid, claim
        claim.close()
    fix = "widen commands.slot_uids, or use fewer workers"
    raise SetupFailed(f"no free uid among {uids[0]}-{uids[1]} to run commands as", layer="slot_uid", fix=fix)


def _is_mapped(uid: int) -> bool:
    """Whether our user namespace has it. That of the host has all."""
    with open("/proc/self/uid_map") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= uid < first + count for first, _, count in ranges)


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
