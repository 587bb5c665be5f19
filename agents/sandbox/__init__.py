"""Commands in a sandbox: a pool of warm workers, each command in namespaces of its own, nothing of it left behind.

For code that nobody has read. What is stopped, by which layer, and what is not: docs/sandbox.md.

>>> from otpd.agents.sandbox import Pool                              # doctest: +SKIP
>>> with Pool() as pool:                                              # doctest: +SKIP
...     pool.run(["python3", "-c", "print(6 * 7)"], timeout=2).text
'42\\n'
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otpd.agents.sandbox.capability import Capability
    from otpd.agents.sandbox.errors import (
        CommandRefused,
        GrantRefused,
        NotEnforceable,
        PoolClosed,
        ProfileError,
        SandboxBusy,
        SandboxError,
        SandboxUnavailable,
        SetupFailed,
    )
    from otpd.agents.sandbox.pool import Pool
    from otpd.agents.sandbox.profile import Limits, PoolSettings, Profile
    from otpd.agents.sandbox.reading import read
    from otpd.agents.sandbox.result import Result
    from otpd.agents.sandbox.runs import PIPE, Run

#: Imported when they are asked for: `bpf` and `kernel` also serve those who want no pool, and the rest is most of the time.
_HOMES: Final = {
    "capability": "Capability",
    "errors": "CommandRefused GrantRefused NotEnforceable PoolClosed ProfileError SandboxBusy SandboxError "
    "SandboxUnavailable SetupFailed",
    "pool": "Pool",
    "profile": "Limits PoolSettings Profile",
    "reading": "read",
    "result": "Result",
    "runs": "PIPE Run",
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "PIPE", "Capability", "CommandRefused", "GrantRefused", "Limits", "NotEnforceable", "Pool", "PoolClosed", "PoolSettings",
    "Profile", "ProfileError", "Result", "Run", "SandboxBusy", "SandboxError", "SandboxUnavailable", "SetupFailed", "read",
]  # fmt: skip
