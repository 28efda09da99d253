"""OAuth 2.0: fetch and cache tokens by client credentials (RFC 6749, section 4.4) or a signed JWT (RFC 7523).

How `TokenSource` works:

* One source serves all probes of an ``oauth2`` block. It keeps the last token until shortly before it expires.
* Probes that need a token at the same time share one request (`_Fetch`). Each waits until its own deadline.
* The request is a task of its own. It is cancelled when no probe waits for it any more, so that the deadline of one
  probe does not end the request of another.
* A token that the target refuses (401) is dropped, and the probe is repeated once with a new one.
* Fetching takes a `RedirectFollower` of its own, whose measurements are discarded.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, quote_plus, urlencode

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.run import Network, Probe
from probe_exporter.prober.sharing import SharedTask
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.content import Body, receive
from probe_exporter.protocols.http.exchange import Exchange
from probe_exporter.protocols.http.redirects import Hop, RedirectFollower
from probe_exporter.protocols.http.request import Request, basic, read_file
from probe_exporter.protocols.http.response import Headers, Response
from probe_exporter.protocols.http.settings import JWT_BEARER, HttpClientSettings, OAuth2
from probe_exporter.protocols.http.url import URL, parse
from probe_exporter.settings.fields import encode
from probe_exporter.settings.secrets import MASK
from probe_exporter.tls.settings import TLSSettings
from probe_exporter.values import documents, pool

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

MAX_ANSWER_BYTES = 1024 * 1024
"""Bytes of a token endpoint's response that are read: the original's limit."""

MAX_INLINE_BYTES = 64 * 1024
"""Bytes of it that are parsed on the event loop; a helper process parses more."""

MAX_FORM_FIELDS = 1000
"""Fields of a response that is a form."""

EXPIRY_MARGIN_SECONDS = 10.0
"""Seconds before its expiry at which a token is no longer used: it must be valid when it arrives."""

ASSERTION_LIFETIME_SECONDS = 600
"""Seconds for which an assertion is valid."""

_FIELDS = ("access_token", "token_type", "expires_in", "error", "error_description")
_FORMS = ("application/x-www-form-urlencoded", "text/plain")
_TYPES = {"": "Bearer", "bearer": "Bearer", "mac": "MAC", "basic": "Basic"}

Form = dict[str, str]


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is sent to a target.

    Attributes:
        authorization: the value of the header.
        until: when it is no longer used, by `time.monotonic`; in the past for a token that is used once.
    """

    authorization: str = field(repr=False)
    until: float


class TokenSource:
    """Fetches the tokens of one ``oauth2`` block and keeps the last one, for all probes of the block."""

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
        self._fetch: SharedTask[Token] | None = None

    def kept(self) -> Token | None:
        """Return the token of an earlier probe if it is still valid."""
        if self._kept is not None and self._kept.until <= time.monotonic():
            self._kept = None
        return self._kept

    def drop(self, token: Token) -> None:
        """Forget a token that a target has refused."""
        if self._kept is token:
            self._kept = None

    async def request_with_token(
        self, probe: Probe, user_agent: str, request: Callable[[str], Awaitable[Exchange]]
    ) -> Exchange:
        """Request the target with the token of an earlier probe, or with a new one if that is missing or refused.

        Args:
            user_agent: the User-Agent for the token endpoint; empty for none.
            request: requests the target with an Authorization header; can be called twice.

        Raises:
            ProbeFailed: no token could be fetched, or `request` failed.
        """
        kept = self.kept()
        if kept is not None:
            exchange = await self._request_with(kept, request)
            if exchange.response.status != 401:
                return exchange
            probe.log("The target refuses the token of an earlier probe: fetching another", level=logging.INFO)
        token = self.kept()  # another probe may have fetched one in the meantime
        if token is None:
            with probe.phase("token"):
                token = await self.fetch(user_agent, probe.network)
            probe.log("Fetched a token")
        return await self._request_with(token, request)

    async def _request_with(self, token: Token, request: Callable[[str], Awaitable[Exchange]]) -> Exchange:
        """Request the target with a token, and forget the token if the target refuses it."""
        exchange = await request(token.authorization)
        if exchange.response.status == 401:
            self.drop(token)
        return exchange

    async def fetch(self, user_agent: str, network: Network | None) -> Token:
        """Return a new token, from the request in progress if there is one.

        Args:
            user_agent: the User-Agent; empty for none.
            network: of the probe; all probes of this source have the same policy.

        Raises:
            ProbeFailed: no token could be fetched.
        """
        if self._fetch is None:
            self._fetch = SharedTask(self._request(user_agent, network))
        fetch = self._fetch
        try:
            return await fetch.result()
        except ProbeFailed as failed:  # an exception of our own, because other probes raise this one too
            raise ProbeFailed(failed.reason, failed.message, **failed.fields) from None
        finally:
            if self._fetch is fetch and fetch.is_over:
                self._fetch = None

    async def _request(self, user_agent: str, network: Network | None) -> Token:
        """Fetch a token; try the credentials in a header first, then in the form."""
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
            except ProbeFailed:  # some servers accept credentials in the form only
                form |= {"client_id": settings.client_id} | ({"client_secret": secret} if secret else {})
                return await self._ask(url, agent, form, network, secret)

    def _url(self) -> URL:
        try:
            return parse(self._settings.token_url)
        except ValueError as error:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"oauth2.token_url: {error}") from None

    async def _ask(self, url: URL, headers: Headers, form: Form, network: Network | None, secret: str = "") -> Token:
        """Send one request for a token, and return the token.

        Args:
            secret: is masked in messages.
        """
        headers = [
            *headers,
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept-Encoding", "gzip"),
            ("Connection", "close"),
        ]
        body = urlencode(sorted(form.items()), errors="surrogateescape").encode("ascii")
        request = Request("POST", url, url.authority, headers, body)
        own = None if network is None else network.for_another_run()  # its host is not the target
        probe = Probe(str(url), math.inf, network=own)  # its measurements are not about the target
        follower = RedirectFollower(probe, self._client, AddressSettings())
        if self._client.tls_config != TLSSettings():
            await follower.prepare_tls()  # a file that can't be read is an error even without TLS, as for a target
        try:
            server_name = self._settings.tls_config.server_name or url.host
            exchange = await follower.follow(Hop(request, [], server_name), None)
            self._kept = token = await _token(exchange.response, await _read(exchange), secret)
        finally:
            follower.close()
        return token


@contextmanager
def _blaming(url: URL) -> Iterator[None]:
    """Report failures as failures to get a token."""
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


# The request.


def _form(settings: OAuth2, grant: Form) -> Form:
    """Return the fields of a request; ``endpoint_params`` may override the grant type and nothing else."""
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
    """Encode an id or a secret (RFC 6749, section 2.3.1), so that it contains no colon."""
    return quote_plus(text, errors="surrogateescape")


def _assertion(settings: OAuth2) -> str:
    """Return a signed JWT (RFC 7523, section 3); configured ``claims`` override our own."""
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
        "exp": now + ASSERTION_LIFETIME_SECONDS,
        "jti": str(uuid.uuid4()),
    }
    if settings.scopes:
        claims["scope"] = " ".join(settings.scopes)
    text = f"{_segment(header)}.{_segment(claims | settings.claims)}"
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  # few tokens need a signature
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415  # the same

    hash = {"RS256": hashes.SHA256(), "RS384": hashes.SHA384(), "RS512": hashes.SHA512()}[algorithm]
    signature = _key(settings).sign(text.encode("ascii"), padding.PKCS1v15(), hash)
    return f"{text}.{_base64url(signature)}"


def _segment(values: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(values, separators=(",", ":")).encode("ascii"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _key(settings: OAuth2) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  # as above
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  # as above
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415  # as above

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


# The response.


async def _read(exchange: Exchange) -> bytes:
    """Return the body of a token endpoint's response."""
    coding = (exchange.response.get("content-encoding") or "").strip().lower()
    body = Body("gzip" if coding == "gzip" else "", limit=MAX_ANSWER_BYTES, hold=True)
    await receive(exchange, body)
    return await body.text()


def parse_answer(answer: bytes, media_type: str) -> dict[str, Any]:
    """Return the fields of a response that matter, by their names in lower case; none if it can't be parsed."""
    try:
        if media_type in _FORMS:
            fields: Any = dict(parse_qsl(answer.decode(), True, max_num_fields=MAX_FORM_FIELDS))
        else:
            fields = documents.parse(answer)
    except ValueError:
        return {}
    by_name = {name.lower(): value for name, value in fields.items()} if isinstance(fields, dict) else {}
    return {name: by_name[name] for name in _FIELDS if name in by_name}


async def _token(response: Response, answer: bytes, secret: str) -> Token:
    """Return the token in a response (RFC 6749, section 5.1).

    Raises:
        ProbeFailed: there is none.
    """
    media_type = (response.get("content-type") or "").partition(";")[0].strip().lower()
    if len(answer) <= MAX_INLINE_BYTES:
        fields = parse_answer(answer, media_type)
    else:
        try:
            fields = await pool.run(parse_answer, [answer], media_type)
        except pool.HelperFailed as failed:
            raise ProbeFailed(Reason.OAUTH2_TOKEN, f"its response can't be parsed: {failed}") from None
    token, kind = fields.get("access_token"), fields.get("token_type") or ""
    if not (200 <= response.status < 300 and isinstance(token, str) and token and isinstance(kind, str)):
        what = f"status {response.status} and no token{_complaint(fields, secret)}"
        raise ProbeFailed(Reason.OAUTH2_TOKEN, f"it answers with {what}", status_code=response.status)
    authorization = f"{_TYPES.get(kind.lower(), kind)} {token}"
    try:
        http1.check_headers([("Authorization", authorization)])
    except ProbeFailed:
        raise ProbeFailed(Reason.OAUTH2_TOKEN, "its token can't be sent in a header") from None
    return Token(authorization, time.monotonic() + _lifetime(fields.get("expires_in")) - EXPIRY_MARGIN_SECONDS)


def _complaint(fields: Mapping[str, Any], secret: str) -> str:
    """Return the server's error message (RFC 6749, section 5.2), shortened and without the secret."""
    said = (fields.get(name) for name in ("error", "error_description"))
    shown = " ".join([str(one)[:MAX_INLINE_BYTES] for one in said if one and isinstance(one, str | int | float)])
    if secret:
        shown = shown.replace(secret, MASK)
    return f": {shown[:200]}" if shown else ""


def _lifetime(value: object) -> float:
    """Return the seconds for which a token is valid; 0 if unknown, so that it is used once."""
    try:
        seconds = float(int(value) if isinstance(value, str) else cast("float", value or 0))
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ProbeFailed(Reason.OAUTH2_TOKEN, "the expires_in of its response is not a number")
    return seconds
