"""Split a stream into HTTP/2 frames, however it is cut, and refuse invalid frames by their head."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.http import frames
from probe_exporter.protocols.http.frames import FrameReader, Violation
from tests.targets import http2

Frame = tuple[int, int, int, bytes]


def read(data: bytes, reader: FrameReader | None = None) -> list[Frame]:
    """Return the frames that are complete once `data` has arrived."""
    reader = reader or FrameReader()
    reader.feed(data)
    return list(iter(reader.next, None))


FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**31 - 1), st.binary(max_size=100)), max_size=8
)


@given(sent=FRAMES, places=st.lists(st.integers(0, 900)))
def test_frames_are_read_back_however_they_are_cut(sent: list[tuple[int, int, int, bytes]], places: list[int]) -> None:
    data = b"".join(frames.frame(*one) for one in sent)
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    reader = FrameReader()
    assert [one for start, end in pairwise(edges) for one in read(data[start:end], reader)] == sent


def test_frame_layout_follows_the_rfc() -> None:
    """Section 4.1: 24 bits of length, 8 of type, 8 of flags, a reserved one, 31 of the stream id."""
    assert frames.frame(frames.DATA, frames.END_STREAM, 5, b"ab") == b"\x00\x00\x02\x00\x01\x00\x00\x00\x05ab"
    assert frames.frame(0xFA, 0xFF, 2**31 - 1, b"x" * 258)[:9] == b"\x00\x01\x02\xfa\xff\x7f\xff\xff\xff"


def test_reserved_bit_is_ignored() -> None:
    assert read(b"\x00\x00\x00\x04\x00\x80\x00\x00\x00") == [(frames.SETTINGS, 0, 0, b"")]


def test_frame_size_limit_is_inclusive() -> None:
    largest = http2.frame(http2.DATA, b"x" * 16384, stream=1)
    assert [payload for *_, payload in read(largest)] == [b"x" * 16384]
    with pytest.raises(Violation, match="16385 bytes") as refused:
        read(http2.frame(http2.DATA, b"", stream=1, length=16385))
    assert refused.value.code is frames.Code.FRAME_SIZE_ERROR
    assert refused.value.reason is Reason.HTTP_PROTOCOL_ERROR


def test_http1_answer_is_reported_as_http1() -> None:
    with pytest.raises(Violation, match="answers in HTTP/1"):
        read(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_settings_are_read_back() -> None:
    values = {frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: 2**31 - 1}
    [(kind, _, stream, payload)] = read(frames.settings(values))
    assert (kind, stream) == (frames.SETTINGS, 0)
    assert dict(frames.read_settings(payload)) == values


@pytest.mark.parametrize(
    ("code", "words"), [(0, "NO_ERROR"), (11, "ENHANCE_YOUR_CALM"), (13, "HTTP_1_1_REQUIRED"), (99, "error 99")]
)
def test_error_code_is_described_in_words(code: int, words: str) -> None:
    assert frames.describe(code) == words
