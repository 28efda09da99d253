"""WebSocket servers: floods of frames and large messages, against the websocket prober."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.cases import MEBIBYTE, SHORT_SECONDS, TIMED_OUT, Case, Clients, Flood, Make, Upgrade, against, ends
from tests.hostile.peers import tcp
from tests.targets.websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, frame

CLIENTS: Clients = {
    "websocket": {
        "target": "ws://127.0.0.1:{port}/",
        "settings": {"query_response": [{"expect": "(y+y+)+z"}, {"expect": "y"}]},
        "timeout": 2 * SHORT_SECONDS,
        "ends": TIMED_OUT
        | ends(
            "websocket_protocol_error", "websocket_message_too_large", "websocket_closed", "dialogue_no_match",
            "dialogue_label_invalid",
        ),
        "memory": 128 * MEBIBYTE,
    }
}  # fmt: skip

PEERS: dict[str, Make] = {
    "a flood of pings": lambda: [Upgrade(), Flood(frame(b"", PING))],
    "a flood of pings with payload": lambda: [Upgrade(), Flood(frame(b"x" * 125, PING))],
    "a flood of pongs": lambda: [Upgrade(), Flood(frame(b"", PONG))],
    "empty fragments": lambda: [Upgrade(), frame(b"", TEXT, fin=False), Flood(frame(b"", CONTINUATION, fin=False))],
    "fragments of a byte": lambda: [
        Upgrade(),
        frame(b"", TEXT, fin=False),
        Flood(frame(b"x", CONTINUATION, fin=False)),
    ],
    "empty messages": lambda: [Upgrade(), Flood(frame(b"", TEXT))],
    "a message of 15 MiB": lambda: [Upgrade(), frame(b"y" * (15 * MEBIBYTE), TEXT)],
    "a message of 15 MiB of invalid UTF-8": lambda: [Upgrade(), frame(b"y" * (14 * MEBIBYTE) + b"\xff", TEXT)],
    "bytes of 15 MiB": lambda: [Upgrade(), frame(b"y" * (15 * MEBIBYTE), BINARY)],
    "a message of 2^63 bytes": lambda: [Upgrade(), frame(b"", TEXT, size=(1 << 63) - 1), Flood(b"x" * 65536)],
    "masked frames": lambda: [Upgrade(), frame(b"x", TEXT, mask=b"abcd"), Flood(b"x" * 65536)],
    "garbage": lambda: [Upgrade(), Flood(b"\xff" * 65536)],
    "a flood of closes": lambda: [Upgrade(), Flood(close())],
    "a close of 100 KB": lambda: [Upgrade(), frame(b"\3\xe8" + b"x" * 100_000, CLOSE)],
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, {peer: {"start": tcp(make)} for peer, make in PEERS.items()})
