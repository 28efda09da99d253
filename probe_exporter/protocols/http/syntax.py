"""Tokens: the names of methods, headers and authentication schemes (RFC 9110, section 5.6.2)."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def is_token(text: str) -> bool:
    """Return whether a text is a token."""
    return _TOKEN.fullmatch(text) is not None
