"""Arguments and results as they cross: whole, by the shortest way, and without a descriptor that is left."""

from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpd.agents.errors import NotData
from otpd.agents.tasks.payload import INLINE, MSGPACK, PICKLE, Payload, decode, encode
from otpd.agents.tasks.wire import Wire

data = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5) | st.binary(max_size=5)
    | st.sampled_from((b"x" * INLINE, b"y" * (INLINE + 1), b"z" * 3 * INLINE)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@given(value=data, codec=st.sampled_from((MSGPACK, PICKLE)))
def test_what_is_sent_comes_out_and_no_descriptor_is_left(value: Any, codec: int) -> None:
    before = descriptors()
    sent = encode(value, codec)
    assert len(sent.fds) == (1 if sent.sizes else 0)
    assert len(sent.body) <= INLINE
    assert decode(sent, "value") == value
    assert descriptors() == before


@pytest.mark.parametrize("value", [bytearray(2 * INLINE), memoryview(b"m" * 2 * INLINE)])
def test_buffers_of_other_kinds_come_out_as_bytes(value: Any) -> None:
    assert decode(encode([value], MSGPACK), "value") == [bytes(value)]


def test_what_is_small_takes_no_memfd_and_what_is_large_does_not_lie_in_the_message() -> None:
    assert encode(b"x" * 1000, MSGPACK).fds == []
    sent = encode({"a": b"x" * (1 << 20), "b": "t" * (1 << 20)}, MSGPACK)
    assert (sent.body, len(sent.sizes)) == (b"", 2)
    assert [len(part) for part in decode(sent, "value").values()] == [1 << 20, 1 << 20]


def test_what_can_not_be_sent_is_named_and_leaves_nothing() -> None:
    before = descriptors()
    with pytest.raises(NotData, match=r"arguments, its value\[1\]: expected data, got set"):
        encode([b"x" * 2 * INLINE, {1}], MSGPACK, "arguments")
    with pytest.raises(NotData, match="can be pickled"):
        encode((n for n in ()), PICKLE)
    assert descriptors() == before


@pytest.mark.parametrize("sent", [Payload(MSGPACK, b"\xc1"), Payload(MSGPACK, b""), Payload(PICKLE, b"no")])
def test_what_is_no_payload_is_an_error(sent: Payload) -> None:
    with pytest.raises(ValueError, match="can't be read"):
        decode(sent, "the result of f")


def test_without_room_for_what_is_large_nothing_is_sent_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", full)
    with pytest.raises(NotData, match="argument: 100000 bytes can't be put into shared memory: Too many open files"):
        encode(b"x" * 100_000, MSGPACK)


def test_a_line_whose_descriptors_can_not_be_taken_is_wrong_and_keeps_none() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sender, wire = Wire(ours), Wire(theirs)
    sender.put(["run"], [os.dup(ours.fileno())])
    sender.flush()
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        taken = wire.take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (taken, len(os.listdir("/proc/self/fd"))) == (None, len(before))
    sender.close()
    wire.close()
