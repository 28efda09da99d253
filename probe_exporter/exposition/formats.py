"""The exposition formats, and their negotiation by the Accept header. This file handles no metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from probe_exporter.cache import remembered


@dataclass(frozen=True, slots=True)
class Format:
    """An exposition format.

    Attributes:
        encoding: its key in `_ENCODERS`.
        media: its media type.
        escaping: its escaping of names.
        content_type: the value of the Content-Type header.
    """

    encoding: str
    media: str
    escaping: str = "underscores"
    content_type: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "content_type", f"{self.media}; escaping={self.escaping}")


TEXT = Format("text", "text/plain; version=0.0.4; charset=utf-8")
TEXT_1_0 = Format("text", "text/plain; version=1.0.0; charset=utf-8")
OPENMETRICS = Format("openmetrics", "application/openmetrics-text; version=1.0.0; charset=utf-8")

_MESSAGES = "application/vnd.google.protobuf"
_FAMILY = "io.prometheus.client.MetricFamily"

PROTOBUF = Format("protobuf", f"{_MESSAGES}; proto={_FAMILY}; encoding=delimited")
PROTOBUF_TEXT = Format("protobuf-text", f"{_MESSAGES}; proto={_FAMILY}; encoding=text")
PROTOBUF_COMPACT = Format("protobuf-compact", f"{_MESSAGES}; proto={_FAMILY}; encoding=compact-text")

_OFFERED = {
    ("*/*", ""): TEXT,
    ("text/*", ""): TEXT,
    ("text/plain", ""): TEXT,
    ("text/plain", "0.0.4"): TEXT,
    ("text/plain", "1.0.0"): TEXT_1_0,
    ("application/openmetrics-text", ""): OPENMETRICS,
    ("application/openmetrics-text", "1.0.0"): OPENMETRICS,
    (_MESSAGES, f"{_FAMILY} delimited"): PROTOBUF,
    (_MESSAGES, f"{_FAMILY} text"): PROTOBUF_TEXT,
    (_MESSAGES, f"{_FAMILY} compact-text"): PROTOBUF_COMPACT,
}
"""By media type and kind: the version, or for protocol buffers the message and its encoding."""

_ESCAPINGS = frozenset({"allow-utf-8", "underscores", "dots", "values"})

MAX_ACCEPT_CHARACTERS = 8_192
"""Length of an Accept header; a longer one is ignored. Prometheus sends about 350 characters."""

MAX_ACCEPT_ENTRIES = 100
"""Entries of an Accept header that are read. Prometheus sends five or six."""

_PLAIN = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def is_plain(name: str) -> bool:
    """Whether a name is valid without UTF-8 support, so that it needs no escaping."""
    return _PLAIN.fullmatch(name) is not None


@remembered(256 << 10)  # a Prometheus always sends the same header
def negotiate(accept: str) -> Format:
    """Return the format for an Accept header: the offered one of the highest quality, the first among equals.

    If the header accepts none of the offered formats, the result is text 0.0.4, as a fallback in place of an error.
    """
    best, best_quality = TEXT, 0.0
    for entry in _entries(accept):
        media, *pairs = (part.strip() for part in entry.split(";"))
        parameters = {key.strip().lower(): value.strip() for key, _, value in (p.partition("=") for p in pairs)}
        offered = _OFFERED.get((media.lower(), _kind(media, parameters)))
        quality = _quality(parameters.get("q", "1"))
        if offered is not None and quality > best_quality:
            escaping = parameters.get("escaping", "")
            best_quality = quality
            best = Format(offered.encoding, offered.media, escaping) if escaping in _ESCAPINGS else offered
    return best


def _entries(accept: str) -> list[str]:
    """Return the entries of an Accept header within the limits: the header is read in one turn of the event loop."""
    if len(accept) > MAX_ACCEPT_CHARACTERS:
        return []
    return accept.split(",", MAX_ACCEPT_ENTRIES)[:MAX_ACCEPT_ENTRIES]


def _kind(media: str, parameters: Mapping[str, str]) -> str:
    """Return the second half of a key of `_OFFERED`."""
    if media.lower() == _MESSAGES:
        return f"{parameters.get('proto', '')} {parameters.get('encoding', '')}"
    return parameters.get("version", "")


def _quality(text: str) -> float:
    """Parse a weight (RFC 9110 section 12.4.2); an invalid one is 0."""
    return float(text) if re.fullmatch(r"[01](\.[0-9]*)?", text) else 0.0
