"""Match host names against the DNS names of certificates, by the rules of Go's TLS, which the original uses.

They are more lenient than RFC 6125: a wildcard may match the label below a top-level domain, an international label
and a label with underscores; a name may consist of digits; invalid names beside a matching one are ignored; and an
invalid name matches if it is equal, letter by letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")


def matches(pattern: str, host: str) -> bool:
    """Whether a DNS name of a certificate, which may begin with ``*.``, is for a host name in ASCII."""
    if _is_valid(host.removesuffix(".").split(".")) and _is_valid_pattern(pattern):
        return _match_labels(pattern.lower().split("."), host.lower().removesuffix(".").split("."))
    return pattern not in ("", ".") and pattern.lower() == host.lower()


def any_matches(patterns: Iterable[str], host: str) -> bool:
    """Whether one of a certificate's DNS names is for a host name in ASCII."""
    return any(matches(pattern, host) for pattern in patterns)


def _is_valid_pattern(pattern: str) -> bool:
    labels = pattern.split(".")
    return _is_valid(labels[1:] if labels[0] == "*" else labels)


def _is_valid(labels: list[str]) -> bool:
    """Whether these are labels of a host name; not if there are none."""
    return bool(labels) and all(map(_LABEL.fullmatch, labels))


def _match_labels(pattern: list[str], host: list[str]) -> bool:
    if pattern[0] == "*":
        pattern, host = pattern[1:], host[1:]
    return pattern == host
