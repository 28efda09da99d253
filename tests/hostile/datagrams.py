"""Peers that answer in datagrams: floods, against the udp and the ntp prober; spoofed replies, against icmp."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.hostile.cases import SHORT_SECONDS, SUCCESS, TIMED_OUT, Case, Clients, Flood, Make, Open, against, ends
from tests.hostile.peers import udp

CLIENTS: Clients = {
    "udp": {
        "settings": {"query_response": [{"send": "a"}, {"expect": "(y+y+)+z"}]},
        "ends": TIMED_OUT | ends("dialogue_no_match", "udp_no_answer"),
        "timeout": SHORT_SECONDS,
    },
    "ntp": {
        "ends": TIMED_OUT | ends("ntp_no_answer", "protocol_error", "ntp_kiss_of_death", "ntp_unsynchronized"),
        "timeout": SHORT_SECONDS,
    },
}

PEERS: dict[str, Make] = {
    "a flood of empty datagrams": lambda: [Flood(b"")],
    "a flood of datagrams of a byte": lambda: [Flood(b"y")],
    "a flood of datagrams of 60,000 bytes": lambda: [Flood(b"y" * 60_000)],
    "a flood of datagrams of 48 bytes": lambda: [Flood(b"\x24" + bytes(47))],
}

_ECHO_REPLY, _UNREACHABLE = 0, 3
_TARGET = "127.77.77.77"
"""An address of loopback that the kernel answers for; a spoofed reply comes from it, too."""


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def _message(type_: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    bare = struct.pack(">BBHHH", type_, 0, 0, identifier, sequence) + payload
    return struct.pack(">BBHHH", type_, 0, _checksum(bare), identifier, sequence) + payload


def _spoofer(payload: bytes, type_: int = _ECHO_REPLY) -> Open:
    """Return a peer that floods this machine with ICMP messages that answer no request."""

    @contextlib.contextmanager
    def start(pki: Path) -> Iterator[Mapping[str, str]]:
        ended = threading.Event()
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            sock.bind((_TARGET, 0))

            def flood() -> None:
                messages = [_message(type_, number * 257, number, payload) for number in range(256)]
                while not ended.is_set():
                    for message in messages:
                        with contextlib.suppress(OSError):
                            sock.sendto(message, ("127.0.0.1", 0))

            thread = threading.Thread(target=flood, daemon=True)
            thread.start()
            yield {"address": _TARGET}
            ended.set()
            thread.join()

    return start


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, {peer: {"start": udp(make)} for peer, make in PEERS.items()})
    if os.geteuid() == 0:  # only root may send what no socket asked for
        icmp: Clients = {
            "icmp": {
                "target": "{address}",
                "settings": {"count": 100, "interval": "10ms"},
                "ends": TIMED_OUT | {SUCCESS, "icmp_timeout"},
                "timeout": 1.6,
            }
        }
        spoofed = {
            "spoofed echo replies": {"start": _spoofer(bytes(28))},
            "spoofed echo replies of 60,000 bytes": {"start": _spoofer(bytes(60_000))},
            "spoofed errors": {"start": _spoofer(bytes(64), _UNREACHABLE)},
        }
        yield from against(icmp, spoofed)
