"""How long a restart waits: at once after a stable run, then `initial`, times `factor`, up to `max`, spread by a hash.

Not OTP's: without a policy every delay is 0. Nothing here is random; the same path and generation always wait equally long.

>>> policy = Backoff(initial=0.1, factor=2.0, max=0.3, jitter=0.0)
>>> first = next_delay(policy, None)
>>> second = next_delay(policy, first)
>>> first, second, next_delay(policy, second), next_delay(policy, 0.3)
(0.0, 0.1, 0.2, 0.3)
"""

from __future__ import annotations

from zlib import crc32

from otpd.supervisor.spec import Backoff


def next_delay(policy: Backoff | None, previous: float | None) -> float:
    """The delay after `previous`, before jitter; None stands for a stable run, or none yet."""
    if policy is None or previous is None:
        return 0.0
    return min(previous * policy.factor if previous > 0 else policy.initial, policy.max)


def spread(policy: Backoff | None, delay: float, path: str, generation: int) -> float:
    """`delay` moved by up to +-jitter of itself, evenly over paths and generations."""
    if policy is None:
        return delay
    share = crc32(f"{path}:{generation}".encode()) / 2**32
    return delay * (1.0 - policy.jitter + 2.0 * policy.jitter * share)


def stable(policy: Backoff | None, uptime: float) -> bool:
    """Whether a run of `uptime` seconds, counted from ready, makes the next restart an immediate one."""
    return policy is not None and uptime >= policy.reset_after
