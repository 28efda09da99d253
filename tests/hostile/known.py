"""Cases that fail at present, each with the reason; the suite does not run them, `python -m tests.hostile` does.

A case that passes again leaves this list.
"""

from __future__ import annotations

_JOINED = "a body of many megabytes is joined in one turn"

KNOWN: dict[str, str] = {
    "bodies: 16 MiB in small chunks / http with a regexp": _JOINED,
    "bodies: 64 MiB of ": _JOINED,
    "bodies: an endless body / exporter": "64 MiB of body and a little more: the limit of this harness is too narrow",
    "clients: 5,000 half requests / ": "the event loop accepts a whole backlog of connections in one turn",
    "clients: 5,000 idle connections / ": "the event loop accepts a whole backlog of connections in one turn",
    "clients: chunks of a byte / ": "aiohttp's parser reads 64 KiB of chunks in one turn",
    "http3: DATA of a byte / ": "a datagram of many small frames: 58 ms",
    "pages: 450,000 series / ": "27 ms; perhaps the growth of the set of series",
    "pages: HELP of 250 KB / ": "44 ms",
    "pages: a histogram of 400,000 buckets / ": "21 ms; perhaps the growth of the set of series",
    "pages: a line without end / ": _JOINED,
    "pages: a million TYPE lines / ": "23 ms; the check for conventions",
    "pages: protobuf: a million unknown fields / ": "23 ms; perhaps the body that is joined",
    "pages: a million TYPE lines, OpenMetrics / ": "the check for conventions goes through all families: 113 ms",
    "pages: blanks of 250 KB / ": _JOINED,
    "pages: braces / ": _JOINED,
    "pages: commas / ": _JOINED,
    "pages: exponents of 250 KB / ": _JOINED,
    "pages: hexadecimal numbers of 250 KB / ": _JOINED,
    "pages: lines of 250 KB / ": _JOINED,
    "pages: lines of 250 KB of escapes / ": _JOINED,
    "pages: numbers of 250 KB / ": _JOINED,
    "pages: quotes without end / ": _JOINED,
    "slow: silence, 4,000 probes / ": "50 to 90 ms; perhaps the garbage collector",
    "websocket: a flood of pings / ": "18 ms: too near the limit",
    "websocket: a message of 15 MiB": "the message is decoded as UTF-8 in one turn: 30 ms",
    "websocket: bytes of 15 MiB / ": "the fragments are joined in one turn: 25 ms",
}
"""By the beginning of the name of a case (`file: peer / client`)."""


def known(name: str) -> str:
    """Return why a case fails at present; empty if it should pass."""
    return next((reason for start, reason in KNOWN.items() if name.startswith(start)), "")
