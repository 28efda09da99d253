"""The WebSocket upgrade without I/O: the request, and the check of the response."""

from __future__ import annotations

import base64

import pytest

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.upgrade import check_upgrade, make_key, upgrade_request
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
    assert request.head().decode().split("\r\n") == [
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
