"""HTTP/3 servers: garbage over UDP, and floods of frames over QUIC, against the http prober."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.hostile.cases import (
    MEBIBYTE,
    SHORT_SECONDS,
    SUCCESS,
    TIMED_OUT,
    Case,
    Clients,
    Flood,
    Make,
    Open,
    against,
    ends,
)
from tests.hostile.peers import udp
from tests.targets import Site, http3
from tests.targets.answers import Answer, Part, Repeat

CLIENTS: Clients = {
    "http": {
        "target": "https://127.0.0.1:{port}/",
        "settings": {"enable_http3": True, "enable_http2": False, "tls_config": {"insecure_skip_verify": True}},
        "timeout": 2 * SHORT_SECONDS,
        "ends": TIMED_OUT
        | ends(
            "http_protocol_error", "http_headers_too_large", "http_body_truncated", "tls_handshake", "connect_failed"
        )
        | {SUCCESS, "connect_closed", "connect_refused"},
        "memory": 64 * MEBIBYTE,
    }
}


def _site(quic: Callable[[], http3.Quic], page: Callable[[], Answer]) -> Open:
    """Return a server that speaks QUIC, on an event loop in a thread."""

    @contextlib.contextmanager
    def start(pki: Path) -> Iterator[Mapping[str, str]]:
        ready, end, ports = threading.Event(), asyncio.Event(), {}
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            answers = {"/": page()}
            async with Site(answers, pki=pki, quic=quic()) as site:
                loops.append(asyncio.get_running_loop())
                ports["port"] = str(site["quic_port"])
                ready.set()
                await end.wait()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        ready.wait()
        yield ports
        loops[0].call_soon_threadsafe(end.set)
        thread.join()

    return start


def _said(*parts: Part) -> Open:
    return _site(http3.Quic, lambda: http3.said(*parts))


_VERSIONS = b"\x80\0\0\0\0\0\0" + bytes(4) * 300
_ENDLESS = 1 << 40

DATAGRAMS: dict[str, Make] = {
    "random datagrams": lambda: [Flood(secrets.token_bytes(1200))],
    "version negotiation": lambda: [Flood(_VERSIONS)],
    "Retry packets": lambda: [Flood(b"\xf0\0\0\0\1\0\x08" + bytes(1000))],
    "Initial packets": lambda: [Flood(b"\xc3\0\0\0\1\0\x08" + bytes(8) + b"\0\x44\x80" + secrets.token_bytes(1150))],
    "short packets": lambda: [Flood(b"\x40" + secrets.token_bytes(40))],
    "datagrams of 60,000 bytes": lambda: [Flood(bytes(60_000))],
    "many packets in a datagram": lambda: [Flood(b"\xc3\0\0\0\1\0\0\0\x40\x14" * 120)],
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, {peer: {"start": udp(make)} for peer, make in DATAGRAMS.items()})
    field = b"\xd1"  # :method GET, of the static table
    section = bytes(2) + b"\xd9" + field * 300_000
    frames: dict[str, Open] = {
        "300 KB of indexed fields": _said(http3.frame(http3.HEADERS, section)),
        "a field section of 9 MB": _said(http3.headers((":status", "200"), ("a", "x" * 9_000_000))),
        "40,000 fields": _said(http3.headers((":status", "200"), *[("a", "")] * 40_000)),
        "a head of 900 KB in Huffman coding": _said(
            http3.frame(http3.HEADERS, bytes(2) + b"\xd9" + b"\x21a\xff\xa1\xf6\x36" + b"\x18" * 900_000)
        ),
        "endless 103": _said(Repeat(http3.head(103), _ENDLESS)),
        "frames of an unknown type": _said(http3.head(), Repeat(http3.frame(0x21), _ENDLESS)),
        "a flood of empty DATA": _said(http3.head(), Repeat(http3.data() * 100, _ENDLESS)),
        "DATA of a byte": _said(http3.head(), Repeat(http3.data(b"x") * 100, _ENDLESS)),
        "a body without end": _said(http3.head(), Repeat(http3.data(b"x" * 8192), _ENDLESS)),
        "unknown streams": _said(*[http3.opened(0x21, b"x" * 1000) for _ in range(100)], http3.head()),
        "a flood of SETTINGS": _said(Repeat(http3.frame(4, b"\x21\0"), 1), http3.on_control(http3.frame(4) * 10_000)),
        "a control stream of reserved frames": _said(*[http3.on_control(http3.frame(0x21) * 1000)] * 100),
        "QPACK instructions": _said(*[http3.opened(2, b"\x3f\xe1\x1f" * 1000)] * 10),
        "a frame of 2^62 bytes": _said(
            http3.frame(http3.HEADERS, b"x" * 1000, length=(1 << 62) - 1), Repeat(b"x" * 8192, _ENDLESS)
        ),
    }
    yield from against(CLIENTS, {peer: {"start": start} for peer, start in frames.items()})
