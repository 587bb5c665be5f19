"""The verbs of `self`: what agents, and `connect()`, say to others through the broker.

Those that wait are awaited. The others have taken effect when they return; to await them is allowed and changes nothing.
`blocking` has the same verbs for threads. Times are seconds. Errors are those of `errors`, and each verb that waits for an
answer may raise CallTimeout, BrokerLost and Stale.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Final

from otpd.agents import durable as durables
from otpd.agents.commands import Commands
from otpd.agents.conversation import Conversation
from otpd.agents.errors import NoProcess, OtpdError
from otpd.agents.locks import Lock
from otpd.agents.names import checked
from otpd.agents.proxies import Proxy
from otpd.agents.tasks.verbs import TaskVerbs
from otpd.agents.values import Entry, Ref, Whereabouts
from otpd.agents.waiting import Done
from otpd.ipc.endpoint import Address

#: OTP's default for a call (D7).
TIMEOUT: Final = 5.0
POLICIES: Final = ("any", "all", "round_robin", "least_loaded", "hash")
_DONE: Final = Done()


def _seconds(word: bool | float) -> float:
    """True is the default; a number is what it says."""
    return TIMEOUT if word is True else float(word)


class Verbs(Commands, TaskVerbs):
    _otpd: Conversation

    # --- messages ---

    async def call(self, to: str | Address, method: str, /, timeout: float | None = TIMEOUT, **args: Any) -> Any:
        """The result of `method` of the agent `to`, or one error, within `timeout` seconds (None: however long it takes).

        A call that is made while another is handled ends at the latest with that one's deadline. To a group with policy
        "all" it gives a dict: for each member its result, or its OtpdError.
        """
        address = self._otpd.names.address(to)
        if address.policy == "all":
            return await self._call_all(address, method, timeout, args)
        return await self._otpd.call(address, method, args, timeout)

    async def _call_all(self, group: Address, method: str, timeout: float | None, args: dict[str, Any]) -> dict[str, Any]:
        conversation = self._otpd
        started = conversation.clock()
        _revision, names = await conversation.ask("members", group.name, timeout=timeout, again=True)
        if not names:
            raise NoProcess(f"call of {group.name}.{method}: nobody is in this group; see who is there with: otpd status")
        left = None if timeout is None else timeout - (conversation.clock() - started) / 1e9
        calls = (conversation.call(conversation.names.address(name), method, args, left) for name in names)
        results = await asyncio.gather(*calls, return_exceptions=True)
        for each in results:
            if isinstance(each, BaseException) and not isinstance(each, OtpdError):
                raise each
        return dict(zip(names, results, strict=True))

    def cast(
        self, to: str | Address, method: str, /, confirm: bool | float = False, durable: bool | float = False, **args: Any
    ) -> Awaitable[None]:
        """Send without an answer. Done when it is queued here; while too much is queued it waits for room.

        One that the broker does not accept later reaches `handle_rejected`. With `confirm` (True, or
        for how many seconds at most) it waits for the broker's word and raises: NoProcess, Overloaded.

        With `durable` (True, or seconds) it waits until the store has it on disk, and raises StoreFull, Overloaded,
        CallTimeout; from then on it reaches `to` at least once, whatever dies. `id`: the same id of the same sender within
        10 minutes is the same message. `key`: those with the same key come one after the other; by default the sender is
        the key. In a transaction it is on disk with that.
        """
        conversation = self._otpd
        if durable:
            return durables.cast(conversation, conversation.names.address(to), method, args, _seconds(durable))
        if confirm:
            return conversation.cast_confirmed(conversation.names.address(to), method, args, _seconds(confirm))
        return conversation.cast(conversation.names.address(to), method, args)  # type: ignore[no-any-return]

    def publish(self, topic: str, /, durable: bool = False, **data: Any) -> Awaitable[None]:
        """An event for everybody who has subscribed to a pattern that `topic` meets: at most once each, in order.

        With `durable` (and `id`, `key`, as in `cast`) it is on disk, once for each durable subscriber, when this is done;
        the others get it then.
        """
        if durable:
            return durables.publish(self._otpd, topic, data)
        return self._otpd.publish(topic, data)  # type: ignore[no-any-return]

    def agent(self, name: str | Address, timeout: float | None = TIMEOUT) -> Proxy:
        """`await self.agent("inventory").reserve(sku="A")`; `.cast.restock(...)` casts."""
        return Proxy(self, name, timeout)

    def group(self, name: str, policy: str = "any", key: str | None = None) -> Address:
        """An address for call and cast: one member by `policy`, or each with "all". With a `key` the same key meets the
        same member ("hash")."""
        if policy not in POLICIES:
            raise ValueError(f"group {name}: expected policy to be one of {', '.join(POLICIES)}, got {policy!r}")
        if (policy == "hash" and key is None) or (key is not None and policy not in ("any", "hash")):
            raise ValueError(f"group {name}: expected a key with policy hash, and only then; got {policy!r} and key {key!r}")
        if key is not None:
            checked("key of a group", key)
        return Address(checked("group", name), "group", "hash" if key is not None else policy, key)

    # --- deaths ---

    def monitor(self, name: str, follow: bool = False) -> Ref:
        """Be told once of the end of the incarnation that has `name` now: handle_down; at once, reason noproc, if there is
        none. With `follow` of each end and, handle_up, each begin, until `demonitor`."""
        return Ref(self._otpd.monitor(name, follow))

    def demonitor(self, ref: int) -> Awaitable[None]:
        """Nothing is heard of this monitor after this."""
        self._otpd.demonitor(int(ref))
        return _DONE

    async def whereis(self, name: str) -> Whereabouts | None:
        """None when nobody has the name."""
        found = await self._otpd.ask("whereis", name, again=True)
        return None if found is None else Whereabouts(found["name"], found["generation"], found["state"])

    # --- groups ---

    async def members(self, group: str) -> list[str]:
        """In the order in which they joined."""
        _revision, names = await self._otpd.ask("members", group, again=True)
        return list(names)

    # --- the registry ---

    async def register(self, key: str, value: Any = None) -> None:
        """Hold `key` until `unregister` or the own end, for others to `lookup`. AlreadyRegistered names who holds it."""
        await self._otpd.ask("register", key, value)

    async def update(self, key: str, value: Any, expected: int | None = None) -> None:
        """Change the value of a key that is held here. With `expected` only if it still has this revision; else Refused."""
        if expected is None:
            await self._otpd.ask("update", key, value)
        else:
            await self._otpd.ask("replace", key, value, int(expected))

    async def unregister(self, key: str) -> None:
        await self._otpd.ask("unregister", key)

    async def lookup(self, key: str) -> Entry | None:
        """Who holds `key`, with its value; None when nobody does."""
        found = await self._otpd.ask("lookup", key, again=True)
        return None if found is None else Entry(found["name"], found["generation"], found["value"], found.get("revision", 0))

    def via(self, key: str) -> Address:
        """An address for call and cast: whoever holds `key`."""
        return Address(checked("key", key), "key")

    def lock(self, key: str, timeout: float | None = TIMEOUT) -> Lock:
        """`async with self.lock(key):` alone in the node; CallTimeout when others hold it for so long."""
        return Lock(self._otpd, key, timeout)

    # --- telemetry ---

    def emit(self, event: str, /, **measurements: Any) -> Awaitable[None]:
        """Tell telemetry, on the topic `otpd.emit.<event>`. Never waits: without room it is dropped, counted and logged."""
        endpoint = self._otpd.endpoint
        who = {"name": endpoint.name, "generation": endpoint.inc & 0xFFFFFFFF, "at": time.time()}
        self._otpd.emit(f"otpd.emit.{event}", {**who, "measurements": measurements})
        return _DONE
