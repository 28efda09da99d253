"""Cases that fail at present, each with the reason; the suite does not run them, `python -m tests.hostile` does.

A case that passes again leaves this list.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {
    "clients: 5,000 half requests / ": "the event loop accepts a whole backlog of connections in one turn",
    "clients: 5,000 idle connections / ": "the event loop accepts a whole backlog of connections in one turn",
    "clients: chunks of a byte / ": "aiohttp's parser reads 64 KiB of chunks in one turn",
    "slow: silence, 4,000 probes / ": "50 to 90 ms; perhaps the garbage collector",
}
"""By the beginning of the name of a case (`file: peer / client`)."""


def known(name: str) -> str:
    """Return why a case fails at present; empty if it should pass."""
    return next((reason for start, reason in KNOWN.items() if name.startswith(start)), "")
