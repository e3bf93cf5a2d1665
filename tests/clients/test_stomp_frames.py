"""Where frames end, however their bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poller.clients.stomp_frames import Incoming, Unreadable

bodies = st.binary(max_size=40)
breaks = st.sampled_from([b"", b"\n", b"\n\n", b"\r\n", b"\n\r\n\n"])


def framed(body: bytes, ending: bytes) -> bytes:
    return b"MESSAGE" + ending + b"content-length:%d" % len(body) + ending * 2 + body + b"\0"


def all_of(incoming: Incoming) -> list[bytes]:
    found = []
    while (frame := incoming.take()) is not None:
        found.append(frame)
    return [frame for frame in found if frame != b"\n"]


@given(st.lists(st.tuples(bodies, breaks, st.sampled_from([b"\n", b"\r\n"]))), st.lists(st.integers(1, 30), min_size=1))
def test_frames_with_a_length_come_out_as_they_went_in_wherever_they_are_cut(
    parts: list[tuple[bytes, bytes, bytes]], sizes: list[int]
) -> None:
    frames = [framed(body, ending) for body, _, ending in parts]
    stream = b"".join(frame + between for frame, (_, between, _) in zip(frames, parts, strict=True))
    incoming, found, at, turn = Incoming(10_000), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        incoming.add(stream[at : at + size])
        found += all_of(incoming)
        at, turn = at + size, turn + 1
    assert found == frames


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_frames_without_a_length_end_at_the_first_nul(size: int) -> None:
    stream = b"RECEIPT\nreceipt-id:1\n\n\0\nERROR\nmessage:x\n\ntrace\nof it\0\0"
    incoming, found = Incoming(1000), []
    for at in range(0, len(stream) - 1, size):
        incoming.add(stream[at : min(at + size, len(stream) - 1)])
        found += all_of(incoming)
    assert found == [b"RECEIPT\nreceipt-id:1\n\n\0", b"ERROR\nmessage:x\n\ntrace\nof it\0"]


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"GARBAGE\0",
        b"MESSAGE\ncontent-length:x\n\nabc\0",
        b"MESSAGE\ncontent-length:-1\n\nabc\0",
        b"MESSAGE\ncontent-length:9999999999999\n\nabc\0",
        b"MESSAGE\ncontent-length:2\n\nabc\0",
        b"X" * 65536,
    ],
)
def test_what_is_no_frame_is_not_waited_for(data: bytes) -> None:
    incoming = Incoming(1_000_000)
    incoming.add(data)
    with pytest.raises(Unreadable):
        incoming.take()


@pytest.mark.parametrize("data", [b"MESSAGE\ncontent-length:2000\n\nabc", b"MESSAGE\na:b\n\n" + b"x" * 2000])
def test_a_frame_that_is_too_large_is_told_before_it_is_there(data: bytes) -> None:
    incoming = Incoming(1000)
    incoming.add(data)
    with pytest.raises(Unreadable):
        incoming.take()
    assert incoming.oversized
