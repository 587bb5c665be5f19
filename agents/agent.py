"""What a worker script derives from: the callbacks of an agent, its verbs, and the handlers that it marks.

>>> from otpd.agents.decorators import call
>>> class Inventory(Agent):
...     "Keeps the stock of one warehouse."
...     async def init(self, warehouse: str = "main") -> None:
...         self.stock: dict[str, int] = {}
...     @call
...     async def reserve(self, sku: str, n: int = 1) -> int:
...         self.stock[sku] = self.stock.get(sku, 0) - n
...         return self.stock[sku]
>>> # if __name__ == "__main__": run(Inventory)
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from otpd.agents import methods
from otpd.agents.blocking import Blocking
from otpd.agents.commands import Commands
from otpd.agents.current import CURRENT, Current
from otpd.agents.deliveries import DELIVERY, Delivery
from otpd.agents.errors import OtpdError
from otpd.agents.names import checked
from otpd.agents.replies import Reply
from otpd.agents.stored import TIMEOUT as STATE_TIMEOUT
from otpd.agents.stored import Stored
from otpd.agents.tasks.verbs import TaskVerbs
from otpd.agents.timed import Timed
from otpd.agents.transactions import Transaction
from otpd.agents.values import Child, Ref
from otpd.agents.verbs import Verbs
from otpd.agents.waiting import Done

_DONE: Final = Done()


class Ignore(OtpdError):
    """Raised in init(): there is nothing to run, and that is no error. The worker stays down without a restart."""


class Home(Protocol):
    """What an agent lives in."""

    def stop(self, reason: str) -> None: ...

    def defer(self, current: Current) -> Reply: ...

    async def child(self, what: str, *arguments: Any) -> Any: ...

    def serve(self, caller: Callable[[dict[str, Any], int, int], None], child_ended: Callable[[str, str], None]) -> None: ...

    def counts(self, counts: dict[str, int]) -> None: ...

    def note(self, kind: str, name: str, data: dict[str, Any]) -> bool: ...

    @property
    def timed(self) -> Timed: ...

    @property
    def sync(self) -> Sync: ...


class Agent(Verbs):
    """A worker under supervision. Override what you need; nothing here has to be called.

    Handlers run one at a time, and so do the callbacks but init and terminate. Plain `def` handlers run in one worker
    thread; they say the verbs through `self.sync`. Handlers and tasks share one asyncio loop. A task that ends with an
    exception while nobody awaits it crashes the agent, and so does a handler that raises anything but Reject.
    """

    name: str = ""
    generation: int = 0
    log: logging.Logger = logging.getLogger("otpd.agent")
    _host: Home
    _stored: Stored
    _traps: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        methods.check(cls, RESERVED)
        traps = cls.__dict__.get("trap_exits")
        if isinstance(traps, bool):  # written in the class body: so it begins
            cls._traps = traps
            del cls.trap_exits

    if not TYPE_CHECKING:  # a typo of the user's must stay an error of the type checker

        def __getattr__(self, name: str) -> Any:
            if name in ("_otpd", "_host", "_stored"):
                kind = type(self).__name__
                text = f"this {kind} is not running: put its script into otpd.toml, or in a test: testing.run({kind})"
                raise RuntimeError(text)
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # --- callbacks ---

    if TYPE_CHECKING:  # a class declares the parameters that it has

        def init(self, *args: Any, **kwargs: Any) -> Any: ...

    else:

        def init(self) -> Any:
            """Set up. With `args` in otpd.toml, declare them as parameters. May be async. An exception fails the start."""

    def terminate(self, reason: str) -> Any:
        """Tidy up within `shutdown` of otpd.toml. May be async. Not called after a crash in init() or a kill."""

    async def handle_down(self, name: str, generation: int, reason: str) -> Any:
        """A monitored incarnation has ended, or (noproc) there was none. Its own messages came before this."""
        self.log.info("down: %s (generation %s): %s", name, generation, reason)

    async def handle_up(self, name: str, generation: int) -> Any:
        """A name that is monitored with follow=True has a new incarnation."""
        self.log.info("up: %s (generation %s)", name, generation)

    async def handle_exit(self, name: str, generation: int, reason: str) -> Any:
        """A linked process has died, and exits are trapped."""
        self.log.warning("exit: %s (generation %s): %s", name, generation, reason)

    async def handle_rejected(self, name: str, method: str, reason: str) -> Any:
        """A cast was not accepted: `reason` is noproc, overloaded, circuit_open, ... By default: counted and logged."""
        self._otpd.complain("casts rejected", "cast to %s.%s rejected: %s", name, method, reason)

    # --- itself ---

    @property
    def current(self) -> Current | None:
        """The call that is being handled: its `caller`, its `deadline`, and `cancelled` once the caller has given up."""
        current = CURRENT.get()
        return None if current is None or current.finished else current

    def defer(self) -> Reply:
        """Answer the call that is being handled later, by what this returns: the next message is handled meanwhile.

        What the handler returns then says nothing. Only in handlers of calls that are `async def`.
        """
        self._otpd.here()
        current = CURRENT.get()
        if current is None or current.finished or current.deferred:
            what = "it is deferred already" if current is not None and current.deferred else "there is none here"
            raise RuntimeError(f"defer: expected a call that is being handled, but {what}; say it once in a @call handler")
        return self._host.defer(current)

    @property
    def sync(self) -> Sync:
        """The verbs for plain def handlers, which run in a thread of their own: `self.sync.call(...)`."""
        return self._host.sync

    def stop(self, reason: str = "normal") -> Awaitable[None]:
        """End after what is being handled: terminate(reason), exit. normal and shutdown are clean, others are errors."""
        self._otpd.here()
        self._host.stop(reason)
        return _DONE

    # --- durable state ---

    async def load(self, default: Any = None, timeout: float | None = STATE_TIMEOUT) -> Any:
        """The state that this name has saved, whichever incarnation it was; `default` when there is none.

        DamagedState when it can't be told what there was; CallTimeout when the store is not back within `timeout` seconds.
        """
        return await self._stored.load(default, timeout)

    async def save(self, state: Any, timeout: float | None = STATE_TIMEOUT) -> None:
        """Keep `state`, any data, for the next incarnation of this name: on disk when it returns.

        Stale when a newer incarnation has taken over, or somebody else has changed it since it was loaded; TooLarge;
        StoreFull when the disk is full. In a transaction it is kept with that.
        """
        await self._stored.save(state, timeout)

    # --- durable messages ---

    @property
    def delivery(self) -> Delivery | None:
        """The durable message that is being handled: its `seq`, `attempt` (from 1), `sender`, `id` and `sent_at`."""
        return DELIVERY.get()

    def transaction(self) -> Transaction:
        """`async with self.transaction():` what is saved and sent durably in the block, and the acknowledgement of the
        durable message that is being handled, take place together or not at all. Raises as `cast` and `save` do; Stale when
        the message was given to another incarnation."""
        return Transaction(self._otpd)

    # --- links ---

    @property
    def trap_exits(self) -> bool:
        """Whether the death of a linked process reaches handle_exit instead of ending this one. False at first."""
        return self._traps

    @trap_exits.setter
    def trap_exits(self, on: bool) -> None:
        self._otpd.here()
        self._traps = on
        self._otpd.endpoint.trap(on)

    def link(self, name: str) -> Awaitable[None]:
        """Die together: when one of the two ends other than normally, so does the other, unless it traps exits."""
        self._otpd.link(name)
        return _DONE

    def unlink(self, name: str) -> Awaitable[None]:
        """The end of `name` does not concern this one any more, and the other way round."""
        self._otpd.unlink(name)
        return _DONE

    # --- groups ---

    def join(self, group: str) -> Awaitable[None]:
        """Be a member until `leave` or the own end."""
        self._otpd.here()
        self._otpd.endpoint.join(checked("join", group))
        return _DONE

    def leave(self, group: str) -> Awaitable[None]:
        self._otpd.here()
        self._otpd.endpoint.leave(checked("leave", group))
        return _DONE

    # --- timers ---

    async def schedule(
        self, *, method: str, after: Any = None, at: Any = None, key: str | None = None, grace: Any = None, **args: Any
    ) -> str:
        """Run `method` of this agent once, with `args`: `after` a duration (seconds, "5m"), or `at` a datetime with a zone.
        Its id, for `cancel`; when it returns, the timer is on disk.

        It follows the name: whoever has it then gets the run. With a `key` a timer of the same key is replaced, so that an
        init() which says it again adds none. One that is due while nobody has the name runs when somebody has, but not if
        it is later than `grace`. BadArguments, NoMethod; Reject when there are too many.
        """
        self._otpd.here()
        return await self._host.timed.schedule(method, after, at, key, grace, args)

    async def cancel(self, id: str) -> bool:
        """Whether it was still to come, and does not any more."""
        self._otpd.here()
        return await self._host.timed.cancel_timer(id)

    # --- children ---

    async def start_child(self, spec: Mapping[str, Any]) -> Child:
        """Start a child under this agent: `spec` is a table as in otpd.toml with its `name`. Done when it is ready.

        It ends with this agent. ChildError says why it did not start.
        """
        self._otpd.here()
        started = await self._host.child("start", dict(spec))
        return Child(started["name"], started["generation"])

    async def stop_child(self, name: str) -> None:
        """Stop a child in order and forget it. ChildError when there is none of this name."""
        self._otpd.here()
        await self._host.child("stop", name)

    async def children(self) -> list[dict[str, Any]]:
        """Its children in the order of their starts, each as {"name", "state", "generation", "pid", "restarts"}."""
        self._otpd.here()
        return list(await self._host.child("which"))


#: A handler must not take the place of a verb.
RESERVED: Final = frozenset(
    name
    for base in (Agent, Verbs, Commands, TaskVerbs)
    for name in (*vars(base), *base.__annotations__)
    if not name.startswith("_")
)


class Sync(Blocking[Agent]):
    """The verbs of an agent for its plain def handlers."""

    def load(self, default: Any = None, timeout: float | None = STATE_TIMEOUT) -> Any:
        return self._do(self._verbs.load, default, timeout)

    def save(self, state: Any, timeout: float | None = STATE_TIMEOUT) -> None:
        self._do(self._verbs.save, state, timeout)

    def monitor(self, name: str, follow: bool = False) -> Ref:
        return self._do(self._verbs.monitor, name, follow)  # type: ignore[no-any-return]

    def demonitor(self, ref: int) -> None:
        self._do(self._verbs.demonitor, ref)

    def link(self, name: str) -> None:
        self._do(self._verbs.link, name)

    def unlink(self, name: str) -> None:
        self._do(self._verbs.unlink, name)

    def trap_exits(self, on: bool = True) -> None:
        self._do(setattr, self._verbs, "trap_exits", on)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """`with self.sync.transaction():`, as that of the agent."""
        transaction = self._verbs.transaction()
        transaction.enter()
        try:
            yield
        finally:
            transaction.leave()
        self._do(transaction.commit)

    def join(self, group: str) -> None:
        self._do(self._verbs.join, group)

    def leave(self, group: str) -> None:
        self._do(self._verbs.leave, group)

    def start_child(self, spec: Mapping[str, Any]) -> Child:
        return self._do(self._verbs.start_child, spec)  # type: ignore[no-any-return]

    def schedule(
        self, *, method: str, after: Any = None, at: Any = None, key: str | None = None, grace: Any = None, **args: Any
    ) -> str:
        more = {"method": method, "after": after, "at": at, "key": key, "grace": grace}
        return self._do(self._verbs.schedule, **more, **args)  # type: ignore[no-any-return]

    def cancel(self, id: str) -> bool:
        return self._do(self._verbs.cancel, id)  # type: ignore[no-any-return]

    def stop_child(self, name: str) -> None:
        self._do(self._verbs.stop_child, name)

    def children(self) -> list[dict[str, Any]]:
        return self._do(self._verbs.children)  # type: ignore[no-any-return]

    def stop(self, reason: str = "normal") -> None:
        self._do(self._verbs.stop, reason)


__all__ = ["Agent", "Home", "Ignore", "Sync"]
