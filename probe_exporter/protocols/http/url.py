"""Parse targets and redirects as URLs: split once, kept as written, never decoded and encoded again (RFC 3986)."""

from __future__ import annotations

import re
from sys import getsizeof
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.cache import MAX_USUAL_BYTES, remembered

DEFAULT_PORTS = {"http": 80, "https": 443}

MAX_LOCATION_CHARACTERS = 64 * 1024
"""Characters of a Location header that is followed."""

MAX_HOST_CHARACTERS = 1024
"""Characters of a host; DNS has at most 253. The cost of IDNA grows with the square of the length."""

MAX_URL_CACHE_BYTES = 28 << 20
"""For 20,000 targets, each some 600 bytes, in one of the two generations of a cache."""

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_PARTS = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_BAD_IN_USER = re.compile(r"[^A-Za-z0-9._:~!$&'()*+,;=@%-]|%(?![0-9a-fA-F]{2})")
_ZONE = re.compile(r"25(?:[^%\s]|%[0-9a-fA-F]{2})+")
_HOST = re.compile(r"""[^\s<>"`{}|\\^%/?#@:\[\]]+""")
# Not percent-encoded: in a path what RFC 3986 allows and some more, in a query all that a request line can carry.
_SAFE_IN_QUERY = "".join(map(chr, range(0x21, 0x7F)))
_SAFE_IN_PATH = "".join(set(_SAFE_IN_QUERY) - set('"<>\\^`{|}'))


class URL(NamedTuple):
    """An absolute http or https URL.

    Attributes:
        scheme: ``http`` or ``https``.
        host: a name or an address, IPv6 without brackets.
        port: as given, or the scheme's own.
        authority: host and port as written, for the Host header.
        path: path and query, ready for a request line; at least ``/``.
        user, password: decoded; None if the URL has no such part.
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
        """Return the URL with the scheme https, and with its default port unless the URL gives a port."""
        return self._replace(scheme="https", port=_split_authority(self.authority, DEFAULT_PORTS["https"])[1])

    def join(self, location: str) -> URL:
        """Resolve a Location header against this URL (RFC 3986, section 5).

        Raises:
            ValueError: it is not an http or https URL, or too long.
        """
        if len(location) > MAX_LOCATION_CHARACTERS:
            raise ValueError(f"the location has more than {MAX_LOCATION_CHARACTERS} characters")
        if _CONTROL.search(location):
            raise ValueError("the location contains a control character")  # urljoin would remove it
        if not _PARTS.match(location):
            return parse(urljoin(str(self), location))
        url = parse(location)
        if not url.host:
            raise ValueError(f"{location[:200]!r} has no host")
        return url._replace(path=_without_dots(url.path))


def _without_dots(path: str) -> str:
    """Return a path and query without the segments ``.`` and ``..`` (RFC 3986, section 5.2.4)."""
    path, mark, query = path.partition("?")
    kept: list[str] = []
    *directories, last = path.split("/")[1:]
    for segment in (*directories, last):
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if last in (".", ".."):
        kept.append("")
    return f"/{'/'.join(kept)}{mark}{query}"


def has_authority(location: str) -> bool:
    """Return whether a Location has a host of its own."""
    return location.startswith("//") or _PARTS.match(location) is not None


def _weight(target: str, url: URL) -> int:
    return getsizeof(target) + getsizeof(url) + sum(map(getsizeof, url))


@remembered(MAX_URL_CACHE_BYTES, _weight, MAX_USUAL_BYTES)
def parse_target(target: str) -> URL:
    """Parse a target: a URL, or a URL without its ``http://``.

    Raises:
        ValueError: it is neither; the message is for people.
    """
    return parse(target if _SCHEME.match(target) else "http://" + target)


def parse(text: str) -> URL:
    """Parse an absolute URL.

    Raises:
        ValueError: it is not an http or https URL; the message is for people.
    """
    if _CONTROL.search(text):
        raise ValueError("the URL contains a control character")
    match = _PARTS.fullmatch(text)
    if match is None or match[1].lower() not in DEFAULT_PORTS:
        raise ValueError(f"{text[:200]!r} is not an http or https URL")
    scheme = match[1].lower()
    userinfo, at, authority = match[2].rpartition("@")
    host, port = _split_authority(authority, DEFAULT_PORTS[scheme])
    if userinfo and _BAD_IN_USER.search(userinfo):
        raise ValueError("the URL's user information contains a character that must be percent-encoded")
    if "%" in text and _BAD_ESCAPE.search(match[3] + (match[5] or "")):
        raise ValueError("the URL contains a % without two hexadecimal digits")
    user, colon, password = userinfo.partition(":")
    return URL(
        scheme=scheme,
        host=host,
        port=port,
        authority=_as_header(authority.removesuffix(":"), host),
        path=_encode(match[3] or "/", _SAFE_IN_PATH) + _encode(match[4] or "", _SAFE_IN_QUERY),
        user=unquote(user) if at else None,
        password=unquote(password) if colon else None,
    )


def _encode(text: str, safe: str) -> str:
    return quote(text, safe, errors="surrogateescape") if text else ""


def _split_authority(authority: str, default_port: int) -> tuple[str, int]:
    if len(authority) > MAX_HOST_CHARACTERS:
        raise ValueError(f"{authority[:60]!r}… is not a host: it has more than {MAX_HOST_CHARACTERS} characters")
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
        if host and not is_host(host.replace(":", "")):  # with too many colons it is a host that does not resolve
            raise ValueError(f"{authority!r} is not a host")
    if not port:
        return host, default_port
    if not (port.isascii() and port.isdigit()):
        raise ValueError(f"{port!r} is not a port")
    return host, int(port[:20])


def is_host(text: str) -> bool:
    """Return whether `text` can be a host: a name of legal characters, or an address."""
    return _HOST.fullmatch(text) is not None or literals.literal(text) is not None


def _as_header(authority: str, host: str) -> str:
    """Return an authority as a Host header carries it: without a zone (RFC 6874), in ASCII."""
    if "%" in host:
        authority = f"[{host.partition('%')[0]}]{authority.partition(']')[2]}"
    if authority.isascii():
        return authority
    try:
        return authority.replace(host, to_ascii(host))
    except ValueError:  # it will not resolve either
        return _encode(authority, _SAFE_IN_QUERY)


def host_only(authority: str) -> str:
    """Return the host in the value of a Host header, without port and brackets."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    host, colon, port = authority.rpartition(":")
    return host if colon and ":" not in host and (port.isdigit() or not port) else authority
