"""Another agent as an object: its methods are called by their names.

>>> class Verbs:
...     def call(self, to, method, /, timeout=5, **args): return f"call {to}.{method} {args} within {timeout} s"
...     def cast(self, to, method, /, **args): return f"cast {to}.{method} {args}"
>>> inventory = Proxy(Verbs(), "inventory", timeout=1)
>>> inventory.reserve(sku="A")
"call inventory.reserve {'sku': 'A'} within 1 s"
>>> inventory.cast.restock(sku="A", n=5)
"cast inventory.restock {'sku': 'A', 'n': 5}"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from otpd.ipc.endpoint import Address


class Speaker(Protocol):
    """What a proxy speaks through: the verbs of an agent, awaitable, or those of `sync` and of a client, which block."""

    def call(self, to: str | Address, method: str, /, timeout: float | None = ..., **args: Any) -> Any: ...

    def cast(self, to: str | Address, method: str, /, **args: Any) -> Any: ...


class Proxy:
    """`proxy.method(**args)` is a call, `proxy.cast.method(**args)` a cast. Arguments go by name."""

    __slots__ = ("_speaker", "_timeout", "_to", "cast")

    def __init__(self, speaker: Speaker, to: str | Address, timeout: float | None = 5.0) -> None:
        self._speaker, self._to, self._timeout = speaker, to, timeout
        self.cast = CastProxy(speaker, to)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        _refuse_private(method)

        def call(*positional: Any, **args: Any) -> Any:
            _refuse_positional(method, positional)
            if "timeout" in args:
                raise TypeError(f"{method}: the timeout is the proxy's own; write: agent(NAME, timeout=...).{method}(...)")
            return self._speaker.call(self._to, method, self._timeout, **args)

        return call

    def __repr__(self) -> str:
        return f"<agent {_name(self._to)}>"


class CastProxy:
    __slots__ = ("_speaker", "_to")

    def __init__(self, speaker: Speaker, to: str | Address) -> None:
        self._speaker, self._to = speaker, to

    def __getattr__(self, method: str) -> Callable[..., Any]:
        _refuse_private(method)

        def cast(*positional: Any, **args: Any) -> Any:
            _refuse_positional(method, positional)
            return self._speaker.cast(self._to, method, **args)

        return cast


def _refuse_private(method: str) -> None:
    """Python asks objects for all sorts of names with underscores; those are no methods of an agent."""
    if method.startswith("_"):
        raise AttributeError(f"{method}: methods of agents don't begin with an underscore")


def _refuse_positional(method: str, positional: tuple[Any, ...]) -> None:
    if positional:
        raise TypeError(f"{method}: expected arguments by name, such as {method}(sku={positional[0]!r}), got {positional!r}")


def _name(to: str | Address) -> str:
    return to if isinstance(to, str) else to.name
