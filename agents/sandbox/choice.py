"""What the next worker is built with, and what waits in vain when one could not be built. Pure.

| a worker | its backend has worked here | it has not |
|---|---|---|
| says which step this machine denies | what waits for its settings is refused | the next; after the last all is refused |
| says what else went wrong | what waits for its settings is refused | the same |
| ends without a word | tried again; `ATTEMPTS` in a row: what waits for its settings is refused | the same |

One that is late says nothing of the backend (`dispatch`). When all were denied, the next run has them tried anew.

>>> choice, denied = Choice(("native", "bwrap")), SandboxUnavailable("no user namespace").to_dict()
>>> choice.could_not("native", denied), choice.backend
(None, 'bwrap')
>>> refusal = choice.could_not("bwrap", denied)
>>> refusal.every, refusal.error["text"]
(True, 'no backend works here (native: no user namespace; bwrap: no user namespace).')
>>> choice.backend
'native'
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from otpd.agents.sandbox.dispatch import ATTEMPTS
from otpd.agents.sandbox.errors import SandboxUnavailable, SetupFailed


@dataclass(frozen=True, slots=True)
class Refusal:
    """`every`: of all that waits, not only of what waits for the same settings."""

    error: Mapping[str, Any]
    every: bool = False


@dataclass(slots=True)
class Choice:
    """`order`: backends, the best first."""

    order: Sequence[str]
    _denied: dict[str, str] = field(default_factory=dict)  # backends that are passed over, and why
    _proved: set[str] = field(default_factory=set)  # those that have worked
    _silent: int = 0  # workers that ended without a word while they were starting, in a row

    @property
    def backend(self) -> str:
        return next(each for each in self.order if each not in self._denied)

    def ready(self, backend: str) -> None:
        self._silent = 0
        self._proved.add(backend)

    def could_not(self, backend: str, error: Mapping[str, Any]) -> Refusal | None:
        """A worker has said why it can't be built. None: the next backend is tried."""
        if error["code"] != SandboxUnavailable.code or backend in self._proved:
            return Refusal(error)
        self._denied[backend] = error["text"]
        if any(each not in self._denied for each in self.order):
            return None
        text = f"no backend works here ({'; '.join(f'{each}: {why}' for each, why in self._denied.items())})."
        self._denied.clear()
        return Refusal(SandboxUnavailable(text, layer=error["layer"], fix=error["fix"]).to_dict(), every=True)

    def ended(self, fate: str) -> Refusal | None:
        """A worker has ended without a word. Somebody may have killed it; again and again is no accident."""
        self._silent += 1
        if self._silent < ATTEMPTS:
            return None
        self._silent = 0
        text = f"a worker ended while it was starting ({fate}), {ATTEMPTS} times in a row."
        return Refusal(SetupFailed(text, fix="look at what it printed to stderr").to_dict())
