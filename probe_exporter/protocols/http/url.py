"""Targets and redirects as URLs: split once, kept as typed, never decoded and encoded again (RFC 3986)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from urllib.parse import unquote, urljoin

from probe_exporter.addresses import literals

DEFAULT_PORTS = {"http": 80, "https": 443}

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_PARTS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_USER = re.compile(r"(?:[A-Za-z0-9._:~!$&'()*+,;=@-]|%[0-9a-fA-F]{2})*")
_ZONE = re.compile(r"25(?:[^%\s]|%[0-9a-fA-F]{2})+")
_HOST = re.compile(r"""[^\s<>"`{}|\\^%/?#@:\[\]]+""")
# What goes percent-encoded: in a path whatever RFC 3986 does not allow, in a query what a request line can't carry.
_UNSAFE_IN_PATH = re.compile(r"""[^\x21\x23-\x3b\x3d\x3f-\x5b\x5d\x5f\x61-\x7a\x7e]""")
_UNSAFE_IN_QUERY = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True)
class URL:
    """An absolute http or https URL.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name or an address, IPv6 without brackets.
        port: as given, or the scheme's own.
        authority: host and port as typed, for the Host header.
        path: path and query, ready for a request line; at least ``/``.
        user, password: decoded; None where the URL has no such part.
    """

    scheme: str
    host: str
    port: int
    authority: str
    path: str
    user: str | None = None
    password: str | None = None

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    def secured(self) -> URL:
        """The same place by https, on that scheme's port unless another one is given."""
        return replace(self, scheme="https", port=_split_authority(self.authority, DEFAULT_PORTS["https"])[1])

    def join(self, location: str) -> URL:
        """Where a Location header leads from here (RFC 3986, section 5).

        Raises:
            ValueError: nowhere that http or https can go.
        """
        if _CONTROL.search(location):
            raise ValueError("the location holds a control character")  # urljoin would take it out
        if not _PARTS.match(location):
            return parse(urljoin(str(self), location))
        url = parse(location)
        if not url.host:
            raise ValueError(f"{location!r} names no host")
        return replace(url, path=_without_dots(url.path))


def _without_dots(path: str) -> str:
    """A path with its ``.`` and ``..`` gone where they lead (RFC 3986, section 5.2.4)."""
    path, mark, query = path.partition("?")
    kept: list[str] = []
    *directories, last = path.split("/")[1:]
    for segment in (*directories, last):
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if last in (".", ".."):
        kept.append("")
    return f"/{'/'.join(kept)}{mark}{query}"


def has_authority(location: str) -> bool:
    """Whether a Location names its host, rather than a place on the same one."""
    return location.startswith("//") or _PARTS.match(location) is not None


@lru_cache(maxsize=4096)
def parse_target(target: str) -> URL:
    """A target as typed: a URL, or a URL without its ``http://``.

    Raises:
        ValueError: with a sentence for a person.
    """
    return parse(target if _SCHEME.match(target) else "http://" + target)


def parse(text: str) -> URL:
    """Split an absolute URL.

    Raises:
        ValueError: with a sentence for a person.
    """
    if _CONTROL.search(text):
        raise ValueError("the URL holds a control character")
    match = _PARTS.fullmatch(text)
    if match is None or match[1].lower() not in DEFAULT_PORTS:
        raise ValueError(f"{text!r} is not an http or https URL")
    scheme = match[1].lower()
    userinfo, at, authority = match[2].rpartition("@")
    host, port = _split_authority(authority, DEFAULT_PORTS[scheme])
    if not _USER.fullmatch(userinfo):
        raise ValueError("the URL's user information holds what has to be escaped there")
    if _BAD_ESCAPE.search(match[3] + (match[5] or "")):
        raise ValueError("the URL holds a % that begins no escape")
    user, colon, password = userinfo.partition(":")
    return URL(
        scheme=scheme,
        host=host,
        port=port,
        authority=_as_header(authority.removesuffix(":"), host),
        path=_UNSAFE_IN_PATH.sub(_percent, match[3] or "/") + _UNSAFE_IN_QUERY.sub(_percent, match[4] or ""),
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def _split_authority(authority: str, default_port: int) -> tuple[str, int]:
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{authority!r} is not a host: an IPv6 address stands in brackets")
        address, percent, zone = host.partition("%")
        if ":" not in address or literals.literal(address) is None:
            raise ValueError(f"{authority!r} is not a host: no IPv6 address stands in the brackets")
        if percent and not _ZONE.fullmatch(zone):
            raise ValueError(f"{authority!r} is not a host: a zone begins with %25")  # RFC 6874
        host, port = unquote(host), rest[1:]
    else:
        host, _, port = authority.rpartition(":") if ":" in authority else (authority, "", "")
        if host and not is_host(host.replace(":", "")):  # with too many colons it is a host that can't be found
            raise ValueError(f"{authority!r} is not a host")
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit()):
        raise ValueError(f"{port!r} is not a port")
    return host, int(port[:20])


def is_host(text: str) -> bool:
    """Whether `text` can be a host at all: a name of legal characters, or an address."""
    return _HOST.fullmatch(text) is not None or literals.literal(text) is not None


def _as_header(authority: str, host: str) -> str:
    """The authority as a Host header may carry it: without a zone (RFC 6874), in ASCII."""
    if "%" in host:
        authority = f"[{host.partition('%')[0]}]{authority.partition(']')[2]}"
    if authority.isascii():
        return authority
    try:
        return authority.replace(host, literals.to_ascii(host))
    except ValueError:  # it will not be found either
        return _UNSAFE_IN_QUERY.sub(_percent, authority)


def host_only(authority: str) -> str:
    """The host of a Host header's value, without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    host, colon, port = authority.rpartition(":")
    return host if colon and ":" not in host and (port.isdigit() or not port) else authority


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))
