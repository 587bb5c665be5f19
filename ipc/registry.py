"""The registry: unique keys with a value each, and locks; all of them end with their holder (rules 113-120).

Only the holder changes a key. A change carries a revision, so that a holder can update what it has seen and nothing else.
A lock is held by one at a time, in the order in which they asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otpd.ipc import limits
from otpd.ipc.frames import pack, unpack
from otpd.ipc.wire import MAX_KEY, is_key

if TYPE_CHECKING:
    from otpd.ipc.peers import Peer


class Refusal(Exception):
    """A question that gets ["refused", ref, code, text]."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass(slots=True)
class Key:
    holder: Peer
    value: Any
    revision: int


@dataclass(slots=True)
class Lock:
    holder: Peer
    waiting: deque[tuple[Peer, int]] = field(default_factory=deque)  # (who, the ref of its question)


class Registry:
    """`announce(topic, data)` tells listeners of a key on `otpd.key.KEY`."""

    def __init__(self, announce: Callable[[str, dict[str, Any]], None]) -> None:
        self._announce = announce
        self._keys: dict[str, Key] = {}
        self._locks: dict[str, Lock] = {}
        self._revision = 0

    # --- keys ---

    def register(self, peer: Peer, key: str, value: Any) -> bool:
        held = self._keys.get(_checked(key))
        if held is not None:
            holder = held.holder
            raise Refusal("already_registered", f"{key!r} is held by {holder.name} ({holder.generation})")
        _check_value(key, value)
        if len(peer.keys) >= limits.KEYS:
            raise Refusal("overloaded", f"expected at most {limits.KEYS} keys of {peer.name}; unregister some")
        self._revision += 1
        self._keys[key] = Key(peer, value, self._revision)
        peer.keys[key] = None
        self._changed(key, "registered", peer)
        return True

    def update(self, peer: Peer, key: str, value: Any, expected: int | None = None) -> int:
        """The new revision. `expected`: refused (`conflict`) unless this is the present one."""
        held = self._held(peer, key)
        if expected is not None and expected != held.revision:
            raise Refusal("conflict", f"expected revision {expected} of {key!r}, it is {held.revision}; look it up again")
        _check_value(key, value)
        self._revision += 1
        held.value, held.revision = value, self._revision
        return self._revision

    def unregister(self, peer: Peer, key: str) -> bool:
        self._held(peer, key)
        self._drop(peer, key, "unregistered")
        return True

    def lookup(self, key: str) -> dict[str, Any] | None:
        held = self._keys.get(key)
        if held is None:
            return None
        holder = held.holder
        return {"name": holder.name, "generation": holder.generation, "value": held.value, "revision": held.revision}

    def holder(self, key: str) -> Peer | None:
        held = self._keys.get(key)
        return None if held is None else held.holder

    def _held(self, peer: Peer, key: str) -> Key:
        held = self._keys.get(key)
        if held is None or held.holder is not peer:
            whose = "nobody" if held is None else held.holder.name
            raise Refusal("not_holder", f"expected {key!r} to be held by {peer.name}, it is held by {whose}")
        return held

    def _drop(self, peer: Peer, key: str, how: str, **more: str) -> None:
        del self._keys[key], peer.keys[key]
        self._revision += 1
        self._changed(key, how, peer, **more)

    def _changed(self, key: str, how: str, peer: Peer, **more: str) -> None:
        data = {"revision": self._revision, "change": how, "name": peer.name, "generation": peer.generation, **more}
        self._announce(f"otpd.key.{key}", data)

    # --- locks ---

    def lock(self, peer: Peer, key: str, ref: int) -> bool:
        """Whether it is held now; if not, the question is answered when it is."""
        lock = self._locks.get(_checked(key))
        if lock is not None and key in peer.locks:
            raise Refusal("deadlock", f"{peer.name} holds or awaits the lock {key!r} already; unlock it first")
        if len(peer.locks) >= limits.LOCKS:
            raise Refusal("overloaded", f"expected at most {limits.LOCKS} locks of {peer.name}; unlock some")
        peer.locks[key] = None
        if lock is None:
            self._locks[key] = Lock(peer)
            return True
        lock.waiting.append((peer, ref))
        return False

    def unlock(self, peer: Peer, key: str) -> bool:
        lock = self._locks.get(key)
        if lock is None or lock.holder is not peer:
            raise Refusal("not_holder", f"{peer.name} does not hold the lock {key!r}")
        self._pass_on(peer, key, lock)
        return True

    def _pass_on(self, peer: Peer, key: str, lock: Lock) -> None:
        peer.locks.pop(key, None)
        while lock.waiting:
            lock.holder, ref = lock.waiting.popleft()
            if lock.holder.connected:
                lock.holder.say("answer", ref, True)
                return
            lock.holder.locks.pop(key, None)  # one that struck out waits for nothing any more
        del self._locks[key]

    # --- the holder dies ---

    def release(self, peer: Peer, reason: str) -> None:
        """Before its death is told to anybody (B4)."""
        for key in list(peer.keys):
            self._drop(peer, key, "lost", reason=reason)
        for key in list(peer.locks):
            lock = self._locks[key]
            if lock.holder is peer:
                self._pass_on(peer, key, lock)
            else:
                lock.waiting = deque((who, ref) for who, ref in lock.waiting if who is not peer)
        peer.locks.clear()


def _checked(key: str) -> str:
    if not is_key(key):
        raise Refusal("refused", f"expected a key of 1 to {MAX_KEY} bytes of UTF-8, got {key[:80]!r}")
    return key


def _check_value(key: str, value: Any) -> None:
    """It must also be readable where it is a part of an answer."""
    try:
        size = len(pack(value))
        unpack(pack([[[[value]]]]))
    except (ValueError, OverflowError) as error:
        raise Refusal("refused", f"expected a value for {key!r} that is not nested so deeply: {error}") from None
    if size > limits.KEY_VALUE:
        raise Refusal("too_large", f"expected a value of at most {limits.KEY_VALUE} bytes for {key!r}, got {size}")
