"""What root keeps for a logger that may be killed at any time."""

from __future__ import annotations

from typing import Any

from otpd.supervisor.helpers import EVENTS_KEPT, Logger
from otpd.supervisor.loop import Loop


class Recorded(Logger):
    """A link to no process: what would be sent to one."""

    def __init__(self, loop: Loop) -> None:
        self.sent: list[Any] = []
        super().__init__(loop, lambda _fd: [], {}, lambda *_: None, lambda *_: None, lambda *_: None)

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        self.sent.append(value)


def test_a_new_logger_is_told_the_events_that_are_not_known_to_be_stored() -> None:
    loop = Loop()
    link = Recorded(loop)
    for number, word in enumerate("abc", 1):
        link.write_event({"event": word, "seq": number})
    link._packet(["stored", 2], [])
    link.sent.clear()
    link._up()
    assert link.sent == [["event", 3, {"event": "c", "seq": 3}]]
    loop._epoll.close()


def test_what_is_kept_is_bounded_and_its_numbers_go_on() -> None:
    loop = Loop()
    link = Recorded(loop)
    for number in range(1, EVENTS_KEPT + 11):
        link.write_event({"event": "x", "seq": number})
    link.sent.clear()
    link._up()
    assert [number for _, number, _ in link.sent] == list(range(11, EVENTS_KEPT + 11))
    loop._epoll.close()
