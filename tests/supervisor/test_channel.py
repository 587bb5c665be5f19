"""root's end of a channel: order, queue, bound, descriptors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from otpd.ipc.frames import channel_pair, close_all, receive_packet, send_packet
from otpd.supervisor import channel as channel_module
from otpd.supervisor.channel import Channel
from otpd.supervisor.loop import Loop


class Ends:
    """A channel in a loop, the peer's socket, and what was heard."""

    def __init__(self, bound: int = 10_000) -> None:
        self.loop = Loop()
        ours, self.peer = channel_pair()
        self.heard: list[Any] = []
        self.gone = 0
        self.channel = Channel(self.loop, ours, self.on_packet, self.on_gone, bound)

    def on_packet(self, value: Any, fds: list[int]) -> None:
        close_all(fds)
        self.heard.append(value)

    def on_gone(self) -> None:
        self.gone += 1

    def read_all(self) -> list[Any]:
        """What the peer gets, while the loop works off the queue."""
        self.peer.setblocking(False)
        values: list[Any] = []
        while True:
            try:
                packet = receive_packet(self.peer)
            except BlockingIOError:
                if not self.channel._queue:
                    return values
                self.loop.step()
                continue
            assert packet is not None
            close_all(packet[1])
            values.append(packet[0])


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = len(os.listdir("/proc/self/fd"))
    made = Ends()
    yield made
    made.channel.close()
    made.peer.close()
    made.loop._epoll.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_what_the_peer_cannot_take_is_kept_in_order(ends: Ends) -> None:
    for number in range(5000):
        ends.channel.send([number, "x" * 200])
    assert [value[0] for value in ends.read_all()] == list(range(5000))


def test_descriptors_that_wait_are_duplicates(ends: Ends) -> None:
    filler = 0
    while not ends.channel._queue:
        ends.channel.send("x" * 1000)
        filler += 1
    reader, writer = os.pipe()
    ends.channel.send(["open"], (reader,))
    os.close(reader)
    os.close(writer)
    assert ends.read_all()[-1] == ["open"]


def test_packets_with_descriptors_that_wait_are_counted(ends: Ends) -> None:
    while not ends.channel.full:
        ends.channel.send("x" * 1000)
    reader, writer = os.pipe()
    ends.channel.send(["open"], (reader, writer))
    ends.channel.send(["open"], (reader,))
    assert ends.channel.holds == 2
    os.close(reader)
    os.close(writer)
    ends.read_all()
    assert ends.channel.holds == 0


def test_without_a_free_descriptor_a_packet_is_refused_and_nothing_of_it_stays(ends: Ends) -> None:
    while not ends.channel.full:
        ends.channel.send("x" * 1000)
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ends.channel.send(["open"], (reader, -1))
    os.close(reader)
    assert ends.channel.holds == 0
    assert "open" not in ends.read_all()


def test_too_many_descriptors_on_their_way_are_told_and_end_nobody(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    while not ends.channel.full:
        ends.channel.send("x" * 1000)
    ends.channel.send(["waits"], (reader,))

    def refuse(sock: Any, value: Any, fds: Any = ()) -> None:
        if fds:
            raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")
        send_packet(sock, value)

    monkeypatch.setattr(channel_module, "send_packet", refuse)
    assert ["waits"] not in ends.read_all()
    with pytest.raises(OSError, match="Too many references"):
        ends.channel.send(["at once"], (reader,))
    assert (ends.channel.full, ends.channel.holds) == (False, 0)
    close_all((reader, writer))


def test_who_goes_on_sending_while_it_is_drained_is_not_waited_for(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a dead worker has forked has its channel, too, and may flood it."""

    def on_packet(number: Any, _fds: list[int]) -> None:
        assert number < 10_000, "root would never come back from this"
        send_packet(ends.peer, number + 1)

    monkeypatch.setattr(ends.channel, "_on_packet", on_packet)
    for _ in range(2):
        send_packet(ends.peer, 0)
    ends.channel.drain()
    assert ends.channel.open


def test_over_the_bound_packets_are_dropped_and_that_is_told_once_when_there_is_room() -> None:
    ends = Ends(bound=10)
    told: list[int] = []
    ends.channel.on_dropped = told.append
    for number in range(10_000):
        ends.channel.send([number, "x" * 200])
    assert told == []
    got = ends.read_all()
    assert told == [10_000 - len(got)]
    assert got == [[number, "x" * 200] for number in range(len(got))], "what was kept is the oldest, in order"
    ends.channel.send("more")
    assert (ends.read_all(), told) == (["more"], [10_000 - len(got)])
    ends.channel.close()
    ends.peer.close()
    ends.loop._epoll.close()


def test_who_has_more_to_say_is_called_when_there_is_room(ends: Ends) -> None:
    said, called = 0, []
    while not ends.channel.full:
        ends.channel.send([said, "x" * 200])
        said += 1
    ends.channel.on_room = lambda: called.append(ends.channel.full)
    assert called == []
    assert [value[0] for value in ends.read_all()] == list(range(said))
    assert called == [False]


def test_the_end_of_the_peer_is_told_once(ends: Ends) -> None:
    send_packet(ends.peer, ["last words"])
    ends.peer.close()
    ends.channel.drain()
    assert (ends.heard, ends.gone, ends.channel.open) == ([["last words"]], 1, False)
    ends.channel.send(["to nobody"])


def test_rubbish_ends_the_channel(ends: Ends) -> None:
    ends.peer.send(b"\xc1")
    ends.channel.drain()
    assert (ends.heard, ends.gone) == ([], 1)


def test_drain_takes_all_that_is_there(ends: Ends) -> None:
    for number in range(150):
        send_packet(ends.peer, number)
    ends.channel.drain()
    assert ends.heard == list(range(150))


def test_what_a_peer_has_said_is_heard_though_it_ends_with_something_unread(ends: Ends) -> None:
    """The kernel reports such an end before the packets that came ahead of it: last words would be lost."""
    ends.channel.send(["stop", "shutdown"])
    send_packet(ends.peer, ["traceback", "of its end"])
    send_packet(ends.peer, ["exit", "error(ValueError: x)"])
    ends.peer.close()
    ends.channel.drain()
    assert (ends.heard, ends.gone) == ([["traceback", "of its end"], ["exit", "error(ValueError: x)"]], 1)
