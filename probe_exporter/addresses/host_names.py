"""Host names as text: encode international ones (IDNA), recognise those that DNS can be asked for."""

from __future__ import annotations

import re

import idna

# What DNS is asked for: labels of letters, digits, underscores, and hyphens within. Digits alone are a misspelt address
# (127.1, 127.0.0.01), which no resolver should guess at.
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\.?$)(?=.*[A-Za-z_-]){_LABEL}(?:\.{_LABEL})*\.?|\.")


MAX_NAME_CHARACTERS = 1024
"""Characters of a host name that is encoded by IDNA, each of which takes some microseconds; DNS has 253 in ASCII."""


def is_name(text: str) -> bool:
    """Whether DNS can be asked for a name in ASCII."""
    return _DNS_NAME.fullmatch(text) is not None


def to_ascii(host: str) -> str:
    """Encode a host name by IDNA (UTS 46) if it is not ASCII, as DNS, TLS and HTTP need it.

    Raises:
        ValueError: it can't be a host name.
    """
    if host.isascii():
        return host
    if len(host) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{host[:20]!r}… is not a host name: it has more than {MAX_NAME_CHARACTERS} characters")
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is not a host name: {error}") from None
