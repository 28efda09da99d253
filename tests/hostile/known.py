"""Cases that fail at present, each with the reason; the suite does not run them, `python -m tests.hostile` does.

A case that passes again leaves this list.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {}
"""By the beginning of the name of a case (`file: peer / client`)."""


def known(name: str) -> str:
    """Return why a case fails at present; empty if it should pass."""
    return next((reason for start, reason in KNOWN.items() if name.startswith(start)), "")
