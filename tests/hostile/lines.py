"""Servers that speak in lines: floods of lines and lines without end, against dialogues."""

from __future__ import annotations

from collections.abc import Iterator

from tests.hostile.cases import SHORT_SECONDS, TIMED_OUT, Case, Clients, Drip, Flood, Hear, Make, against, ends
from tests.hostile.peers import tcp

_ENDS = TIMED_OUT | ends(
    "dialogue_no_match",
    "dialogue_line_too_long",
    "dialogue_closed",
    "dialogue_bytes_mismatch",
    "dialogue_label_invalid",
)
_EXPECT = {"query_response": [{"expect": "(y+y+)+z"}]}
_BYTES = {"query_response": [{"send_bytes": "a", "expect_bytes": "bcdefgh"}]}

CLIENTS: Clients = {
    "tcp": {"settings": _EXPECT, "ends": _ENDS, "timeout": SHORT_SECONDS},
    "tcp with a prompt": {
        "settings": {"query_response": [{"expect": "(y+y+)+z", "expect_prompt": True}]},
        "ends": _ENDS,
        "timeout": SHORT_SECONDS,
    },
    "tcp with STARTTLS": {
        "settings": {
            "query_response": [{"expect": "^x"}, {"starttls": True}],
            "tls_config": {"insecure_skip_verify": True},
        },
        "ends": _ENDS | {"tls_handshake"},
        "timeout": SHORT_SECONDS,
    },
    "unix": {"target": "{path}", "settings": _EXPECT, "ends": _ENDS, "timeout": SHORT_SECONDS},
}

PEERS: dict[str, Make] = {
    "a flood of empty lines": lambda: [Flood(b"\n")],
    "a flood of lines": lambda: [Flood(b"y\r\n")],
    "a flood of lines of 60 KB": lambda: [Flood(b"y" * 60_000 + b"\r\n")],
    "a line without end": lambda: [Flood(b"y" * 65536)],
    "a line of 60 KB in segments of a byte": lambda: [Flood(b"y", 60_000)],
    "zeros": lambda: [Flood(bytes(65536))],
    "invalid UTF-8": lambda: [Flood(b"\xff\xfe\n")],
    "a line byte by byte": lambda: [Drip(b"y", 0.005)],
    "an answer and then a flood": lambda: [Hear(b"a"), Flood(b"bcdefg\n")],
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    for name, client in CLIENTS.items():
        for peer, make in PEERS.items():
            start = tcp(make, unix=name == "unix", piece=1 if "segments" in peer else 0)
            yield from against({name: client}, {peer: {"start": start}})
