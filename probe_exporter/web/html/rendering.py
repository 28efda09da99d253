"""Render HTML pages from the templates beside this file.

* jinja2 is imported and the templates are compiled for the first page, not for probes. Both happen in a thread.
* Templates are rendered in a thread too: a page of many rows takes longer than one turn of the event loop may take.
  It is one thread, for all pages, so that the event loop waits for at most one other thread, and probes that need the
  default threads wait for no page.
* Every value is escaped, and a name that a template misspells raises an exception (`StrictUndefined`).
* Links are relative to the page, so that they work under any route prefix, and behind a proxy that changes the path.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from probe_exporter.report.report import seconds
from probe_exporter.settings.fields import shorten
from probe_exporter.version import VERSION
from probe_exporter.web.answers import Answer, Refused, page
from probe_exporter.web.html.assets import TYPES, asset
from probe_exporter.web.parameters import wants_gzip
from probe_exporter.web.request import WebRequest

if TYPE_CHECKING:
    from jinja2 import Environment

T = TypeVar("T")

TEMPLATES = Path(__file__).parent / "templates"

MAX_WAITING = 100
"""Pages that wait for the thread or are in it. A page takes 2 to 50 ms."""

MAX_LISTED_MODULES = 1000
"""Names of modules that a form suggests; others can be typed."""


class Renderer:
    """Renders the pages of one exporter."""

    def __init__(self, prefix: str) -> None:
        """
        Args:
            prefix: the route prefix of all paths; it begins and ends with a slash.
        """
        self._slashes = prefix.count("/")
        self._environment: Environment | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pages")
        self._waiting = 0

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Call a function in the thread of the pages, and return its result.

        Raises:
            Refused: with 503: too many pages wait for the thread.
        """
        if self._waiting >= MAX_WAITING:
            raise Refused(503, "Too many pages are asked for at once", **{"Retry-After": "1"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        finally:
            self._waiting -= 1

    async def page(self, request: WebRequest, template: str, values: Mapping[str, object], status: int = 200) -> Answer:
        """Render a template and return the page.

        Args:
            template: the name of a file in `templates/`.
            values: what the template names, beside `link`, `asset`, `version` and `now`.
        """
        packed = wants_gzip(request.headers.get("Accept-Encoding", ""))
        html = await self.in_thread(self._render, template, _root(request, self._slashes), values, packed)
        return page(html, status, packed=packed)

    def _render(self, template: str, root: str, values: Mapping[str, object], packed: bool) -> bytes:
        """Render a template as UTF-8; call it in a thread.

        Args:
            root: the relative URL of the status page: empty, or `../` for each directory.
            packed: whether to compress the page; a page of 200 targets shrinks to a tenth.
        """
        if self._environment is None:
            self._environment = _environment()
        common = {
            "link": partial(link, root),
            "asset": partial(_asset_link, root),
            "version": VERSION,
            "now": time.time(),
        }
        html = self._environment.get_template(template).render({**common, **values})
        encoded = html.encode("utf-8", "replace")
        return gzip.compress(encoded, 1, mtime=0) if packed else encoded


def _environment() -> Environment:
    """Import jinja2 and compile all templates."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  # for the first page, see above

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.filters.update(
        shorten=shorten, seconds=seconds, age=age, moment=moment, iso=iso, pathname=pathname, word=word
    )
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def _root(request: WebRequest, slashes: int) -> str:
    """Return the relative URL from a request's path to the status page."""
    path = request.raw_path.partition("?")[0]
    if "://" in path:  # absolute form, RFC 9112 section 3.2.2
        path = "/" + path.partition("://")[2].partition("/")[2]
    return "../" * max(0, path.count("/") - slashes)


# --- what templates use --------------------------------------------------------------------------------------


def link(root: str, path: str = "", **query: object) -> str:
    """Return the URL of a path of the exporter; parameters that are None or empty are left out."""
    given = {name: str(value) for name, value in query.items() if value not in (None, "")}
    encoded = urlencode(given, errors="replace")
    return f"{root}{path}{'?' if encoded else ''}{encoded}" or "./"


def _asset_link(root: str, name: str) -> str:
    """Return the URL of a static file."""
    assert name in TYPES
    return link(root, f"static/{name}", v=asset(name).checksum)


def pathname(text: str) -> str:
    """Return a name as one segment of a path."""
    return quote(text, safe="", errors="surrogateescape")


def word(text: str) -> str:
    """Return a text as a part of a class: letters, digits and hyphens; empty if it has others."""
    plain = text.replace("_", "-").lower()
    return plain if plain.isascii() and plain.replace("-", "").isalnum() else ""


def age(value: float) -> str:
    """Return a long time in one or two units: ``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    whole = math.floor(max(0.0, value))
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if hours < 1:
        return f"{minutes} min"
    if days < 1:
        return f"{hours} h {minutes % 60:02} min"
    return f"{days} d {hours % 24} h"


def moment(value: float) -> str:
    """Return Unix seconds as date, time and zone of the exporter: ``2026-11-29 21:05:09 UTC``."""
    return f"{_local(value):%Y-%m-%d %H:%M:%S %Z}"


def iso(value: float) -> str:
    """Return Unix seconds in RFC 3339 with milliseconds, for ``<time datetime>``."""
    return _local(value).isoformat(timespec="milliseconds")


def _local(value: float) -> datetime:
    return datetime.fromtimestamp(value, UTC).astimezone()
