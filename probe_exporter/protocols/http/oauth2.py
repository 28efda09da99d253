"""Tokens by OAuth 2.0: client credentials (RFC 6749, section 4.4) and a signed assertion in their place (RFC 7523).

A token is kept until shortly before it ends; probes that need one at the same time wait for the same request. That
request lives as long as somebody waits for it: each waiter by its own deadline, none at the expense of the others.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import parse_qsl, quote_plus, urlencode

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.run import Network, Probe
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.content import Body, receive
from probe_exporter.protocols.http.exchange import Exchange
from probe_exporter.protocols.http.journey import Hop, Journey
from probe_exporter.protocols.http.request import Request, basic, read_file
from probe_exporter.protocols.http.response import Headers, Response
from probe_exporter.protocols.http.settings import JWT_BEARER, HttpClientSettings, OAuth2
from probe_exporter.protocols.http.url import URL, parse
from probe_exporter.settings.fields import encode
from probe_exporter.settings.secrets import MASK
from probe_exporter.tls.settings import TLSSettings

ANSWER_LIMIT = 1024 * 1024
"""Bytes of an answer that are read."""

MARGIN = 10.0
"""Seconds before its end at which a token is no longer used: it has to arrive while it is good."""

ASSERTION_LIFETIME = 600
"""Seconds that an assertion of ours is good for."""

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "RS256": hashes.SHA256(),
    "RS384": hashes.SHA384(),
    "RS512": hashes.SHA512(),
}
_FORMS = ("application/x-www-form-urlencoded", "text/plain")
_TYPES = {"": "Bearer", "bearer": "Bearer", "mac": "MAC", "basic": "Basic"}

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is shown to a target.

    Attributes:
        authorization: the value of the header.
        until: when it is no longer used, on `time.monotonic`; in the past for one that is used once.
    """

    authorization: str = field(repr=False)
    until: float


@dataclass(slots=True)
class _Fetch:
    """A request for a token that is on its way, and how many wait for it."""

    task: asyncio.Task[Token]
    waiting: int = 0


class TokenSource:
    """Fetches the tokens of one ``oauth2`` block, and keeps the last one for the probes that share the block."""

    def __init__(self, settings: OAuth2) -> None:
        self._settings = settings
        self._client = HttpClientSettings.model_construct(
            tls_config=settings.tls_config,
            proxy_url=settings.proxy_url,
            no_proxy=settings.no_proxy,
            proxy_from_environment=settings.proxy_from_environment,
            proxy_connect_header=settings.proxy_connect_header,
            enable_http2=False,
        )
        self._kept: Token | None = None
        self._fetch: _Fetch | None = None

    def kept(self) -> Token | None:
        """The token of an earlier probe, while it is good."""
        if self._kept is not None and self._kept.until <= time.monotonic():
            self._kept = None
        return self._kept

    def drop(self, token: Token) -> None:
        """Do not use a token again: a target has refused it."""
        if self._kept is token:
            self._kept = None

    async def travel(self, probe: Probe, user_agent: str, travel: Callable[[str], Awaitable[Exchange]]) -> Exchange:
        """Travel with the token of an earlier probe; with a new one if there is none, or if the target refuses it.

        Args:
            user_agent: what to call ourselves where a token is fetched; empty for nothing.
            travel: goes to the target with an Authorization header; may be called twice.

        Raises:
            ProbeFailed: there is no token to be had, or `travel` failed.
        """
        kept = self.kept()
        if kept is not None:
            exchange = await self._show(kept, travel)
            if exchange.response.status != 401:
                return exchange
            probe.log("The target refuses the token of an earlier probe: trying another", level=logging.INFO)
        token = self.kept()  # another probe may have fetched one meanwhile
        if token is None:
            with probe.phase("token"):
                token = await self.fetch(user_agent, probe.network)
            probe.log("Fetched a token")
        return await self._show(token, travel)

    async def _show(self, token: Token, travel: Callable[[str], Awaitable[Exchange]]) -> Exchange:
        """Travel with a token, and forget it if that is what the target objects to."""
        exchange = await travel(token.authorization)
        if exchange.response.status == 401:
            self.drop(token)
        return exchange

    async def fetch(self, user_agent: str, network: Network | None) -> Token:
        """A new token, from the request that is on its way if there is one.

        Args:
            user_agent: what to call ourselves; empty for nothing.
            network: of the probe; all that share this source have the same policy.

        Raises:
            ProbeFailed: there is no token to be had.
        """
        if self._fetch is None:
            self._fetch = _Fetch(asyncio.create_task(self._request(user_agent, network)))
        fetch = self._fetch
        fetch.waiting += 1
        try:
            return await asyncio.shield(fetch.task)
        except ProbeFailed as failed:  # an exception of our own: others raise this one too
            raise ProbeFailed(failed.reason, failed.message, **failed.fields) from None
        finally:
            fetch.waiting -= 1
            if not fetch.waiting:
                fetch.task.cancel()
            if self._fetch is fetch and (fetch.task.done() or not fetch.waiting):
                self._fetch = None

    async def _request(self, user_agent: str, network: Network | None) -> Token:
        """Ask for a token, in every way that there is."""
        settings, url = self._settings, self._url()
        agent = [("User-Agent", user_agent)] if user_agent else []
        with _blaming(url):
            if settings.grant_type == JWT_BEARER:
                form = _form(settings, {"grant_type": JWT_BEARER, "assertion": _assertion(settings)})
                return await self._ask(url, agent, form, network)
            form, secret = _form(settings, {"grant_type": "client_credentials"}), _secret(settings)
            in_header = ("Authorization", basic(_escape(settings.client_id), _escape(secret)))
            try:
                return await self._ask(url, [*agent, in_header], form, network, secret)
            except ProbeFailed:  # some servers want to read it in the form
                form |= {"client_id": settings.client_id} | ({"client_secret": secret} if secret else {})
                return await self._ask(url, agent, form, network, secret)

    def _url(self) -> URL:
        try:
            return parse(self._settings.token_url)
        except ValueError as error:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"oauth2.token_url: {error}") from None

    async def _ask(self, url: URL, headers: Headers, form: Form, network: Network | None, secret: str = "") -> Token:
        """One request for a token, and what its answer says.

        Args:
            secret: what no message may repeat.
        """
        headers = [
            *headers,
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close"),
        ]
        body = urlencode(sorted(form.items()), errors="surrogateescape").encode("ascii")
        request = Request("POST", url, url.authority, headers, body)
        own = None if network is None else network.for_another_run()  # it has other names than the target
        probe = Probe(str(url), math.inf, network=own)  # what it measures is not about the target
        journey = Journey(probe, self._client, AddressSettings())
        if self._client.tls_config != TLSSettings():
            journey.prepare_tls()  # a file that can't be read is an error for http too, as it is for a target
        try:
            server_name = self._settings.tls_config.server_name or url.host
            exchange = await journey.travel(Hop(request, [], server_name), None)
            self._kept = token = _token(exchange.response, await _read(exchange), secret)
        finally:
            journey.end()
        return token


@contextmanager
def _blaming(url: URL) -> Iterator[None]:
    """Say of a failure that it is one to get a token."""
    try:
        yield
    except ProbeFailed as failed:
        if failed.reason in (Reason.SETTINGS_UNUSABLE, Reason.TARGET_DENIED):
            raise
        reason = Reason.OAUTH2_CONNECT
        if failed.reason in TIMEOUTS.values():
            reason = Reason.OAUTH2_TIMEOUT
        elif failed.reason is Reason.OAUTH2_TOKEN or failed.reason.startswith("http_"):
            reason = Reason.OAUTH2_TOKEN
        raise ProbeFailed(reason, f"no token from {url.scheme}://{url.authority}: {failed.message}") from None


# What is asked.


def _form(settings: OAuth2, grant: Form) -> Form:
    """The fields of a request; ``endpoint_params`` may name another grant, and set nothing else anew."""
    form = grant | ({"scope": " ".join(settings.scopes)} if settings.scopes else {})
    for name in settings.endpoint_params:
        if name in form and name != "grant_type":
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"oauth2.endpoint_params may not set {name} a second time")
    return form | settings.endpoint_params


def _secret(settings: OAuth2) -> str:
    if settings.client_secret_file:
        return read_file(settings.client_secret_file, "oauth2.client_secret_file")
    return settings.client_secret.reveal()


def _escape(text: str) -> str:
    """As RFC 6749, section 2.3.1 has it, so that a colon in an id is told from the one after it."""
    return quote_plus(text, errors="surrogateescape")


def _assertion(settings: OAuth2) -> str:
    """A JWT that says who we are (RFC 7523, section 3), signed; ``claims`` go before our own."""
    now = int(time.time())
    algorithm = settings.signature_algorithm or "RS256"
    header = {"alg": algorithm, "typ": "JWT"}
    if settings.client_certificate_key_id:
        header["kid"] = settings.client_certificate_key_id
    claims: dict[str, Any] = {
        "iss": settings.iss or settings.client_id,
        "sub": settings.client_id,
        "aud": settings.audience or settings.token_url,
        "iat": now,
        "exp": now + ASSERTION_LIFETIME,
        "jti": str(uuid.uuid4()),
    }
    if settings.scopes:
        claims["scope"] = " ".join(settings.scopes)
    text = f"{_segment(header)}.{_segment(claims | settings.claims)}"
    signature = _key(settings).sign(text.encode("ascii"), padding.PKCS1v15(), _HASHES[algorithm])
    return f"{text}.{_base64url(signature)}"


def _segment(values: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(values, separators=(",", ":")).encode("ascii"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _key(settings: OAuth2) -> rsa.RSAPrivateKey:
    pem = settings.client_certificate_key.reveal()
    if settings.client_certificate_key_file:
        pem = read_file(settings.client_certificate_key_file, "oauth2.client_certificate_key_file")
    try:
        key = serialization.load_pem_private_key(encode(pem), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = type(error).__name__  # the text might quote the key
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"oauth2: unusable client_certificate_key ({what})") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "oauth2: client_certificate_key is no RSA key")
    return key


# What is answered.


async def _read(exchange: Exchange) -> bytes:
    coding = (exchange.response.get("content-encoding") or "").strip().lower()
    body = Body("gzip" if coding == "gzip" else "", limit=ANSWER_LIMIT, hold=True)
    await receive(exchange, body)
    return body.text


def _token(response: Response, answer: bytes, secret: str) -> Token:
    """The token in an answer (RFC 6749, section 5.1).

    Raises:
        ProbeFailed: there is none.
    """
    media_type = (response.get("content-type") or "").partition(";")[0].strip().lower()
    try:
        said = dict(parse_qsl(answer.decode(), True)) if media_type in _FORMS else json.loads(answer)
    except (ValueError, RecursionError):
        said = None
    fields = {name.lower(): value for name, value in said.items()} if isinstance(said, dict) else {}
    token, kind = fields.get("access_token"), fields.get("token_type") or ""
    if not (200 <= response.status < 300 and isinstance(token, str) and token and isinstance(kind, str)):
        what = f"status {response.status} and no token{_complaint(fields, secret)}"
        raise ProbeFailed(Reason.OAUTH2_TOKEN, f"it answers with {what}", status_code=response.status)
    authorization = f"{_TYPES.get(kind.lower(), kind)} {token}"
    try:
        http1.check_headers([("Authorization", authorization)])
    except ProbeFailed:
        raise ProbeFailed(Reason.OAUTH2_TOKEN, "its token can't be sent in a header") from None
    return Token(authorization, time.monotonic() + _lifetime(fields.get("expires_in")) - MARGIN)


def _complaint(fields: Mapping[str, Any], secret: str) -> str:
    """What a server says is wrong (RFC 6749, section 5.2), as far as it can be shown."""
    said = " ".join(str(fields[name]) for name in ("error", "error_description") if fields.get(name))
    shown = said.replace(secret, MASK) if secret else said
    return f": {shown[:200]}" if shown else ""


def _lifetime(value: object) -> float:
    """Seconds that a token is good for; 0 if nobody says, so that it is used once."""
    try:
        seconds = float(int(value) if isinstance(value, str) else cast("float", value or 0))
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ProbeFailed(Reason.OAUTH2_TOKEN, "its answer's expires_in is no number")
    return seconds
