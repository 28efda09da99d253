"""Serve the static files of the pages: one style sheet, one script, one icon. Browsers cache them for a year.

Pages link them with a checksum of their content in the query, so that a new version has a new URL.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from probe_exporter.web.answers import Answer, Handler
from probe_exporter.web.request import WebRequest

FOLDER = Path(__file__).parent / "static"

TYPES = {
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""The files by name, and their content types."""

_CACHED = "public, max-age=31536000, immutable"


class Asset(NamedTuple):
    """A static file and the first characters of its checksum."""

    body: bytes
    checksum: str


@cache
def asset(name: str) -> Asset:
    """Return a static file; it is read from the disk once."""
    body = (FOLDER / name).read_bytes()
    return Asset(body, hashlib.sha256(body).hexdigest()[:16])


def handler(name: str) -> Handler:
    """Return the handler of a static file."""

    async def answer(request: WebRequest, query: str) -> Answer:
        """Return the file, or 304 if the client has it."""
        found = asset(name)
        tag = f'"{found.checksum}"'
        fields = {
            "Content-Type": TYPES[name],
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": _CACHED,
            "ETag": tag,
        }
        return Answer(found.body, fields, 304 if tag in request.headers.get("If-None-Match", "") else 200)

    return answer
