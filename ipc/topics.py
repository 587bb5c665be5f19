"""Topics: which subscriptions a topic meets.

A topic is words joined by dots. In a pattern `*` stands for one word, and `**`, at the end, for the rest: one word or more.

>>> matches("orders.*.cancelled", "orders.7.cancelled"), matches("orders.*", "orders.7.cancelled")
(True, False)
>>> matches("orders.**", "orders.7.items.3"), matches("orders.**", "orders")
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from otpd.ipc.wire import MAX_KEY, is_key

#: Words of a pattern or topic: bounds the work of one match.
MAX_WORDS = 32
#: Answers that are remembered; forgotten with each change.
_REMEMBERED = 4096

T = TypeVar("T")


class TopicError(ValueError):
    """What is wrong with a topic or pattern, what was expected, and how to write it."""


def words_of_topic(topic: str) -> list[str]:
    """TopicError for an empty word, a wildcard, or more than 32 words or 1024 bytes."""
    words = _words(topic, "topic")
    if "*" in topic:
        raise TopicError(f"expected a topic without wildcards, got {topic!r}; only patterns have * and **")
    return words


def words_of_pattern(pattern: str) -> list[str]:
    words = _words(pattern, "pattern")
    for index, word in enumerate(words):
        if word == "**" and index < len(words) - 1:
            raise TopicError(f"expected ** only as the last word, got {pattern!r}; write * for one word in the middle")
        if "*" in word and word not in ("*", "**"):
            raise TopicError(f"expected a wildcard to be a whole word, got {word!r} in {pattern!r}")
    return words


def _words(text: str, what: str) -> list[str]:
    words = text.split(".")
    if not all(words):
        raise TopicError(f"expected a {what} of words joined by dots, such as orders.created, got {text!r}")
    if len(words) > MAX_WORDS or not is_key(text):
        raise TopicError(f"expected a {what} of at most {MAX_WORDS} words and {MAX_KEY} bytes of UTF-8, got {text[:80]!r}")
    return words


def matches(pattern: str, topic: str) -> bool:
    """TopicError for a pattern that is none."""
    trie: Trie[bool] = Trie()
    trie.add(pattern, True)
    return bool(trie.find(topic))


class _Node(Generic[T]):
    __slots__ = ("below", "here", "rest")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.here: dict[T, None] = {}  # the pattern ends here
        self.rest: dict[T, None] = {}  # it ends with ** here

    @property
    def empty(self) -> bool:
        return not (self.below or self.here or self.rest)


class Trie(Generic[T]):
    """Patterns and who subscribed to them, in the order in which they came."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._found: dict[str, list[T]] = {}

    def add(self, pattern: str, who: T) -> None:
        node = self._root
        words = words_of_pattern(pattern)
        for word in words:
            if word == "**":
                node.rest[who] = None
                break
            node = node.below.setdefault(word, _Node())
        else:
            node.here[who] = None
        self._found.clear()

    def remove(self, pattern: str, who: T) -> None:
        """Harmless when it is not there."""
        self._remove(self._root, words_of_pattern(pattern), who)
        self._found.clear()

    def _remove(self, node: _Node[T], words: list[str], who: T) -> None:
        if not words:
            node.here.pop(who, None)
        elif words[0] == "**":
            node.rest.pop(who, None)
        elif (below := node.below.get(words[0])) is not None:
            self._remove(below, words[1:], who)
            if below.empty:
                del node.below[words[0]]

    def find(self, topic: str) -> list[T]:
        """Who subscribed to a pattern that the topic meets, once per pattern. TopicError for a topic that is none."""
        found = self._found.get(topic)
        if found is None:
            found = list(_walk(self._root, words_of_topic(topic), 0))
            if len(self._found) >= _REMEMBERED:
                self._found.clear()
            self._found[topic] = found
        return found

    @property
    def empty(self) -> bool:
        return self._root.empty


def _walk(node: _Node[T], words: list[str], at: int) -> Iterator[T]:
    if at == len(words):
        yield from node.here
        return
    yield from node.rest
    for word in (words[at], "*"):
        if (below := node.below.get(word)) is not None:
            yield from _walk(below, words, at + 1)


def is_reserved(topic: str, for_services: bool = False) -> bool:
    """What the broker tells of names, groups and keys is believed, so nobody else may say it; what else there is below
    "otpd" is told by the node's services, and what agents emit is theirs.

    >>> is_reserved("otpd.name.feed"), is_reserved("otpd.emit.shipped"), is_reserved("orders.new")
    (True, False, False)
    >>> is_reserved("otpd.name.feed", for_services=True), is_reserved("otpd.child.started", for_services=True)
    (True, False)
    """
    if not topic.startswith("otpd.") or topic.startswith("otpd.emit."):
        return False
    return not for_services or topic.startswith(("otpd.name.", "otpd.group.", "otpd.key."))
