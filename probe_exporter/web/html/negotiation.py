"""Decide from the Accept header whether a client wants HTML (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterator

from probe_exporter.cache import remembered
from probe_exporter.web.request import WebRequest

MAX_ACCEPT_CHARACTERS = 1024
"""Length of an Accept header; a longer one does not ask for HTML. Browsers send about 150 characters."""

MAX_HEADER_CACHE_BYTES = 64 << 10

HTML = "text/html"
_ALSO_HTML = ("application/xhtml+xml", "application/xml")
"""What browsers send beside text/html; these don't compete with it."""


def wants_html(request: WebRequest) -> bool:
    """Return whether the client names HTML, and nothing else that it prefers.

    Browsers name ``text/html`` first. curl sends ``*/*``, and Prometheus names its own formats: both get the machine
    form.
    """
    return prefers_html(request.headers.get("Accept", ""))


@remembered(MAX_HEADER_CACHE_BYTES)
def prefers_html(accept: str) -> bool:
    """Return whether an Accept header names HTML, with a weight that no other named type exceeds."""
    if HTML not in accept or len(accept) > MAX_ACCEPT_CHARACTERS:
        return False
    html, other = 0.0, 0.0
    for media, weight in _weights(accept):
        if media == HTML:
            html = max(html, weight)
        elif media not in _ALSO_HTML and not media.endswith("*") and not media.startswith("image/"):
            other = max(other, weight)
    return html > 0 and html >= other


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    """Yield each media type in lower case, and its weight; an invalid weight is 0."""
    for entry in accept.split(","):
        media, *parameters = [part.strip().lower() for part in entry.split(";")]
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                weight = _weight(value.strip())
        yield media, weight


def _weight(text: str) -> float:
    digits = text.replace(".", "", 1)
    return min(1.0, float(text)) if digits.isascii() and digits.isdecimal() else 0.0
