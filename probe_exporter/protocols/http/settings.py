"""Settings of an HTTP client: authentication, proxies, TLS, redirects.

They are keys of the ``http`` block, and of the blocks of other probers that send HTTP requests.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainSerializer, model_validator

from probe_exporter.protocols.http.proxy import DEFAULT_PORTS, Proxies
from probe_exporter.protocols.http.syntax import is_token
from probe_exporter.protocols.http.url import parse
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import FilePath, Text
from probe_exporter.settings.rules import NO_SECRET_MANAGER, Block, Rule, exclusive, needs, required
from probe_exporter.settings.secrets import Named, Secret
from probe_exporter.tls.settings import TLSSettings

RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "user-agent",
        "www-authenticate",
        "x-amz-content-sha256",
        "x-amz-date",
        "x-amz-security-token",
        "x-prometheus-remote-read-version",
        "x-prometheus-remote-write-version",
        "x-prometheus-scrape-timeout-seconds",
    }
)
"""Headers that ``http_headers`` may not set, in lower case: they have keys of their own or belong to the protocol."""

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
"""The grant type of RFC 7523: a signed assertion instead of a client secret."""


_URL = re.compile(
    r"""
    (?: [A-Z][A-Z0-9+.-]* : | (?! [^/?\#]* : ) )          # a scheme; without one, no colon before the first slash
    (?: // (?: (?: [A-Z0-9._~!$&'()*+,;=:@-] | %[0-9A-F]{2} )* @ )?
           (?: \[ [0-9A-F:.]*:[0-9A-F:.]* (?: %25 [^]%]* )? ] | (?: [^][ %/?\#^|{}`\\:@] | %25 | %[89A-F][0-9A-F] )* )
           (?: : [0-9]* )? (?= [/?\#] | $ )
      | (?! // ) )
    (?: [^%?\#] | %[0-9A-F]{2} )*                         # the path
    (?: \? [^\#]* )?
    (?: \# (?: [^%] | %[0-9A-F]{2} )* )?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _url(text: str) -> str:
    """Refuse what is not a URL; relative URLs are accepted (RFC 3986, 4.1)."""
    if _CONTROL.search(text) or not _URL.fullmatch(text):
        raise ValueError("not a URL; expected one like http://proxy.example:3128")
    return text


def mask_url(url: str) -> str:
    """Return a URL with ``xxxxx`` instead of its password."""
    scheme, separator, rest = url.partition("://")
    user, at, host = rest.rpartition("@") if "/" not in rest else _split_user(rest)
    name, colon, _ = user.partition(":")
    return f"{scheme}{separator}{name}{colon}xxxxx{at}{host}" if at and colon else url


def _split_user(rest: str) -> tuple[str, str, str]:
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    return user, at, host + slash + path


ShownURL = Annotated[Text, PlainSerializer(mask_url, return_type=str)]
"""A URL whose password is masked in output."""

ProxyURL = Annotated[Text, AfterValidator(_url), PlainSerializer(mask_url, return_type=str)]
"""The URL of a proxy, whose password is masked in output."""


def references(settings: Settings, *keys: str) -> Iterator[tuple[str, str]]:
    """Yield cautions about ``*_ref`` keys: they are accepted for compatibility, but there is no secret manager."""
    return ((key, NO_SECRET_MANAGER) for key in keys if getattr(settings, key))


class BasicAuth(Settings):
    """The ``basic_auth`` block. An empty one sends a header too, with empty user name and password.

    Args:
        username: the user name.
        username_file: file with the user name.
        username_ref: accepted for compatibility only; there is no secret manager.
        password: the password.
        password_file: file with the password.
        password_ref: accepted for compatibility only; there is no secret manager.
    """

    rules = (
        exclusive("username", "username_file", "username_ref"),
        exclusive("password", "password_file", "password_ref"),
    )
    username: Text = ""
    username_file: FilePath = ""
    username_ref: Text = ""
    password: Secret = Secret("")
    password_file: FilePath = ""
    password_ref: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        return references(self, "username_ref", "password_ref")


def _no_basic(block: Block) -> Iterator[tuple[str, str]]:
    if str(block.get("type", "")).strip().lower() == "basic":
        yield "type", "the type Basic is not allowed; use `basic_auth`"


class Authorization(Settings):
    """The ``authorization`` block: a header with type (``Bearer`` by default) and credentials.

    Args:
        type: the scheme, such as ``Bearer``.
        credentials: what follows the scheme.
        credentials_file: file with the credentials.
        credentials_ref: accepted for compatibility only; there is no secret manager.
    """

    rules = (exclusive("credentials", "credentials_file", "credentials_ref"), _no_basic)
    type: Annotated[Text, AfterValidator(lambda text: text.strip() or "Bearer")] = "Bearer"
    credentials: Secret = Secret("")
    credentials_file: FilePath = ""
    credentials_ref: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        return references(self, "credentials_ref")


_LINE_END = re.compile(r"[\r\n]")

_PROXY_RULES: tuple[Rule, ...] = (
    exclusive("proxy_url", "proxy_from_environment"),
    exclusive("no_proxy", "proxy_from_environment"),
    needs(
        ["proxy_connect_header"],
        ["proxy_url", "proxy_from_environment"],
        "`proxy_connect_header` needs `proxy_url` or `proxy_from_environment`",
    ),
)


def _no_proxy_needs_proxy(block: Block) -> Iterator[tuple[str, str]]:
    if block.get("no_proxy") and "proxy_url" not in block and not block.get("proxy_from_environment"):
        yield "no_proxy", "`no_proxy` needs `proxy_url`"


class ProxySettings(Settings):
    """The keys that configure proxies.

    Args:
        proxy_url: the proxy to use: ``http://``, ``https://`` or ``socks5://``.
        no_proxy: hosts to reach without the proxy, with commas between them: names, addresses and networks.
        proxy_from_environment: read ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` instead.
        proxy_connect_header: headers of the CONNECT request to the proxy.
    """

    rules = (*_PROXY_RULES, _no_proxy_needs_proxy)
    proxy_url: ProxyURL = Field(default="", repr=False)
    no_proxy: Text = ""
    proxy_from_environment: bool = False
    proxy_connect_header: dict[Text, tuple[Secret, ...]] = Field(default_factory=dict)

    @cached_property
    def proxies(self) -> Proxies:
        """The proxies by URL."""
        headers = [
            (name, _LINE_END.sub(" ", value.reveal()))
            for name, values in sorted(self.proxy_connect_header.items())
            for value in values
            if is_token(name)
        ]
        if self.proxy_from_environment:
            return Proxies.from_environment(os.environ, headers)
        return Proxies.configured(self.proxy_url, self.no_proxy, headers)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        proxy = Proxies.configured(self.proxy_url, "", []).by_scheme.get("http")
        if proxy is not None and not (proxy.host and proxy.port):
            yield "proxy_url", "has no host or no port: every probe through it will fail"
        elif proxy is not None and proxy.scheme not in DEFAULT_PORTS:
            yield "proxy_url", f"used as an http proxy; the known schemes are {', '.join(DEFAULT_PORTS)}"
        for name in self.proxy_connect_header:
            if not is_token(name):
                yield "proxy_connect_header", f"{name!r} is not a header name: it is not sent"


def _one_key_for_jwt(block: Block) -> Iterator[tuple[str, str]]:
    """Check the keys for secrets, which depend on the grant type as in the original."""
    if block.get("grant_type") != JWT_BEARER:
        yield from exclusive("client_secret", "client_secret_file", "client_secret_ref")(block)
        return
    keys = ("client_certificate_key", "client_certificate_key_file", "client_certificate_key_ref")
    yield from exclusive(*keys)(block)
    if block.get("signature_algorithm") not in (None, "", "RS256", "RS384", "RS512"):
        yield "signature_algorithm", "expected RS256, RS384 or RS512"


class OAuth2(ProxySettings):
    """The ``oauth2`` block: the token endpoint and the credentials for it.

    Args:
        client_id: the client identifier.
        client_secret: the client secret.
        client_secret_file: file with the client secret.
        client_secret_ref: accepted for compatibility only; there is no secret manager.
        client_certificate_key_id: the ``kid`` of a signed assertion (RFC 7523).
        client_certificate_key: the private key, as PEM, that signs the assertion.
        client_certificate_key_file: file with that private key.
        client_certificate_key_ref: accepted for compatibility only; there is no secret manager.
        grant_type: ``client_credentials`` or ``urn:ietf:params:oauth:grant-type:jwt-bearer``.
        signature_algorithm: algorithm of the assertion's signature: ``RS256``, ``RS384`` or ``RS512``.
        iss: issuer of the assertion; the client identifier by default.
        audience: audience of the assertion; the token URL by default.
        claims: further claims of the assertion.
        scopes: scopes to request.
        token_url: the token endpoint.
        endpoint_params: further parameters of the token request.
        tls_config: settings of TLS with the token endpoint.
    """

    rules = (*ProxySettings.rules, required("client_id", "token_url"), _one_key_for_jwt)
    client_id: Text = ""
    client_secret: Secret = Secret("")
    client_secret_file: FilePath = ""
    client_secret_ref: Text = ""
    client_certificate_key_id: Text = ""
    client_certificate_key: Secret = Secret("")
    client_certificate_key_file: FilePath = ""
    client_certificate_key_ref: Text = ""
    grant_type: Text = ""
    signature_algorithm: Text = ""
    iss: Text = ""
    audience: Text = ""
    claims: dict[str, Any] = Field(default_factory=dict)
    scopes: tuple[Text, ...] = ()
    token_url: ShownURL = ""
    endpoint_params: Named = Field(default_factory=dict)
    tls_config: TLSSettings = TLSSettings()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        yield from references(self, "client_secret_ref", "client_certificate_key_ref")
        try:
            parse(self.token_url)
        except ValueError as error:
            yield "token_url", f"{error}: every probe of this module will fail"
        taken = {"scope": bool(self.scopes), "assertion": self.grant_type == JWT_BEARER}
        for name in self.endpoint_params:
            if taken.get(name):
                yield "endpoint_params", f"sets {name} a second time: every probe of this module will fail"


class HttpHeader(Settings):
    """One entry of ``http_headers``: all values are sent, ``values`` first, then ``secrets``, then ``files``.

    Args:
        values: values as text.
        secrets: values that are masked wherever they are printed.
        files: files with one value each.
    """

    values: tuple[Text, ...] = ()
    secrets: tuple[Secret, ...] = ()
    files: tuple[FilePath, ...] = ()


def _no_reserved_headers(block: Block) -> Iterator[tuple[str, str]]:
    headers = block.get("http_headers")
    for name in headers if isinstance(headers, Mapping) else ():
        if str(name).lower() in RESERVED_HEADERS:
            yield "http_headers", f"the header {name} may not be set here"


class HttpClientSettings(ProxySettings):
    """The settings of all HTTP clients.

    Args:
        basic_auth: user name and password (RFC 7617).
        authorization: an ``Authorization`` header with other credentials.
        oauth2: fetch a token for the ``Authorization`` header (RFC 6749).
        bearer_token: deprecated; ``authorization`` with ``credentials`` replaces it.
        bearer_token_file: deprecated; ``authorization`` with ``credentials_file`` replaces it.
        tls_config: settings of TLS.
        follow_redirects: follow up to 10 redirects.
        enable_http2: offer HTTP/2 over TLS.
        http_headers: headers to send, by name, with values from text, secrets and files.
    """

    rules = (
        *ProxySettings.rules,
        exclusive("basic_auth", "authorization", "oauth2", "bearer_token", "bearer_token_file"),
        _no_reserved_headers,
    )
    basic_auth: BasicAuth | None = None
    authorization: Authorization | None = None
    oauth2: OAuth2 | None = None
    bearer_token: Secret = Field(default=Secret(""), exclude=True, json_schema_extra={"deprecated": True})
    bearer_token_file: FilePath = Field(default="", exclude=True, json_schema_extra={"deprecated": True})
    tls_config: TLSSettings = TLSSettings()
    follow_redirects: bool = True
    enable_http2: bool = True
    http_headers: dict[Text, HttpHeader] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fold_bearer_token(cls, written: Any) -> Any:
        """Convert the deprecated keys for a bearer token to an ``authorization`` block."""
        if not isinstance(written, Mapping) or "authorization" in written:
            return written
        old = {"bearer_token": "credentials", "bearer_token_file": "credentials_file"}
        block = {new: written[key] for key, new in old.items() if written.get(key)}
        return {**written, "authorization": block} if len(block) == 1 else written

    @cached_property
    def secret_reference(self) -> str:
        """The first key that refers to a secret manager; empty if none does."""
        references = {
            "basic_auth.username_ref": self.basic_auth and self.basic_auth.username_ref,
            "basic_auth.password_ref": self.basic_auth and self.basic_auth.password_ref,
            "authorization.credentials_ref": self.authorization and self.authorization.credentials_ref,
            "oauth2.client_secret_ref": self.oauth2 and self.oauth2.client_secret_ref,
            "oauth2.client_certificate_key_ref": self.oauth2 and self.oauth2.client_certificate_key_ref,
        }
        return next((key for key, reference in references.items() if reference), "")

    @cached_property
    def adds_headers(self) -> bool:
        """Whether requests get headers from these settings."""
        return bool(self.http_headers or self.basic_auth or self.authorization)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        for key in ("bearer_token", "bearer_token_file"):
            if getattr(self, key):
                yield key, f"`{key}` is deprecated; use `authorization`"
