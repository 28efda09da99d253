"""Cookies between the hops of one probe (RFC 6265, with Go's spelling of values): a jar that lives as long as it.

Of our own, because the jars at hand re-encode values, ignore public suffixes or know of no host but the connection's.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from publicsuffixlist import PublicSuffixList

from probe_exporter.addresses import literals
from probe_exporter.protocols.http.checks import parse_date
from probe_exporter.protocols.http.url import URL

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\x20\x21\x23-\x3a\x3c-\x5b\x5d-\x7e]*")  # all but quotes, semicolons and backslashes
_AGE = re.compile(r"-?\d+")


@cache
def _suffixes() -> PublicSuffixList:
    """The list that ships with its package; loaded when a cookie first names a domain."""
    return PublicSuffixList(accept_unknown=True)


@dataclass(slots=True)
class _Cookie:
    pair: str  # as it is sent
    domain: str
    host_only: bool
    path: str
    secure: bool
    expires: float  # Unix seconds

    def goes_to(self, host: str, url: URL) -> bool:
        """RFC 6265, section 5.4."""
        path = url.path.partition("?")[0]
        within = path.startswith(self.path) and (self.path.endswith("/") or path[len(self.path) :][:1] in ("", "/"))
        fits = host == self.domain or (not self.host_only and _is_under(host, self.domain))
        return fits and within and (not self.secure or url.secure or _is_loopback(host))


class Cookies:
    """A jar, keyed by the host that a request names, never by its address."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str, str], _Cookie] = {}

    def store(self, url: URL, values: list[str], host: str = "") -> None:
        """Take the ``Set-Cookie`` values of a response; what can't be read or may not be set is passed over.

        Args:
            url: of the request.
            host: that the request named, if another than the URL's.
        """
        host = _canonical(host or url.host)
        for value in values:
            named = _parse(value, host, url)
            if named is None:
                continue
            name, cookie = named
            key = (name, cookie.domain, cookie.path)
            if cookie.expires <= time.time():
                self._held.pop(key, None)
            else:  # one that is set anew keeps its place in the order
                self._held[key] = cookie

    def header(self, url: URL, host: str = "") -> str:
        """The value of the ``Cookie`` header for a request: longer paths first, then older cookies; empty for none."""
        host = _canonical(host or url.host)
        now = time.time()
        found = [cookie for cookie in self._held.values() if cookie.expires > now and cookie.goes_to(host, url)]
        found.sort(key=lambda cookie: -len(cookie.path))
        return "; ".join(cookie.pair for cookie in found)


def _parse(header: str, host: str, url: URL) -> tuple[str, _Cookie] | None:
    """A Set-Cookie value as a name and a cookie (section 5.2); None if it is none for this host."""
    pair, *parts = header.split(";")
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
    """Whom a cookie is for: a domain, ``""`` for the host alone, None if the host may not set it (section 5.3)."""
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
    """Max-Age wins over Expires; without either a cookie outlives the probe."""
    age = attributes.get("max-age", "")
    if _AGE.fullmatch(age):
        return time.time() + int(age[:10])
    moment = parse_date(attributes.get("expires", "").replace("-", " "))
    return float("inf") if moment is None else moment


def _canonical(host: str) -> str:
    return literals.to_ascii(host).lower().removesuffix(".")


def _is_under(host: str, domain: str) -> bool:
    return host.endswith("." + domain) and literals.literal(host) is None


def _is_loopback(host: str) -> bool:
    """Whether a host is as safe without TLS as with it, as browsers and Go have it."""
    address = literals.literal(host)
    return host == "localhost" or (address is not None and ip_address(address).is_loopback)
