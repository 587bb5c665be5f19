"""Frames and packets."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpd.ipc.frames import (
    PACKET_LIMIT,
    FrameError,
    FrameReader,
    channel_pair,
    close_all,
    pack_frame,
    receive_packet,
    send_packet,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100)
@given(st.lists(VALUES, max_size=5), st.lists(st.integers(1, 20), min_size=1))
def test_values_survive_whatever_the_chunks_are(values: list[object], sizes: list[int]) -> None:
    stream = b"".join(map(pack_frame, values))
    reader, got, turn = FrameReader(limit=1 << 20), [], 0
    while stream:
        size = sizes[turn % len(sizes)]
        got += reader.feed(stream[:size])
        stream, turn = stream[size:], turn + 1
    assert got == values
    assert reader.pending == 0


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_rubbish_is_a_frame_error_or_waits_and_nothing_else(data: bytes) -> None:
    try:
        FrameReader(limit=100).feed(data)
    except FrameError:
        pass


def test_a_length_over_the_limit_is_refused_before_its_body_comes() -> None:
    with pytest.raises(FrameError, match="expected a frame of at most 100 bytes, got a length of 1073741824"):
        FrameReader(limit=100).feed((1 << 30).to_bytes(4, "big"))


def test_a_packet_carries_its_descriptors_close_on_exec() -> None:
    ours, theirs = channel_pair()
    reader, writer = os.pipe()
    with ours, theirs:
        send_packet(ours, ["open", "a", 1], (reader,))
        packet = receive_packet(theirs)
        assert packet is not None
        value, fds = packet
        assert value == ["open", "a", 1]
        os.write(writer, b"x")
        assert os.read(fds[0], 1) == b"x"
        assert not os.get_inheritable(fds[0])
        close_all([*fds, reader, writer])


def test_the_end_of_the_peer_is_none() -> None:
    ours, theirs = channel_pair()
    theirs.close()
    with ours:
        assert receive_packet(ours) is None


def test_what_a_peer_has_said_is_received_though_it_ends_with_something_unread() -> None:
    """The kernel reports such an end before the packets that came ahead of it: the outcome of a command would be lost."""
    ours, theirs = channel_pair()
    send_packet(ours, "unread")
    send_packet(theirs, "done")
    theirs.close()
    assert (receive_packet(ours), receive_packet(ours)) == (("done", []), None)
    ours.close()


def test_a_packet_of_the_limit_fits_into_the_socket() -> None:
    ours, theirs = channel_pair()
    with ours, theirs:
        ours.setblocking(False)
        send_packet(ours, b"x" * (PACKET_LIMIT - 10))
        assert receive_packet(theirs) == (b"x" * (PACKET_LIMIT - 10), [])


def test_rubbish_in_a_packet_closes_the_descriptors_that_came_with_it() -> None:
    ours, theirs = channel_pair()
    before = len(os.listdir("/proc/self/fd"))
    with ours, theirs:
        reader, writer = os.pipe()
        socket.send_fds(ours, [b"\xc1"], [reader])
        os.close(reader)
        with pytest.raises(FrameError):
            receive_packet(theirs)
        os.close(writer)
        assert len(os.listdir("/proc/self/fd")) == before
