"""`Proxies`: choose the proxy for a URL, from settings or environment variables, without I/O (see `tunnel`).

The rules for ``no_proxy`` and for the variables are those of Go's clients, so that a list means the same as in the
original. A rule can match the host as written or the address that was chosen for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from probe_exporter.addresses import literals
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.protocols.http.response import Headers
from probe_exporter.protocols.http.url import URL

DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}
"""The schemes of proxies. Any other means plain HTTP, as in the original, but has no default port."""

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy.

    Attributes:
        scheme: a key of `DEFAULT_PORTS`, or something else that means ``http``.
        host, port: empty and 0 if its URL has none.
        user, password: decoded; None if its URL has no such part.
        connect_headers: additional headers of CONNECT; they can be secrets.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    connect_headers: Headers = field(default_factory=list, repr=False)

    @classmethod
    def parse(cls, url: str, connect_headers: Headers) -> Self:
        """Parse a proxy's URL; probes report what it lacks."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:  # no address in the brackets, or a port above 65535
            return cls(url.partition(":")[0], "", 0)
        return cls(
            parts.scheme,
            parts.hostname or "",
            DEFAULT_PORTS.get(parts.scheme, 0) if port is None else port,
            None if parts.username is None else unquote(parts.username),
            None if parts.password is None else unquote(parts.password),
            connect_headers,
        )

    @property
    def is_socks(self) -> bool:
        return self.scheme in ("socks5", "socks5h")

    @property
    def secure(self) -> bool:
        """Whether connections to the proxy use TLS."""
        return self.scheme == "https"

    def forwards(self, url: URL) -> bool:
        """Return whether the proxy forwards requests for a URL, instead of opening a tunnel."""
        return not (self.is_socks or url.secure)

    def __str__(self) -> str:
        """Return its URL without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Name:
    """A rule for a name and its subdomains."""

    name: str  # in lower case and ASCII
    itself: bool
    port: str  # empty for any

    def fits(self, host: str, port: str) -> bool:
        if self.port not in ("", port):
            return False
        return (self.itself and host == self.name) or host.endswith("." + self.name)


class NoProxy:
    """The hosts that need no proxy: those of a ``no_proxy`` list, localhost and loopback addresses."""

    def __init__(self, rules: str) -> None:
        """
        Args:
            rules: separated by commas: ``*``, an address, a network, or a name (with a leading dot its subdomains
                only). All but networks can have a port. Anything else is ignored.
        """
        self._everything = False
        self._networks: list[_Network] = []
        self._addresses: set[tuple[str, str]] = set()
        self._names: list[_Name] = []
        for rule in rules.split(","):
            self._add(rule.strip().lower())

    def exempts(self, host: str, port: int, addresses: Sequence[str] = ()) -> bool:
        """Return whether a host is connected to without the proxy.

        Args:
            host: as in a URL.
            addresses: those chosen for it, if known.
        """
        host = _normal(host)
        known = literals.literal(host)
        candidates = [known] if known is not None else list(addresses)
        if self._everything or host == "localhost" or any(rule.fits(host, str(port)) for rule in self._names):
            return True
        return any(self._exempts_address(address, str(port)) for address in candidates)

    def _exempts_address(self, text: str, port: str) -> bool:
        if (text, "") in self._addresses or (text, port) in self._addresses:
            return True
        address = ipaddress.ip_address(text)
        return address.is_loopback or any(address in network for network in self._networks)

    def _add(self, rule: str) -> None:
        if not rule:
            return
        if rule == "*":
            self._everything = True
        elif "/" in rule:
            self._networks += _network(rule)
        else:
            host, port = _split_port(rule)
            address = literals.literal(host)
            if address is not None:
                self._addresses.add((address, port))
            elif host.strip("."):
                host = host.removeprefix("*") if host.startswith("*.") else host
                self._names.append(_Name(_normal(host.removeprefix(".")), not host.startswith("."), port))


def _normal(host: str) -> str:
    """Return a host in the form that rules are compared with."""
    try:
        return to_ascii(host.lower())
    except ValueError:
        return host.lower()


def _network(rule: str) -> list[_Network]:
    """Return the network ``address/bits``; nothing if it is invalid."""
    if not rule.rpartition("/")[2].isdecimal():  # Python would accept a mask too
        return []
    try:
        return [ipaddress.ip_network(rule, strict=False)]
    except ValueError:
        return []


def _split_port(rule: str) -> tuple[str, str]:
    """Return host and port of a rule; an IPv6 address with a port is in brackets."""
    if rule.startswith("["):
        host, closed, port = rule[1:].partition("]:")
        return (host, port) if closed else (rule, "")
    host, colon, port = rule.rpartition(":")
    return (host, port) if colon and ":" not in host else (rule, "")


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies of one block of settings.

    Attributes:
        by_scheme: the proxy for each scheme of URLs that has one.
        no_proxy: the hosts without proxy; None if all hosts have one, localhost included.
    """

    by_scheme: Mapping[str, Proxy]
    no_proxy: NoProxy | None

    @classmethod
    def configured(cls, url: str, no_proxy: str, connect_headers: Headers) -> Self:
        """Return one proxy for all URLs; none if `url` is empty."""
        proxies = dict.fromkeys(("http", "https"), Proxy.parse(url, connect_headers)) if url else {}
        return cls(proxies, NoProxy(no_proxy) if no_proxy else None)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], connect_headers: Headers) -> Self:
        """Return the proxies of ``http_proxy``, ``https_proxy`` and ``no_proxy``, or else of the same in capitals."""
        proxies = {}
        for scheme in ("http", "https"):
            url = _variable(environment, f"{scheme}_proxy")
            if url:
                proxy = Proxy.parse(url if _SCHEME.match(url) else "http://" + url, connect_headers)
                if proxy.host:  # an invalid variable counts as unset
                    proxies[scheme] = proxy
        return cls(proxies, NoProxy(_variable(environment, "no_proxy")))

    def choose(self, url: URL, addresses: Sequence[str] = ()) -> Proxy | None:
        """Return the proxy for a URL; None if it needs none.

        Args:
            addresses: those chosen for its host, if known.
        """
        proxy = self.by_scheme.get(url.scheme)
        if proxy is None or (self.no_proxy is not None and self.no_proxy.exempts(url.host, url.port, addresses)):
            return None
        return proxy


def _variable(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name) or environment.get(name.upper(), "")
