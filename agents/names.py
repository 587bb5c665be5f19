"""Names, groups, keys and topics, checked where they are said: the broker would count what is none as a strike.

>>> names = Names()
>>> names.address("inventory")
Address(name='inventory', kind='name', policy='', key=None)
>>> names.topic("orders.*")
Traceback (most recent call last):
    ...
otpd.agents.errors.BadArguments: publish: expected a topic without wildcards, got 'orders.*'; only patterns have * and **
"""

from __future__ import annotations

from typing import Any, Final

from otpd.agents.errors import BadArguments
from otpd.ipc.endpoint import Address
from otpd.ipc.topics import TopicError, is_reserved, words_of_topic
from otpd.ipc.wire import MAX_KEY, is_key

#: How many are remembered.
_KNOWN: Final = 4096


class Names:
    """Remembers those that are well formed, so that a message costs no more than a look."""

    def __init__(self) -> None:
        self._topics: set[str] = set()
        self._addresses: dict[str, Address] = {}

    def address(self, to: str | Address) -> Address:
        """TypeError for what is no address, ValueError for a text that is no name."""
        if isinstance(to, str):
            found = self._addresses.get(to)
            return self._remember(to) if found is None else found
        if isinstance(to, Address):
            return to
        raise TypeError(f"expected the name of an agent, self.group(...) or self.via(...), got {to!r}")

    def _remember(self, to: str) -> Address:
        if len(self._addresses) >= _KNOWN:
            self._addresses.clear()
        return self._addresses.setdefault(to, Address(checked("name", to)))

    def topic(self, topic: str) -> None:
        """BadArguments for a text that is no topic."""
        if topic in self._topics:
            return
        try:
            words_of_topic(topic)
        except (TopicError, AttributeError) as error:
            raise BadArguments(f"publish: {error}") from None
        if len(self._topics) >= _KNOWN:
            self._topics.clear()
        self._topics.add(topic)

    def own_topic(self, topic: str) -> None:
        """BadArguments for one that is not the publisher's to say, too: the broker would drop what is published on it."""
        self.topic(topic)
        if is_reserved(topic):
            raise BadArguments(f"publish: {topic}: what begins with otpd. is told by the node; take another topic, or emit")


def checked(what: str, name: Any) -> str:
    """A name, group or key is a text of 1 to 1024 bytes of UTF-8; `what` it is for, in the TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"{what}: expected a text, got {name!r}")
    if not is_key(name):
        shown = f"{name[:50]!r} ({len(name)} characters)"
        raise ValueError(f"{what}: expected a text of 1 to {MAX_KEY} bytes of UTF-8, got {shown}")
    return name
