"""What this machine gives: every backend, tried by building a sandbox with it. Data, for `otpd doctor` and for people.

python -m otpd.agents.sandbox [--json]
"""

from __future__ import annotations

from collections.abc import Iterator

from otpd.agents.sandbox import backends
from otpd.agents.sandbox.capability import Capability, Unavailable
from otpd.agents.sandbox.errors import SandboxError
from otpd.agents.sandbox.pool import Pool
from otpd.agents.sandbox.profile import PoolSettings, Profile


def survey(profile: Profile | None = None) -> list[Capability | Unavailable]:
    """In the order in which a pool would choose. Takes about a second, and leaves nothing behind."""
    return [_one(name, profile or Profile()) for name in backends.ORDER]


def _one(name: str, profile: Profile) -> Capability | Unavailable:
    with Pool(PoolSettings(workers=1, backend=name)) as pool:
        try:
            return pool.capability(profile)
        except SandboxError as error:
            return Unavailable(name, error.text, error.fix)


def lines(found: list[Capability | Unavailable]) -> Iterator[str]:
    """The table for people."""
    for each in found:
        if isinstance(each, Unavailable):
            yield f"{each.backend}: not here: {each.why}{f' Fix: {each.fix}.' if each.fix else ''}"
            continue
        yield f"{each.backend} (launcher: {each.launcher})"
        yield f"  layers   {', '.join(each.names())}"
        for name, gap in each.missing.items():
            yield f"  missing  {name}: {gap.why}{f' (fix: {gap.fix})' if gap.fix else ''}"
        for name, bound in each.limits.items():
            yield f"  limit    {name}: {bound.enforced}, by {bound.by}"
