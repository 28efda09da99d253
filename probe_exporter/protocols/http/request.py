"""Requests: what settings say of them, made ready once, and one request after another along the redirects.

Which headers and which body survive a redirect follows the Fetch standard's rules as Go's client has them, with one
change on purpose: a host is compared by its name as typed, never by the address that was chosen for it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from probe_exporter.addresses.literals import to_ascii
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.response import Headers
from probe_exporter.protocols.http.settings import Authorization, BasicAuth, HttpClientSettings
from probe_exporter.protocols.http.url import URL, has_authority, host_only, is_host
from probe_exporter.settings.fields import encode
from probe_exporter.version import VERSION

USER_AGENT = f"Blackbox-Exporter/0.28.0 probe-exporter/{VERSION}"
"""Begins as the original's does, since firewalls and log filters know it by that."""

REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})

_BELONGS_TO_FRAMING = frozenset({"Host", "Content-Length", "Transfer-Encoding", "Trailer"})
_BELONGS_TO_CONNECTION = frozenset({"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade"})
_BELONGS_TO_HOST = frozenset({"Authorization", "Cookie", "Cookie2", "Www-Authenticate"})
_ANNOUNCES_LENGTH = frozenset({"POST", "PUT", "PATCH"})


def canonical(name: str) -> str:
    """A header's name in the usual spelling: ``x-trace`` as ``X-Trace``."""
    return "-".join(part.capitalize() for part in name.split("-"))


@dataclass(frozen=True, slots=True)
class Template:
    """What of a request depends on the settings alone.

    Attributes:
        method, headers: ready to be sent; the headers without Host.
        host: the value of the Host header; empty for the target's own.
        has_authorization: a header of the settings says who we are, and nothing else may.
        body, body_file: at most one of them.
        unusable: why the headers can't be sent; empty if they can.
    """

    method: str
    headers: Headers
    host: str
    has_authorization: bool
    body: bytes
    body_file: str
    unusable: str

    @classmethod
    def make(cls, method: str, headers: Mapping[str, str], body: str, body_file: str, accept_encoding: str) -> Template:
        """
        Args:
            headers: as configured.
            accept_encoding: what to accept unless a header says so already; empty for nothing.
        """
        given = {canonical(name): value.strip(" \t") for name, value in headers.items()}
        host = host_header(given.get("Host", ""))
        if given.get("User-Agent") == "":
            del given["User-Agent"]
        else:
            given.setdefault("User-Agent", USER_AGENT)
        if accept_encoding:
            given.setdefault("Accept-Encoding", accept_encoding)
        kept = [(name, value) for name, value in given.items() if name not in _BELONGS_TO_FRAMING]
        if not {"close", "upgrade"} & set(given.get("Connection", "").lower().replace(" ", "").split(",")):
            kept.append(("Connection", "close"))
        return cls(method or "GET", kept, host, "Authorization" in given, encode(body), body_file, _flaw(given))


def host_header(value: str) -> str:
    """A configured Host header as it can be sent: in ASCII; none at all if it is no host, as the original has it."""
    try:
        host = host_only(value)
        return value.replace(host, to_ascii(host)) if is_host(host) else ""
    except ValueError:
        return ""


class HasHeaders(Protocol):
    """Settings that name headers to send."""

    @property
    def headers(self) -> dict[str, str]: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


H = TypeVar("H", bound=HasHeaders)


def with_host_header(settings: H, hostname: str, made_of_it: Iterable[str]) -> H:
    """Settings with another Host header.

    Args:
        made_of_it: the cached properties that were made of the headers, and have to be made again.

    Raises:
        ValueError: yet another one is configured.
    """
    configured = next((value for name, value in settings.headers.items() if name.lower() == "host"), None)
    if configured == hostname:
        return settings
    if configured is not None:
        raise ValueError(f"hostname {hostname!r} conflicts with the module's Host header {configured!r}")
    changed = settings.model_copy(update={"headers": {**settings.headers, "Host": hostname}})
    for name in made_of_it:
        changed.__dict__.pop(name, None)
    return changed


def _flaw(headers: Mapping[str, str]) -> str:
    """Why some configured headers can't be sent, found once and told at each probe."""
    try:
        http1.check_headers(headers.items())
    except ProbeFailed as failed:
        return failed.message
    return ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a probe, and where it goes.

    Attributes:
        host: the value of the Host header.
        headers: all others but those of framing, cookies and Referer.
        cookies, referer: their headers' values; empty for none.
        absolute: it goes to a proxy, which is to pass it on to the host.
    """

    method: str
    url: URL
    host: str
    headers: Headers
    body: bytes = b""
    body_file: str = ""
    cookies: str = ""
    referer: str = ""
    absolute: bool = False

    def head(self) -> bytes:
        """The request up to its body, for HTTP/1.1."""
        headers = [("Host", self.host), *self._fields()]
        if self.body_file:
            headers.append(("Transfer-Encoding", "chunked"))
        target = f"{self.url.scheme}://{self.host}{self.url.path}" if self.absolute else self.url.path
        return http1.request_head(self.method, target, headers)

    def forwarded(self, credentials: Headers) -> Request:
        """The same request for a proxy that is to pass it on (RFC 9112, 3.2.2).

        The Host header is what it passes it on to: a proxy has to go by the URL, and to make that header anew.

        Args:
            credentials: the headers that the proxy wants for itself.
        """
        return replace(self, absolute=True, headers=[*self.headers, *credentials])

    def fields(self) -> Headers:
        """The request up to its body, for HTTP/2 and 3 (RFC 9113, section 8.3; RFC 9114, section 4.3)."""
        pseudo = [(":authority", self.host), (":method", self.method)]
        if self.method != "CONNECT":
            pseudo += [(":path", self.url.path), (":scheme", self.url.scheme)]
        return pseudo + [
            (name.lower(), value)
            for name, value in self._fields()
            if name not in _BELONGS_TO_CONNECTION and (name != "Te" or value.lower() == "trailers")
        ]

    @property
    def upgrades(self) -> bool:
        """Whether it asks for another protocol, which HTTP/1.1 alone can do (RFC 9110, section 7.8)."""
        return any(name == "Upgrade" for name, _ in self.headers)

    def _fields(self) -> Headers:
        headers = list(self.headers)
        if self.cookies:
            own = next((at for at, (name, _) in enumerate(headers) if name == "Cookie"), None)
            if own is None:
                headers.append(("Cookie", self.cookies))
            else:
                headers[own] = ("Cookie", f"{headers[own][1]}; {self.cookies}")
        if self.referer and not any(name == "Referer" for name, _ in self.headers):
            headers.append(("Referer", self.referer))
        if not self.body_file and (self.body or self.method in _ANNOUNCES_LENGTH):
            headers.append(("Content-Length", str(len(self.body))))
        return headers

    def redirected(self, status: int, location: str, first: URL) -> Request:
        """The request that a redirect asks for.

        Args:
            status: one of `REDIRECT_CODES`.
            location: the Location header.
            first: the URL that the probe began with; credentials stay with its host and that host's subdomains.

        Raises:
            ValueError: the location is nowhere we can go.
        """
        url = self.url.join(location)
        method, body, body_file, headers = self.method, self.body, self.body_file, self.headers
        if status in (301, 302, 303):
            method = "HEAD" if method == "HEAD" else "GET"
            body, body_file = b"", ""
            headers = [(name, value) for name, value in headers if not name.startswith("Content-")]
        if not _within(url.host, first.host):
            headers = [(name, value) for name, value in headers if not _is_of_host(name)]
        if url.user is not None and not any(name == "Authorization" for name, _ in headers):
            headers = [*headers, ("Authorization", basic(url.user, url.password or ""))]
        return replace(
            self,
            method=method,
            url=url,
            host=url.authority if has_authority(location) else self.host,
            headers=headers,
            body=body,
            body_file=body_file,
            cookies="",
            referer=str(self.url) if url.secure or not self.url.secure else "",
        )


def first_request(template: Template, settings: HttpClientSettings, url: URL, token: str = "") -> Request:
    """The request that a probe begins with. Reads the files that the settings name.

    Args:
        token: an Authorization header that wins over any other; empty for none.

    Raises:
        ProbeFailed: a file can't be read, or what it holds can't be sent.
    """
    if template.unusable:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, template.unusable)
    headers = list(template.headers)
    if token:
        headers = [*((name, value) for name, value in headers if name != "Authorization"), ("Authorization", token)]
    elif not template.has_authorization:
        credentials = basic(url.user, url.password or "") if url.user is not None else authorization(settings)
        if credentials:
            headers.append(("Authorization", credentials))
    headers += own_headers(settings)
    if len(headers) > len(template.headers):
        http1.check_headers(headers[len(template.headers) :])
    return Request(
        method=template.method,
        url=url,
        host=template.host or url.authority,
        headers=headers,
        body=template.body,
        body_file=template.body_file,
    )


def own_headers(settings: HttpClientSettings) -> Headers:
    """The headers of ``http_headers``. Reads the files that they name.

    Raises:
        ProbeFailed: one can't be read.
    """
    headers = []
    for name, header in settings.http_headers.items():
        values = [*header.values, *(secret.reveal() for secret in header.secrets)]
        values += [read_file(path, f"http_headers.{name}.files") for path in header.files]
        headers += [(canonical(name), value.strip(" \t")) for value in values]
    return headers


def authorization(settings: HttpClientSettings) -> str:
    """The Authorization header that ``basic_auth`` or ``authorization`` gives; empty without either."""
    if settings.basic_auth is not None:
        return _basic_auth(settings.basic_auth)
    if settings.authorization is not None:
        return _authorization(settings.authorization)
    return ""


def basic(user: str, password: str) -> str:
    """The Basic scheme's header value (RFC 7617)."""
    return "Basic " + base64.b64encode(encode(f"{user}:{password}")).decode("ascii")


def check_references(settings: HttpClientSettings) -> None:
    """
    Raises:
        ProbeFailed: something is to come from a secret manager, and there is none.
    """
    asked = {
        "basic_auth.username_ref": settings.basic_auth and settings.basic_auth.username_ref,
        "basic_auth.password_ref": settings.basic_auth and settings.basic_auth.password_ref,
        "authorization.credentials_ref": settings.authorization and settings.authorization.credentials_ref,
        "oauth2.client_secret_ref": settings.oauth2 and settings.oauth2.client_secret_ref,
        "oauth2.client_certificate_key_ref": settings.oauth2 and settings.oauth2.client_certificate_key_ref,
    }
    for key, reference in asked.items():
        if reference:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{key} needs a secret manager: there is none here")


def _basic_auth(block: BasicAuth) -> str:
    user, password = block.username, block.password.reveal()
    if block.username_file:
        user = read_file(block.username_file, "basic_auth.username_file")
    if block.password_file:
        password = read_file(block.password_file, "basic_auth.password_file")
    return basic(user, password)


def _authorization(block: Authorization) -> str:
    credentials = block.credentials.reveal()
    if block.credentials_file:
        credentials = read_file(block.credentials_file, "authorization.credentials_file")
    return f"{block.type} {credentials}".rstrip()


def read_file(path: str, key: str) -> str:
    """What the file that a setting names holds, without the white space around it.

    Raises:
        ProbeFailed: it can't be read.
    """
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape").strip()
    except OSError as error:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{key}: {path} can't be read: {error.strerror}") from None


def _within(host: str, parent: str) -> bool:
    """Whether a host is another one or a subdomain of it."""
    host, parent = host.lower(), parent.lower()
    return host == parent or (host.endswith("." + parent) and ":" not in host)


def _is_of_host(name: str) -> bool:
    return name in _BELONGS_TO_HOST or name.startswith("Proxy-")
