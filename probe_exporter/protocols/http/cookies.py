"""Cookie jar: keep the cookies of one probe for its redirects (RFC 6265, with Go's quoting of values).

It is our own because other jars re-encode values, ignore public suffixes or use the connection's host only.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from publicsuffixlist import PublicSuffixList

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.protocols.http.checks import parse_date
from probe_exporter.protocols.http.url import URL

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20\x21\x23-\x3a\x3c-\x5b\x5d-\x7e]*")  # all but quotes, semicolons and backslashes
_AGE = re.compile(r"-?\d+")

MAX_COOKIES = 300
"""Cookies of one response that are read, and of one jar. RFC 6265, section 6.1, asks for 50 a domain."""

MAX_COOKIE_CHARACTERS = 8192
"""Characters of a Set-Cookie header; browsers take 4,096."""

MAX_ATTRIBUTES = 32
"""Attributes of one cookie that are read."""


@cache
def _suffixes() -> PublicSuffixList:
    """Return the list of public suffixes that ships with its package; takes some 30 ms to load."""
    return PublicSuffixList(accept_unknown=True)


@dataclass(slots=True)
class _Cookie:
    pair: str  # name=value, as it is sent
    domain: str
    host_only: bool
    path: str
    secure: bool
    expires: float  # Unix seconds

    def goes_to(self, host: str, url: URL) -> bool:
        """Return whether the cookie is sent to a URL (RFC 6265, section 5.4)."""
        path = url.path.partition("?")[0]
        within = path.startswith(self.path) and (self.path.endswith("/") or path[len(self.path) :][:1] in ("", "/"))
        fits = host == self.domain or (not self.host_only and _is_under(host, self.domain))
        return fits and within and (not self.secure or url.secure or _is_loopback(host))


class Cookies:
    """A jar. Cookies belong to the host that a request names, never to its address."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, str], _Cookie] = {}

    async def store(self, url: URL, values: Sequence[str], host: str = "") -> None:
        """Take the ``Set-Cookie`` values of a response; ignore invalid ones and those that the host may not set.

        Args:
            url: of the request.
            host: the host that the request named, if it differs from the URL's.
        """
        host = _canonical(host or url.host)
        values = [value for value in values[:MAX_COOKIES] if len(value) <= MAX_COOKIE_CHARACTERS]
        if not _suffixes.cache_info().currsize and any("domain" in value.lower() for value in values):
            await asyncio.to_thread(_suffixes)  # loading would block the event loop
        for value in values:
            named = _parse(value, host, url)
            if named is None:
                continue
            name, cookie = named
            key = (name, cookie.domain, cookie.path)
            if cookie.expires <= time.time():
                self._held.pop(key, None)
            elif key in self._held or len(self._held) < MAX_COOKIES:
                self._held[key] = cookie  # a cookie that is set again keeps its place in the order

    def header(self, url: URL, host: str = "") -> str:
        """Return the ``Cookie`` header for a request: longer paths first, then older cookies; empty without cookies."""
        host = _canonical(host or url.host)
        now = time.time()
        found = [cookie for cookie in self._held.values() if cookie.expires > now and cookie.goes_to(host, url)]
        found.sort(key=lambda cookie: -len(cookie.path))
        return "; ".join(cookie.pair for cookie in found)


def _parse(header: str, host: str, url: URL) -> tuple[str, _Cookie] | None:
    """Parse a Set-Cookie value (section 5.2); return name and cookie, or None if it is invalid for this host."""
    pair, *parts = header.split(";", MAX_ATTRIBUTES + 1)
    del parts[MAX_ATTRIBUTES:]
    name, equals, value = (part.strip() for part in pair.partition("="))
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    bare = value[1:-1] if quoted else value
    if not equals or not _NAME.fullmatch(name) or not _VALUE.fullmatch(bare):
        return None
    attributes = {key.strip().lower(): text.strip() for key, _, text in (part.partition("=") for part in parts)}
    domain = _domain(attributes.get("domain", ""), host)
    if domain is None:
        return None
    path = attributes.get("path", "")
    text = f'"{bare}"' if quoted or " " in bare or "," in bare else bare
    return name, _Cookie(
        pair=f"{name}={text}",
        domain=domain or host,
        host_only=not domain,
        path=path if path.startswith("/") else _default_path(url),
        secure="secure" in attributes,
        expires=_expiry(attributes),
    )


def _domain(given: str, host: str) -> str | None:
    """Return a cookie's domain, ``""`` for the host only, None if the host may not set it (section 5.3)."""
    if not given.isascii():
        return None
    domain = _canonical(given.removeprefix("."))
    if not given or (domain == host and (literals.literal(host) is not None or _suffixes().is_public(host))):
        return ""
    if not domain or (domain != host and (not _is_under(host, domain) or _suffixes().is_public(domain))):
        return None
    return domain


def _default_path(url: URL) -> str:
    return url.path.partition("?")[0].rpartition("/")[0] or "/"


def _expiry(attributes: dict[str, str]) -> float:
    """Return when a cookie expires in Unix seconds: Max-Age overrides Expires, without either it never expires."""
    age = attributes.get("max-age", "")
    if _AGE.fullmatch(age):
        return time.time() + int(age[:10])
    moment = parse_date(attributes.get("expires", "").replace("-", " "))
    return float("inf") if moment is None else moment


def _canonical(host: str) -> str:
    return to_ascii(host).lower().removesuffix(".")


def _is_under(host: str, domain: str) -> bool:
    return host.endswith("." + domain) and literals.literal(host) is None


def _is_loopback(host: str) -> bool:
    """Return whether a host gets Secure cookies without TLS too, as in browsers and in Go."""
    address = literals.literal(host)
    return host == "localhost" or (address is not None and ip_address(address).is_loopback)
