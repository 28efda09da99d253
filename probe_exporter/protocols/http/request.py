"""Build requests: a `RequestTemplate` from the settings, the first `Request`, and those after redirects.

Which headers and which body survive a redirect follows the Fetch standard as Go's client implements it, with one
deliberate difference: hosts are compared by name, never by the address that was chosen for the name.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.prober import files
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.response import Headers
from probe_exporter.protocols.http.settings import Authorization, BasicAuth, HttpClientSettings
from probe_exporter.protocols.http.url import URL, has_authority, host_only, is_host
from probe_exporter.settings.fields import encode
from probe_exporter.version import VERSION

USER_AGENT = f"Blackbox-Exporter/0.28.0 probe-exporter/{VERSION}"
"""Begins like the original's, because firewalls and log filters match that."""

REDIRECT_CODES = frozenset({301, 302, 303, 307, 308})

_BELONGS_TO_FRAMING = frozenset({"Host", "Content-Length", "Transfer-Encoding", "Trailer"})
_BELONGS_TO_CONNECTION = frozenset({"Connection", "Keep-Alive", "Proxy-Connection", "Upgrade"})
_BELONGS_TO_HOST = frozenset({"Authorization", "Cookie", "Cookie2", "Www-Authenticate"})
_ANNOUNCES_LENGTH = frozenset({"POST", "PUT", "PATCH"})


_new = tuple.__new__


class FixedHeaders(tuple[tuple[str, str], ...]):  # noqa: SLOT001  # a tuple has slots for nothing else
    """The headers of a template, which all of its requests share; what is added to them makes an ordinary list.

    Attributes:
        lines: the headers as `http1.header_lines` returns them.
    """

    lines: str

    def __new__(cls, headers: Headers) -> Self:
        made = super().__new__(cls, headers)
        made.lines = http1.header_lines(headers)
        return made


def canonical(name: str) -> str:
    """Return a header's name in the usual case: ``X-Trace`` for ``x-trace``."""
    return "-".join(part.capitalize() for part in name.split("-"))


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """The parts of a request that depend on the settings only.

    Attributes:
        method, headers: ready to send; the headers without Host.
        host: the value of the Host header; empty for the target's host.
        has_authorization: the settings have an Authorization header, which no other credentials replace.
        body, body_file: at most one of them is not empty.
        unusable: why the headers can't be sent; empty if they can.
    """

    method: str
    headers: FixedHeaders
    host: str
    has_authorization: bool
    body: bytes
    body_file: str
    unusable: str

    @classmethod
    def make(
        cls, method: str, headers: Mapping[str, str], body: str, body_file: str, accept_encoding: str
    ) -> RequestTemplate:
        """Make a template.

        Args:
            headers: as configured.
            accept_encoding: the value of Accept-Encoding, unless `headers` has one; empty for none.
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
        has_authorization = "Authorization" in given
        return cls(method or "GET", FixedHeaders(kept), host, has_authorization, encode(body), body_file, _flaw(given))


def host_header(value: str) -> str:
    """Return a configured Host header in ASCII; an empty string if it is not a host, as in the original."""
    try:
        host = host_only(value)
        return value.replace(host, to_ascii(host)) if is_host(host) else ""
    except ValueError:
        return ""


class HasHeaders(Protocol):
    """Settings with headers to send."""

    @property
    def headers(self) -> dict[str, str]: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


H = TypeVar("H", bound=HasHeaders)


def with_host_header(settings: H, hostname: str, made_of_it: Iterable[str]) -> H:
    """Return settings with another Host header.

    Args:
        made_of_it: the cached properties that depend on the headers.

    Raises:
        ValueError: the settings have a different Host header.
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
    """Return why configured headers can't be sent; empty if they can."""
    try:
        http1.check_headers(headers.items())
    except ProbeFailed as failed:
        return failed.message
    return ""


class Request(NamedTuple):  # each probe makes one: a frozen dataclass of nine fields takes several times as long
    """One request and its URL.

    Attributes:
        host: the value of the Host header.
        headers: all others except those of framing, Cookie and Referer.
        cookies, referer: the values of these headers; empty for none.
        absolute: the request goes to a proxy that forwards it, with the whole URL in its request line.
    """

    method: str
    url: URL
    host: str
    headers: Sequence[tuple[str, str]]
    body: bytes = b""
    body_file: str = ""
    cookies: str = ""
    referer: str = ""
    absolute: bool = False

    def head(self) -> bytes:
        """Return the request without its body, for HTTP/1.1."""
        headers = self._all_headers()
        lines = headers.lines if isinstance(headers, FixedHeaders) else http1.header_lines(headers)
        if self.body_file:
            lines += "Transfer-Encoding: chunked\r\n"
        target = f"{self.url.scheme}://{self.host}{self.url.path}" if self.absolute else self.url.path
        return http1.request_head(self.method, target, f"Host: {self.host}\r\n{lines}")

    def forwarded(self, credentials: Headers) -> Request:
        """Return the request for a proxy that forwards it (RFC 9112, 3.2.2).

        The URL in the request line has the host of the Host header: a proxy must use the URL, and replaces the header.

        Args:
            credentials: headers for the proxy itself.
        """
        return self._replace(absolute=True, headers=[*self.headers, *credentials])

    def fields(self) -> Headers:
        """Return the request without its body, for HTTP/2 and 3 (RFC 9113, section 8.3; RFC 9114, section 4.3)."""
        pseudo = [(":authority", self.host), (":method", self.method)]
        if self.method != "CONNECT":
            pseudo += [(":path", self.url.path), (":scheme", self.url.scheme)]
        return pseudo + [
            (name.lower(), value)
            for name, value in self._all_headers()
            if name not in _BELONGS_TO_CONNECTION and (name != "Te" or value.lower() == "trailers")
        ]

    @property
    def upgrades(self) -> bool:
        """Whether the request asks for another protocol, which needs HTTP/1.1 (RFC 9110, section 7.8)."""
        return "Upgrade" in dict(self.headers)

    def _all_headers(self) -> Sequence[tuple[str, str]]:
        has_length = not self.body_file and (self.body or self.method in _ANNOUNCES_LENGTH)
        if not (has_length or self.cookies or self.referer):
            return self.headers
        headers = list(self.headers)
        if self.cookies:
            own = next((at for at, (name, _) in enumerate(headers) if name == "Cookie"), None)
            if own is None:
                headers.append(("Cookie", self.cookies))
            else:
                headers[own] = ("Cookie", f"{headers[own][1]}; {self.cookies}")
        if self.referer and not any(name == "Referer" for name, _ in self.headers):
            headers.append(("Referer", self.referer))
        if has_length:
            headers.append(("Content-Length", str(len(self.body))))
        return headers

    def redirected(self, status: int, location: str, first: URL) -> Request:
        """Return the request for a redirect.

        Args:
            status: one of `REDIRECT_CODES`.
            location: the Location header.
            first: the probe's first URL; credentials are sent to its host and subdomains of it only.

        Raises:
            ValueError: the location can't be followed.
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
        return self._replace(
            method=method,
            url=url,
            host=url.authority if has_authority(location) else self.host,
            headers=headers,
            body=body,
            body_file=body_file,
            cookies="",
            referer=str(self.url) if url.secure or not self.url.secure else "",
        )


def first_request(template: RequestTemplate, settings: HttpClientSettings, url: URL, token: str = "") -> Request:
    """Return the first request of a probe, with the content of the files that the settings name.

    Args:
        token: an Authorization header that replaces any other; empty for none.

    Raises:
        ProbeFailed: a file can't be read, or its content can't be sent.
    """
    if template.unusable:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, template.unusable)
    headers: Sequence[tuple[str, str]] = template.headers
    if token or url.user is not None or settings.adds_headers:
        headers = _with_credentials(template, settings, url, token)
    host = template.host or url.authority
    # Not `Request(…)`, which is a function in Python.
    return _new(Request, (template.method, url, host, headers, template.body, template.body_file, "", "", False))


def _with_credentials(
    template: RequestTemplate, settings: HttpClientSettings, url: URL, token: str
) -> Sequence[tuple[str, str]]:
    """Return the headers of the template, the Authorization header, and those of ``http_headers``."""
    headers: Sequence[tuple[str, str]] = template.headers
    if token:
        headers = [*((name, value) for name, value in headers if name != "Authorization"), ("Authorization", token)]
    elif not template.has_authorization:
        credentials = basic(url.user, url.password or "") if url.user is not None else authorization(settings)
        if credentials:
            headers = [*headers, ("Authorization", credentials)]
    if settings.http_headers:
        headers = [*headers, *own_headers(settings)]
    if len(headers) > len(template.headers):
        http1.check_headers(headers[len(template.headers) :])
    return headers


def own_headers(settings: HttpClientSettings) -> Headers:
    """Return the headers of ``http_headers``, with the content of the files that they name.

    Raises:
        ProbeFailed: a file can't be read.
    """
    headers = []
    for name, header in settings.http_headers.items():
        values = [*header.values, *(secret.reveal() for secret in header.secrets)]
        values += [read_file(path, f"http_headers.{name}.files") for path in header.files]
        headers += [(canonical(name), value.strip(" \t")) for value in values]
    return headers


def authorization(settings: HttpClientSettings) -> str:
    """Return the Authorization header of ``basic_auth`` or ``authorization``; empty without either."""
    if settings.basic_auth is not None:
        return _basic_auth(settings.basic_auth)
    if settings.authorization is not None:
        return _authorization(settings.authorization)
    return ""


def basic(user: str, password: str) -> str:
    """Return the header value of the Basic scheme (RFC 7617)."""
    return "Basic " + base64.b64encode(encode(f"{user}:{password}")).decode("ascii")


def check_references(settings: HttpClientSettings) -> None:
    """Check that no setting refers to a secret manager.

    Raises:
        ProbeFailed: one does.
    """
    if settings.secret_reference:
        what = f"{settings.secret_reference} needs a secret manager, and there is none"
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, what)


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
    """Return the content of a file that a setting names, without surrounding white space.

    Raises:
        ProbeFailed: the file can't be read.
    """
    try:
        return files.read_file(path, files.MAX_SECRET_BYTES).decode("utf-8", "surrogateescape").strip()
    except OSError as error:
        check_files(error, f"reading {path}")
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{key}: {path} can't be read: {error.strerror}") from None


def _within(host: str, parent: str) -> bool:
    """Return whether a host equals another one or is a subdomain of it."""
    host, parent = host.lower(), parent.lower()
    return host == parent or (host.endswith("." + parent) and ":" not in host)


def _is_of_host(name: str) -> bool:
    return name in _BELONGS_TO_HOST or name.startswith("Proxy-")
