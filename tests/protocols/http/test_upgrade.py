"""The WebSocket upgrade without I/O: the request, and the check of the response."""

from __future__ import annotations

import base64

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.upgrade import after_plain_upgrade, check_upgrade, make_key, upgrade_request
from probe_exporter.protocols.http.url import parse

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ANSWER = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The example of RFC 6455, section 1.3."""


def response(head: str) -> Http1ResponseReader:
    """Return a response with this head, as read from a connection."""
    reader = Http1ResponseReader("GET")
    reader.feed(head.replace("\n", "\r\n").encode())
    assert reader.head_complete
    return reader


def test_upgrade_accepts_the_example_of_the_rfc() -> None:
    check_upgrade(
        response(
            "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\n"
            f"Sec-WebSocket-Accept: {ANSWER}\nSec-WebSocket-Protocol: chat\n\n"
        ),
        KEY,
    )


def test_frames_that_come_with_the_head_are_kept() -> None:
    reader = response(
        f"HTTP/1.1 101 x\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Accept: {ANSWER}\n\n\x01"
    )
    assert reader.take_body() == b"\x01"


@pytest.mark.parametrize(
    ("head", "reason", "fields"),
    [
        ("HTTP/1.1 200 OK\n\n", Reason.WEBSOCKET_UPGRADE_REFUSED, {"status_code": 200}),
        (
            "HTTP/1.1 302 Found\nLocation: wss://elsewhere/\n\n",
            Reason.WEBSOCKET_UPGRADE_REFUSED, {"status_code": 302, "location": "wss://elsewhere/"},
        ),
        ("HTTP/1.1 101 x\n\n", Reason.WEBSOCKET_HANDSHAKE_INVALID, {}),
        (
            f"HTTP/1.1 101 x\nUpgrade: websocket\nConnection: upgrades\nSec-WebSocket-Accept: {ANSWER}\n\n",
            Reason.WEBSOCKET_HANDSHAKE_INVALID, {},
        ),
        (
            "HTTP/1.1 101 x\nUpgrade: websocket\nConnection: upgrade\nSec-WebSocket-Accept: x\n\n",
            Reason.WEBSOCKET_HANDSHAKE_INVALID, {},
        ),
    ],
)  # fmt: skip
def test_refused_upgrade_reports_what_came(head: str, reason: Reason, fields: dict[str, object]) -> None:
    with pytest.raises(ProbeFailed) as failed:
        check_upgrade(response(head), KEY)
    assert failed.value.reason is reason
    assert failed.value.fields == fields


def test_upgrade_key_is_sixteen_random_bytes() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.b64decode(key)) for key in keys} == {16}


def test_upgrade_request_to_the_byte() -> None:
    given = [("Origin", "http://a"), ("X", "1"), ("x", "2"), ("user-agent", "me"), ("host", "b.test")]
    request = upgrade_request(parse("http://a.test:81/chat?x=1"), KEY, given, "Bearer t")
    assert request.host == "b.test"
    assert request.head.decode().split("\r\n") == [
        "GET /chat?x=1 HTTP/1.1",
        "Host: b.test",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        "Authorization: Bearer t",
        "Origin: http://a",
        "X: 1",
        "x: 2",
        "user-agent: me",
        "",
        "",
    ]


@pytest.mark.parametrize("name", ["Upgrade", "CONNECTION", "Sec-WebSocket-Key", "sec-websocket-version", "a b", ""])
def test_upgrade_header_that_can_not_be_sent_fails(name: str) -> None:
    with pytest.raises(ProbeFailed) as failed:
        upgrade_request(parse("http://a.test/"), KEY, [(name, "x")], "")
    assert failed.value.reason is Reason.SETTINGS_UNUSABLE


PLAIN = [
    "HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {ANSWER}",
]  # fmt: skip
UNUSUAL = {
    "another version": ["HTTP/1.0 101 x", *PLAIN[1:]],
    "another status": ["HTTP/1.1 200 OK", *PLAIN[1:]],
    "a body": [*PLAIN, "Content-Length: x"],
    "a coding": [*PLAIN, "Transfer-Encoding: x"],
    "a folded line": [*PLAIN, "X: a", " b"],
    "a header twice": [*PLAIN, "Upgrade: websocket"],
    "no header": PLAIN[:1],
    "no answer": PLAIN[:3],
    "a wrong answer": [*PLAIN[:3], f"Sec-WebSocket-Accept: {ANSWER.lower()}"],
    "an answer twice": [*PLAIN, f"sec-websocket-accept: {ANSWER}"],
    "the answer in another header before": [PLAIN[0], f"X: {ANSWER}", *PLAIN[1:]],
    "the answer in another header only": [*PLAIN[:3], "Sec-WebSocket-Accept: \0", f"X: {ANSWER}"],
    "several options": [*PLAIN[:2], "Connection: keep-alive, Upgrade", PLAIN[3]],
    "another protocol": [PLAIN[0], "Upgrade: h2c", *PLAIN[2:]],
    "a space before the colon": [*PLAIN, "X : a"],
    "a control character": [*PLAIN, "X: \x01"],
    "bytes beyond ASCII": [*PLAIN, "X: \xe9"],
    "a line feed alone": [*PLAIN, "X: a\nY: b"],
    "a carriage return alone": [*PLAIN, "X: a\rY: b"],
    "a line without a colon": [*PLAIN, "X"],
    "a header without a name": [*PLAIN, ": x"],
    "a large head": [*PLAIN, f"X: {'x' * 5000}"],
}


@pytest.mark.parametrize("name", ["Upgrade", "UPGRADE", "upgrade"])
@pytest.mark.parametrize("rest", [b"", b"\x81\x01x", b"\r\n\r\n"])
def test_plain_upgrade_is_recognised_with_the_bytes_after_it(name: str, rest: bytes) -> None:
    lines = [PLAIN[0], f"{name}: WebSocket", *PLAIN[2:], "Server: a test/1.0", "X-2: "]
    data = "\r\n".join([*lines, "\r\n"]).encode() + rest
    assert after_plain_upgrade(data, KEY) == rest
    reader = Http1ResponseReader("GET")
    reader.feed(data)
    check_upgrade(reader, KEY)
    assert reader.take_body() == rest


@pytest.mark.parametrize("lines", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_upgrade_is_left_to_the_reader_of_all_responses(lines: list[str]) -> None:
    assert after_plain_upgrade("\r\n".join([*lines, "\r\n"]).encode(), KEY) is None


def test_plain_upgrade_is_recognised_in_one_piece_only() -> None:
    data = "\r\n".join([*PLAIN, "\r\n"]).encode()
    assert [after_plain_upgrade(data[:size], KEY) for size in range(len(data))] == [None] * len(data)
    assert after_plain_upgrade(data, make_key()) is None
