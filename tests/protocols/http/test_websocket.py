"""WebSocket messages without I/O; the test makes the server's frames."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.http.pieces import Pieces
from probe_exporter.protocols.http.websocket import MAX_MESSAGE_BYTES, TURN_FRAMES, Conversation
from tests.targets.websocket import BINARY, CONTINUATION, PING, close, frame


def whole(message: bytes | Pieces) -> bytes:
    return message if isinstance(message, bytes) else asyncio.run(message.joined())


def messages(conversation: Conversation, *pieces: bytes) -> list[bytes]:
    """Return all messages in some data that is fed piece by piece."""
    found = []
    for piece in pieces:
        conversation.feed(piece)
        while (message := conversation.next()) is not None or not conversation.needs_data:
            if message is not None:
                found.append(whole(message))
    return found


SAID = (
    frame(b"one") + frame(b"", BINARY) + frame(b"?", PING) + frame(b"t", fin=False)
    + frame(b"w", CONTINUATION, fin=False) + frame(b"!", PING) + frame(b"o", CONTINUATION) + frame(b"x" * 300)
)  # fmt: skip
HEARD = [b"one", b"", b"two", b"x" * 300]


def test_messages_do_not_depend_on_how_the_data_is_cut() -> None:
    assert messages(Conversation(), SAID) == HEARD
    assert messages(Conversation(), *(bytes([byte]) for byte in SAID)) == HEARD
    for cut in range(1, len(SAID)):
        assert messages(Conversation(), SAID[:cut], SAID[cut:]) == HEARD


@given(st.lists(st.tuples(st.binary(max_size=12_000), st.integers(1, 5)), max_size=8), st.integers(1, 9000))
def test_messages_are_joined_from_any_fragments(spoken: list[tuple[bytes, int]], step: int) -> None:
    data = b""
    for payload, count in spoken:
        cuts = [len(payload) * at // count for at in range(count + 1)]
        for number, (start, end) in enumerate(pairwise(cuts)):
            data += frame(payload[start:end], BINARY if number == 0 else CONTINUATION, fin=number == count - 1)
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert messages(Conversation(), *pieces) == [payload for payload, _ in spoken]


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_are_messages_or_a_failure(data: bytes) -> None:
    """Any bytes give messages, a failure, or a wait for more."""
    conversation = Conversation()
    messages(conversation, data)
    conversation.feed(b"")
    failure = conversation.failure
    assert failure is not None
    assert failure.reason.startswith("websocket_")


def test_messages_before_a_failure_are_returned_first() -> None:
    conversation = Conversation()
    conversation.feed(frame(b"one") + frame(b"two") + close(1001))
    for expected in (b"one", b"two"):
        message = conversation.next()
        assert message is not None
        assert whole(message) == expected
    assert conversation.next() is None
    assert conversation.failure is not None
    assert conversation.failure.fields == {"code": 1001, "close_reason": ""}


def test_connection_end_without_close_frame_fails_differently() -> None:
    rude, polite = Conversation(), Conversation()
    rude.feed(b"")
    assert messages(polite, close(1000, "done"), b"") == []
    assert rude.failure is not None
    assert polite.failure is not None
    assert rude.failure.reason is polite.failure.reason is Reason.WEBSOCKET_CLOSED
    assert "done" in polite.failure.message


@pytest.mark.slow
def test_message_size_limit_counts_all_fragments() -> None:
    """The limit applies to all fragments together; an announced length is enough to fail."""
    half = b"x" * (MAX_MESSAGE_BYTES // 2)
    largest, larger, announced, at_once = Conversation(), Conversation(), Conversation(), Conversation()
    assert messages(largest, frame(half, fin=False), frame(half, CONTINUATION)) == [half + half]
    assert messages(larger, frame(half, fin=False), frame(half + b"x", CONTINUATION)) == []
    assert messages(announced, frame(b"", size=MAX_MESSAGE_BYTES + 1)) == []
    assert messages(at_once, frame(half + half + b"x")) == []
    for conversation in (larger, announced, at_once):
        assert conversation.failure is not None
        assert conversation.failure.reason is Reason.WEBSOCKET_MESSAGE_TOO_LARGE


def test_one_turn_reads_a_limited_number_of_frames() -> None:
    conversation = Conversation()
    conversation.feed(frame(b"", PING) * (TURN_FRAMES + 1))
    assert conversation.next() is None
    assert len(conversation.outgoing()) == TURN_FRAMES * 6
    assert not conversation.needs_data


@pytest.mark.parametrize(("data", "answer"), [(close(1000), 0x88), (frame(b"x", reserved=1), 0x88)])
def test_nothing_is_sent_after_a_close_frame(data: bytes, answer: int) -> None:
    conversation = Conversation()
    messages(conversation, data)
    assert conversation.outgoing()[0] == answer
    conversation.say(b"too late")
    conversation.send(b"too late")
    conversation.close()
    assert conversation.outgoing() == b""


def test_frames_are_masked_with_a_new_key_each_time() -> None:
    """RFC 6455, section 5.3: otherwise a script could choose the bytes that a proxy sees."""
    conversation = Conversation()
    sent = set()
    for _ in range(10):
        conversation.say(b"the same")
        sent.add(conversation.outgoing())
    assert len(sent) == 10
    assert all(data[1] & 0x80 and b"the same" not in data for data in sent)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 100_000])
def test_messages_are_written_and_read_as_the_library_does(size: int) -> None:
    """Before the library is made, and after an event that needs it: a ping."""
    payload = bytes(range(256)) * 400
    before, after = Conversation(), Conversation()
    messages(after, frame(b"", PING))
    after.outgoing()
    for conversation in (before, after):
        server = Protocol(SERVER, max_size=None)
        conversation.say(payload[:size])
        conversation.send(payload[:size])
        conversation.close()
        server.receive_data(conversation.outgoing())
        assert [
            (one.opcode, one.fin, bytes(one.data)) for one in server.events_received() if isinstance(one, Frame)
        ] == [
            (Opcode.TEXT, True, payload[:size]),
            (Opcode.BINARY, True, payload[:size]),
            (Opcode.CLOSE, True, b"\x03\xe8"),
        ]
        conversation.say(b"too late")
        conversation.close()
        assert conversation.outgoing() == b""
        assert messages(conversation, frame(payload[:size], BINARY)) == [payload[:size]]


def test_masked_frame_of_a_server_is_an_error_whether_it_is_the_first_or_not() -> None:
    """A server must not mask its frames (RFC 6455, 5.1)."""
    masked = bytes((0x81, 0x85)) + bytes(4) + b"hello"
    for before in (b"", frame(b"one"), frame(b"", PING)):
        conversation = Conversation()
        assert messages(conversation, before + masked) == ([b"one"] if before == frame(b"one") else [])
        assert conversation.failure is not None
        assert conversation.failure.reason is Reason.WEBSOCKET_PROTOCOL_ERROR
