"""What peers say in SYSTEM frames: each verb with its lane, what it takes and what it does (docs/protocol.md, 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otpd.ipc import limits
from otpd.ipc.answers import kinds
from otpd.ipc.frames import FrameError
from otpd.ipc.groups import POLICIES
from otpd.ipc.peers import Binding
from otpd.ipc.topics import TopicError
from otpd.ipc.wire import MAX_KEY, Lane, is_key

if TYPE_CHECKING:
    from otpd.ipc.answers import Answers
    from otpd.ipc.lives import Holdings
    from otpd.ipc.peers import Peer

_KINDS = ("name", "group", "key")


@dataclass(frozen=True, slots=True)
class Verb:
    """`last_words`: also taken from one that has just died."""

    lane: Lane
    types: tuple[type, ...]
    method: Callable[..., None]
    last_words: bool = False
    open_ended: bool = False


class Verbs:
    def __init__(self, holdings: Holdings, answers: Answers) -> None:
        self._hold = holdings
        monitors, links, calls, data, fast = holdings.monitors, holdings.links, holdings.calls, Lane.DATA, Lane.SYSTEM
        self._verbs: dict[str, Verb] = {
            "bind": Verb(data, (int, str, str, str), self._bind, last_words=True),
            "credit": Verb(fast, (int, int), self._credit, last_words=True),
            "cancel": Verb(fast, (int,), lambda peer, now, request: calls.cancel(peer, request)),
            "monitor": Verb(fast, (int, str, bool), lambda peer, now, *what: monitors.set(peer, *what)),
            "demonitor": Verb(fast, (int,), lambda peer, now, ref: monitors.unset(peer, ref)),
            "link": Verb(fast, (str,), lambda peer, now, name: links.link(peer, name)),
            "unlink": Verb(fast, (str,), lambda peer, now, name: links.unlink(peer, name)),
            "trap": Verb(fast, (bool,), self._trap),
            "subscribe": Verb(data, (int, str), self._subscribe),
            "unsubscribe": Verb(data, (int,), lambda peer, now, ref: holdings.events.unsubscribe(peer, ref)),
            "join": Verb(data, (str,), self._join),
            "leave": Verb(data, (str,), lambda peer, now, group: holdings.groups.leave(group, peer.entry)),
            "ask": Verb(fast, (int, str), lambda peer, now, *what: answers.ask(peer, *what), open_ended=True),
            "bye": Verb(data, (), self._bye),
        }

    def said(self, peer: Peer, lane: Lane, command: list[Any], now: int) -> None:
        """FrameError for what is no verb, stands in the wrong lane, or takes something else."""
        name, *values = command
        verb = self._verbs.get(name)
        if verb is None or verb.lane is not lane:
            raise FrameError(f"expected a verb of lane {lane.value}, got {name[:80]!r}")
        given = values[: len(verb.types)] if verb.open_ended else values
        if len(given) != len(verb.types) or not all(map(isinstance, given, verb.types)):
            raise FrameError(f"expected {name} with {kinds(verb.types)}, got {kinds(map(type, values))}")
        if peer.connected or verb.last_words:
            verb.method(peer, now, *values)

    def _bind(self, peer: Peer, now: int, handle: int, kind: str, name: str, policy: str) -> None:
        if kind not in _KINDS or (kind == "group" and policy not in POLICIES):
            raise FrameError(f"expected a kind of {_KINDS} and a group's policy of {POLICIES}, got {kind!r}, {policy!r}")
        if handle not in peer.handles and len(peer.handles) >= limits.HANDLES:
            raise FrameError(f"expected at most {limits.HANDLES} handles; bind one of them anew")
        peer.handles[handle] = Binding(kind, _name(name), policy)

    def _credit(self, peer: Peer, now: int, messages: int, size: int) -> None:
        if not peer.allowance.grant(messages, size):
            raise FrameError(f"expected credit for no more than a window ahead, got {messages} messages and {size} bytes")
        self._hold.delivery.handled(peer)
        self._hold.delivery.pump(peer.entry, now)

    def _trap(self, peer: Peer, now: int, on: bool) -> None:
        peer.trap = on

    def _subscribe(self, peer: Peer, now: int, ref: int, pattern: str) -> None:
        try:
            peer.say("answer", ref, self._hold.events.subscribe(peer, ref, pattern))
        except TopicError as error:
            peer.say("refused", ref, "refused", str(error))

    def _join(self, peer: Peer, now: int, group: str) -> None:
        if len(self._hold.groups.of(peer.entry)) >= limits.GROUPS:
            raise FrameError(f"expected at most {limits.GROUPS} groups; leave some")
        self._hold.groups.join(_name(group), peer.entry)

    def _bye(self, peer: Peer, now: int) -> None:
        """It hears nothing any more; what it said before is carried out."""
        self._hold.delivery.closed(peer.entry, now)
        self._hold.calls.drop_caller(peer)


def _name(name: str) -> str:
    if not is_key(name):
        raise FrameError(f"expected a name of 1 to {MAX_KEY} bytes of UTF-8, got {name[:80]!r}")
    return name
