"""Landlock: which rights over files a command has, checked by the kernel a second time, whatever the mounts say.

As the second layer, reading is left to the view, and writing is allowed beneath the writable places alone. Without
namespaces it is the view: what is not allowed can't be read either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from otpd.agents.sandbox import records

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_UNIX, SCOPE_SIGNAL = 1 << 0, 1 << 1

#: The version from which on the kernel knows a right.
_SINCE: Final = {REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5}
NET_SINCE, SCOPE_SINCE = 4, 6

READ: Final = EXECUTE | READ_FILE | READ_DIR
_CHANGE: Final = WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SYM | REFER | TRUNCATE
_HANDLED: Final = _CHANGE | MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | IOCTL_DEV
#: Rights that mean something for a file; the kernel refuses the others on one.
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV

#: A directory of the host: nothing that would surprise who looks there later (a reader of a FIFO hangs).
GRANTED: Final = _CHANGE
#: A private place that vanishes with the run.
SCRATCH: Final = _CHANGE | MAKE_SOCK | MAKE_FIFO
#: A device such as /dev/null.
DEVICE: Final = WRITE_FILE | TRUNCATE | IOCTL_DEV


@dataclass(frozen=True, slots=True)
class Rule:
    path: str
    rights: int
    file: bool = False


def plan(abi: int, rules: Iterable[Rule], *, reading: bool, tcp: bool) -> Iterator[bytes]:
    """Records of a run plan. `reading`: it is restricted, too. `tcp` False: no TCP at all, where the kernel can say so."""
    known = _known(abi)
    handled = (_HANDLED | (READ if reading else 0)) & known
    net = BIND_TCP | CONNECT_TCP if abi >= NET_SINCE and not tcp else 0
    scope = SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL if abi >= SCOPE_SINCE else 0
    yield records.landlock(handled, net, scope)
    for rule in rules:
        rights = (rule.rights | (READ if reading else 0)) & handled & (_OF_FILES if rule.file else ~0)
        if rights:
            yield records.allow(rights, rule.path)


def _known(abi: int) -> int:
    return ~sum(right for right, since in _SINCE.items() if abi < since)
