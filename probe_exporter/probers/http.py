"""The http prober: fetch a URL, follow redirects, check the response against the module's settings."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, BinaryIO, TypeVar

from pydantic import Field, model_validator

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files
from probe_exporter.prober.files import open_file
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe, note_phase
from probe_exporter.protocols.dialogue.steps import FAILED_BY_REGEXP
from probe_exporter.protocols.http import checks, http1
from probe_exporter.protocols.http.checks import parse_date
from probe_exporter.protocols.http.content import CODINGS, DEFAULT_MAX_JSON_BYTES, Body, accepts, receive
from probe_exporter.protocols.http.exchange import Exchange
from probe_exporter.protocols.http.oauth2 import TokenSource
from probe_exporter.protocols.http.redirects import MAX_REDIRECTS, RedirectFollower
from probe_exporter.protocols.http.request import RequestTemplate, check_references, with_host_header
from probe_exporter.protocols.http.response import Response
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import parse_target
from probe_exporter.settings.block import Settings
from probe_exporter.settings.cel import Cel
from probe_exporter.settings.fields import FilePath, Size, Text
from probe_exporter.settings.regexps import Regexp
from probe_exporter.settings.rules import Block, exclusive, required
from probe_exporter.settings.secrets import Named
from probe_exporter.tls.metrics import report_handshake, report_no_chain
from probe_exporter.tls.settings import CertificateSettings, TLSSettings
from probe_exporter.values import search
from probe_exporter.values.settings import Metrics, need_body, need_json

T = TypeVar("T")

# --- settings ----------------------------------------------------------------------------------------------

VERSIONS = ("HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")  # RFC 9110, 5.6.2; empty means GET


class HeaderMatcher(Settings):
    """One entry of ``fail_if_header_matches`` or ``fail_if_header_not_matches``.

    Args:
        header: name of the header.
        regexp: regular expression for its values.
        allow_missing: let a response without the header pass.
    """

    rules = (required("header", "regexp"),)
    header: Text = ""
    regexp: Regexp = Regexp("")
    allow_missing: bool = False


def _compression_is_accepted(block: Block) -> Iterator[tuple[str, str]]:
    """Refuse an Accept-Encoding header that excludes the expected coding."""
    compression, headers = block.get("compression"), block.get("headers")
    if not compression or not isinstance(headers, Mapping):
        return
    for name, value in headers.items():
        if str(name).lower() == "accept-encoding" and value and not accepts(str(value), str(compression)):
            yield "compression", f"the {name} header does not allow the compression {compression}"


def _http3_is_consistent(block: Block) -> Iterator[tuple[str, str]]:
    """Refuse HTTP/3 without its own key, or together with other versions."""
    valid = block.get("valid_http_versions") or ()
    if block.get("enable_http3"):
        if "HTTP/1.1" in valid or "HTTP/2.0" in valid:
            yield "valid_http_versions", "with `enable_http3` only HTTP/3.0 can be valid"
        if block.get("enable_http2", True):
            yield "enable_http3", "`enable_http3` needs `enable_http2: false`"
    elif "HTTP/3.0" in valid:
        yield "valid_http_versions", "HTTP/3.0 needs `enable_http3: true`"


class HttpSettings(CertificateSettings, HttpClientSettings, AddressSettings):
    """The ``http`` block of a module.

    Args:
        valid_status_codes: status codes that pass; 200 to 299 by default.
        valid_http_versions: versions that pass, such as ``HTTP/2.0``; all by default.
        skip_resolve_phase_with_proxy: let the proxy look the target up.
        no_follow_redirects: deprecated; ``follow_redirects`` replaces it.
        fail_if_ssl: fail if the last connection uses TLS.
        fail_if_not_ssl: fail if the last connection does not use TLS.
        method: method of the request.
        headers: headers to send.
        fail_if_body_matches_regexp: fail if the body matches one of these.
        fail_if_body_not_matches_regexp: fail if the body does not match all of these.
        fail_if_body_json_matches_cel: CEL expression over ``body``; fail if it is true.
        fail_if_body_json_not_matches_cel: CEL expression over ``body``; fail if it is not true.
        fail_if_header_matches: fail if a header of the response matches.
        fail_if_header_not_matches: fail if a header of the response does not match.
        body: body to send.
        body_file: file with the body to send.
        compression: content coding that the response must have: ``gzip``, ``br``, ``deflate``, ``identity``.
        body_size_limit: maximum size of the body; a longer one fails the probe. No limit if it is 0.
        enable_http3: use HTTP/3, and nothing else.
        metrics: values of the response as metrics.
    """

    rules = (
        *HttpClientSettings.rules,
        exclusive("body", "body_file"),
        _compression_is_accepted,
        _http3_is_consistent,
    )
    valid_status_codes: tuple[int, ...] = ()
    valid_http_versions: tuple[Text, ...] = ()
    skip_resolve_phase_with_proxy: bool = False
    no_follow_redirects: bool | None = Field(default=None, exclude=True, json_schema_extra={"deprecated": True})
    fail_if_ssl: bool = False
    fail_if_not_ssl: bool = False
    method: Text = "GET"
    headers: Named = Field(default_factory=dict)
    fail_if_body_matches_regexp: tuple[Regexp, ...] = ()
    fail_if_body_not_matches_regexp: tuple[Regexp, ...] = ()
    fail_if_body_json_matches_cel: Cel | None = None
    fail_if_body_json_not_matches_cel: Cel | None = None
    fail_if_header_matches: tuple[HeaderMatcher, ...] = ()
    fail_if_header_not_matches: tuple[HeaderMatcher, ...] = ()
    body: Text = ""
    body_file: FilePath = ""
    compression: Text = ""
    body_size_limit: Size = 0
    enable_http3: bool = False
    metrics: Metrics = ()

    @model_validator(mode="before")
    @classmethod
    def _fold_no_follow_redirects(cls, written: Any) -> Any:
        """Let the deprecated key override the new one, as in the original."""
        if isinstance(written, Mapping) and isinstance(written.get("no_follow_redirects"), bool):
            return {**written, "follow_redirects": not written["no_follow_redirects"]}
        return written

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.no_follow_redirects is not None:
            yield "no_follow_redirects", "`no_follow_redirects` is deprecated; use `follow_redirects`"
        if self.enable_http3:
            for key in ("proxy_url", "proxy_from_environment"):
                if getattr(self, key):
                    yield key, "HTTP/3 does not use proxies"
        if not _TOKEN.fullmatch(self.method):
            yield "method", "not a valid HTTP method: every probe of this module will fail"
        if self.compression and self.compression.lower() not in CODINGS:
            yield (
                "compression",
                f"unknown: expected one of {', '.join(filter(None, CODINGS))}; every probe will fail",
            )
        for version in self.valid_http_versions:
            if version not in VERSIONS:
                yield "valid_http_versions", f"{version} never matches; the names are {', '.join(VERSIONS)}"

    @cached_property
    def has_tls_config(self) -> bool:
        """Whether ``tls_config`` is set, so that its files are read even if TLS is not used."""
        return self.tls_config != TLSSettings()

    @cached_property
    def plan(self) -> Plan:
        """What every probe of this module does."""
        header_matchers = (*self.fail_if_header_matches, *self.fail_if_header_not_matches)
        proxied = "proxy_url" in self.model_fields_set or self.proxy_from_environment  # an empty URL counts too
        return Plan(
            unusable=_flaw(self),
            http3=self.enable_http3,
            leaves_names_to_proxy=self.skip_resolve_phase_with_proxy and proxied and not self.enable_http3,
            has_tls_config=self.has_tls_config,
            accepts_success=not (self.valid_status_codes or header_matchers),
            checks_connection=bool(self.valid_http_versions or self.fail_if_ssl or self.fail_if_not_ssl),
            body_file=self.body_file,
            template=self.template,
            tokens=self.tokens,
            valid_status_codes=self.valid_status_codes,
            valid_http_versions=self.valid_http_versions,
            header_matchers=header_matchers,
            checks_body=bool(self.fail_if_body_matches_regexp or self.fail_if_body_not_matches_regexp),
            has_cel=bool(self.fail_if_body_json_matches_cel or self.fail_if_body_json_not_matches_cel),
            reads_values=bool(self.metrics),
            holds_body=need_body(self.metrics),
            reads_json=need_json(self.metrics),
            body_size_limit=self.body_size_limit,
            coding=self.compression.lower(),
            fail_if_ssl=self.fail_if_ssl,
            fail_if_not_ssl=self.fail_if_not_ssl,
        )

    @cached_property
    def template(self) -> RequestTemplate:
        """The common part of all requests of this module."""
        return RequestTemplate.make(
            self.method, self.headers, self.body, self.body_file, accept_encoding=self.compression.lower()
        )

    @cached_property
    def tokens(self) -> TokenSource | None:
        """The source of the tokens of ``oauth2``; a new configuration has a new one, without tokens."""
        return None if self.oauth2 is None else TokenSource(self.oauth2)


def _flaw(settings: HttpSettings) -> str:
    """Return why no request can be sent; empty if it can."""
    try:
        check_references(settings)
        http1.check_method(settings.template.method)
    except ProbeFailed as failed:
        return failed.message
    return ""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every probe of a module does, computed once. To read an attribute of settings takes ten times as long.

    Attributes:
        unusable: why every probe fails before it sends anything; empty if none does.
        leaves_names_to_proxy: the proxy resolves the target's name. HTTP/3 does not use proxies.
        accepts_success: a status code of 200 to 299 passes, and no header is checked.
        checks_connection: its version or its use of TLS is checked.
        header_matchers: all that check the headers.
        checks_body: regular expressions check it.
        has_cel: CEL expressions check the body as JSON.
        reads_values: values of the response become metrics.
        holds_body: the body is kept because values are searched in it.
        reads_json: values are searched in the body as JSON.
        coding: the content coding that the response must have.
    """

    unusable: str
    http3: bool
    leaves_names_to_proxy: bool
    has_tls_config: bool
    accepts_success: bool
    checks_connection: bool
    body_file: str
    template: RequestTemplate
    tokens: TokenSource | None
    valid_status_codes: tuple[int, ...]
    valid_http_versions: tuple[str, ...]
    header_matchers: tuple[HeaderMatcher, ...]
    checks_body: bool
    has_cel: bool
    reads_values: bool
    holds_body: bool
    reads_json: bool
    body_size_limit: int
    coding: str
    fail_if_ssl: bool
    fail_if_not_ssl: bool


def with_hostname(settings: HttpSettings, hostname: str) -> HttpSettings:
    """Return the settings with ``hostname`` as the Host header, and so as the server name for TLS.

    Raises:
        ValueError: the settings have another Host header.
    """
    settings.plan  # noqa: B018  # the copy shares what was computed for it, above all the source of tokens
    return with_host_header(settings, hostname, made_of_it=("template", "plan"))


# --- metrics -----------------------------------------------------------------------------------------------

STATUS_CODE = Metric("probe_http_status_code", "Status code of the last response; 0 without a response.")
CONTENT_LENGTH = Metric("probe_http_content_length", "Content-Length of the last response in bytes; -1 if it has none.")
BODY_LENGTH = Metric("probe_http_uncompressed_body_length", "Bytes of the body that were read, after decompression.")
REDIRECTS = Metric("probe_http_redirects", "Redirects received, including one that was not followed.")
SSL = Metric("probe_http_ssl", "Whether the last response was received over TLS.")
VERSION = Metric("probe_http_version", "HTTP version of the last response; 0 without a response.")
LAST_MODIFIED = Metric(
    "probe_http_last_modified_timestamp_seconds", "Last-Modified of the last response in Unix time; absent without one."
)
DURATION = Metric(
    "probe_http_duration_seconds", "Seconds of each phase, summed over all redirects.", ("phase",), series=5
)
_RESOLVE, _CONNECT, _TLS, _PROCESSING, _TRANSFER = (
    (DURATION, (phase,)) for phase in ("resolve", "connect", "tls", "processing", "transfer")
)
FAILED_BY_CEL = Metric(
    "probe_failed_due_to_cel", "Whether the probe failed because of a CEL expression; absent if the module has none."
)

# --- the probe ---------------------------------------------------------------------------------------------


async def probe_http(probe: Probe, settings: HttpSettings) -> None:
    """Fetches a URL, follows redirects, and checks the last response against the module's settings."""
    running = _HttpProbe(probe, settings)
    try:
        await running.send_request()
        await running.check_response()
    finally:
        running.close()
        running.report()


class _HttpProbe:
    """One probe; `report` sets its metrics, wherever it ended."""

    def __init__(self, probe: Probe, settings: HttpSettings) -> None:
        self._probe = probe
        self._settings = settings
        self._plan = plan = settings.plan
        self._follower = RedirectFollower(probe, settings, settings, http3=plan.http3)
        self._upload: BinaryIO | None = None
        self._resolved = False
        self._request_begun = False
        self._transfer_seconds = 0.0
        self._body: Body | None = None
        self._failed_by_regexp = False
        self._failed_by_cel = False

    # Requests: from the target to the head of the last response.

    async def send_request(self) -> None:
        """Send the request, and follow redirects."""
        plan = self._plan
        try:
            url = parse_target(self._probe.target)
        except ValueError as error:
            raise ProbeFailed(Reason.TARGET_INVALID, str(error)) from None
        if plan.http3 and not url.secure:
            url = url.secured()
            self._probe.log("HTTP/3 needs https: using it instead of http", level=logging.INFO, url=str(url))
        self._resolved = not plan.leaves_names_to_proxy
        addresses = [await self._follower.resolve(url)] if self._resolved else []
        # The settings are checked before anything is sent.
        if plan.unusable:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, plan.unusable)
        if url.secure or plan.has_tls_config:
            await self._follower.prepare_tls()
        if plan.body_file:
            self._open_body_file(plan.body_file)
        self._request_begun = True
        if plan.tokens is None:
            await self._follower.fetch(plan.template, url, addresses, self._upload)
        else:
            agent = dict(plan.template.headers).get("User-Agent", "")
            fetch = partial(self._follower.fetch, plan.template, url, addresses, self._upload)
            await plan.tokens.request_with_token(self._probe, agent, fetch)

    def _open_body_file(self, path: str) -> None:
        try:
            self._upload = open_file(path)  # `close` closes it
        except OSError as error:
            check_files(error, f"reading {path}")
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"body_file {path} can't be read: {error.strerror}") from None

    # Checks: all are made in order; the first that fails is the reason.

    async def check_response(self) -> None:
        """Read the last response's body, and check the response against the module's settings."""
        plan, exchange = self._plan, self._follower.last
        assert exchange is not None
        response = exchange.response
        if plan.accepts_success and 200 <= response.status < 300:
            good = True
            note_phase(self._probe, "validation", time.perf_counter())
        elif checks.are_short(response, plan.header_matchers):
            good = self._validate(self._check_head, response)
        else:
            with self._probe.phase("validation"):
                good = self._check_status(response) and await self._check_long_headers(response)
        by_regexp = good and plan.checks_body
        by_cel = good and plan.has_cel
        # A body that can't be read fails the first check of the body, as in the original.
        self._failed_by_regexp = self._failed_by_regexp or by_regexp
        self._failed_by_cel = by_cel and not by_regexp
        self._transfer_seconds = time.perf_counter() - exchange.first_byte_at
        hold = by_regexp or by_cel or plan.holds_body
        if not self._follower.refused or hold:
            as_json = by_cel or plan.reads_json
            read = await self._read_body(exchange, hold=hold, default_limit=DEFAULT_MAX_JSON_BYTES if as_json else 0)
            if read is not None and (by_regexp or by_cel):
                whole = None if by_cel else read.whole
                if whole is not None and len(whole) <= checks.MAX_INLINE_BYTES:
                    self._validate(self._check_short_body, whole)
                else:
                    with self._probe.phase("validation"):
                        await self._check_body(read, by_cel)
        if plan.checks_connection:
            self._validate(self._check_connection, exchange)
        else:
            note_phase(self._probe, "validation", time.perf_counter())
        if plan.reads_values:
            with self._probe.phase("values"):
                text = b"" if self._body is None else await self._body.text()
                await search.report(
                    self._probe, self._settings.metrics, search.SearchedAnswer(exchange.response.get_all, text, text)
                )

    def _validate(self, check: Callable[[T], bool], what: T) -> bool:
        """Make a check that does not wait, as a phase, and return its outcome."""
        probe, started = self._probe, time.perf_counter()
        outer, probe.current_phase = probe.current_phase, "validation"
        good = check(what)
        note_phase(probe, "validation", started)
        probe.current_phase = outer
        return good

    def _check_head(self, response: Response) -> bool:
        return self._check_status(response) and (not self._plan.header_matchers or self._check_headers(response))

    def _check_status(self, response: Response) -> bool:
        valid = self._plan.valid_status_codes
        try:
            if self._follower.redirects > MAX_REDIRECTS and response.status not in valid:
                raise ProbeFailed(Reason.HTTP_REDIRECT, f"there were more than {MAX_REDIRECTS} redirects")
            checks.status_code(response.status, valid)
        except ProbeFailed as failed:
            self._probe.fail(failed)
            return False
        return True

    def _check_headers(self, response: Response) -> bool:
        settings = self._settings
        try:
            checks.short_headers(response, settings.fail_if_header_matches, settings.fail_if_header_not_matches)
        except ProbeFailed as failed:
            self._failed_by_regexp = True
            self._probe.fail(failed)
            return False
        return True

    async def _check_long_headers(self, response: Response) -> bool:
        settings = self._settings
        self._failed_by_regexp = True  # so it is if the time is over meanwhile
        try:
            await checks.headers(response, settings.fail_if_header_matches, settings.fail_if_header_not_matches)
        except ProbeFailed as failed:
            self._probe.fail(failed)
            return False
        self._failed_by_regexp = False
        return True

    async def _read_body(self, exchange: Exchange, *, hold: bool, default_limit: int) -> Body | None:
        """Read the body to its end; return it if it is complete and valid."""
        limit = self._plan.body_size_limit or default_limit
        coding = self._plan.coding
        if coding and not exchange.response.has_body:
            coding = ""
        if not coding and (whole := exchange.arrived()) is not None:
            return self._take_body(whole, hold, limit)
        with self._probe.phase("transfer"):
            try:
                if coding not in CODINGS:
                    self._probe.fail(ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{coding!r} is not a known compression"))
                self._body = body = Body(coding if coding in CODINGS else "", limit=limit, hold=hold)
                await receive(exchange, body)
            except ProbeFailed as failed:
                self._probe.fail(failed)
                return None
            finally:
                self._transfer_seconds = time.perf_counter() - exchange.first_byte_at
        return body if coding in CODINGS else None

    def _take_body(self, whole: bytes, hold: bool, limit: int) -> Body | None:
        """Take a body that has arrived with the head, as most do; return it if it is valid."""
        probe, started = self._probe, time.perf_counter()
        self._body = body = Body(limit=limit, hold=hold)
        outer, probe.current_phase = probe.current_phase, "transfer"
        try:
            if whole:
                body.take(whole)
        except ProbeFailed as failed:
            probe.fail(failed)
            return None
        finally:
            note_phase(probe, "transfer", started)
            probe.current_phase = outer
        return body

    def _check_short_body(self, text: bytes) -> bool:
        settings = self._settings
        try:
            checks.short_body(text, settings.fail_if_body_matches_regexp, settings.fail_if_body_not_matches_regexp)
        except ProbeFailed as failed:
            self._probe.fail(failed)
            return False
        self._failed_by_regexp = False
        return True

    async def _check_body(self, body: Body, by_cel: bool) -> None:
        settings, text = self._settings, await body.text()
        try:
            await checks.body(text, settings.fail_if_body_matches_regexp, settings.fail_if_body_not_matches_regexp)
            self._failed_by_regexp = False
            if by_cel:
                self._failed_by_cel = True
                await checks.json_body(
                    text, settings.fail_if_body_json_matches_cel, settings.fail_if_body_json_not_matches_cel
                )
                self._failed_by_cel = False
        except ProbeFailed as failed:
            self._probe.fail(failed)

    def _check_connection(self, exchange: Exchange) -> bool:
        plan, secure = self._plan, exchange.handshake is not None
        try:
            checks.version(f"HTTP/{exchange.response.version}", plan.valid_http_versions)
            if secure and plan.fail_if_ssl:
                raise ProbeFailed(Reason.TLS_FORBIDDEN, "the last response was received over TLS")
            if not secure and plan.fail_if_not_ssl:
                raise ProbeFailed(Reason.TLS_REQUIRED, "the last response was not received over TLS")
        except ProbeFailed as failed:
            self._probe.fail(failed)
            return False
        return True

    # The end.

    def close(self) -> None:
        """Close the connection and the uploaded file."""
        self._follower.close()
        if self._upload is not None:
            self._upload.close()

    def report(self) -> None:
        """Set the metrics from what has been measured."""
        probe, follower = self._probe, self._follower
        response = follower.last.response if follower.last else None
        handshake = follower.last.handshake if follower.last else None
        plain = probe.samples.plain  # `set` would check what these are
        plain[STATUS_CODE] = response.status if response else 0
        plain[CONTENT_LENGTH] = response.content_length if response else 0
        plain[VERSION] = float(response.version) if response else 0
        plain[BODY_LENGTH] = self._body.length if self._body else 0
        plain[REDIRECTS] = follower.redirects
        plain[SSL] = 1 if handshake else 0
        plain[FAILED_BY_REGEXP] = 1 if self._failed_by_regexp else 0
        if self._plan.has_cel:
            plain[FAILED_BY_CEL] = 1 if self._failed_by_cel else 0
        modified = parse_date(response.get("last-modified") or "") if response else None
        if modified is not None:
            plain[LAST_MODIFIED] = modified
        self._report_durations()
        if handshake is not None:
            report_handshake(probe, handshake)
            report_no_chain(probe, handshake)

    def _report_durations(self) -> None:
        series, follower = self._probe.samples.series, self._follower
        # Whole nanoseconds: more digits are noise.
        if self._resolved or follower.hops > 1:
            series[_RESOLVE] = whole_nanoseconds(follower.resolve_seconds)
        if self._request_begun:
            series[_CONNECT] = whole_nanoseconds(follower.connect_seconds)
            series[_TLS] = whole_nanoseconds(follower.tls_seconds)
            series[_PROCESSING] = whole_nanoseconds(follower.processing_seconds)
            series[_TRANSFER] = whole_nanoseconds(self._transfer_seconds)


prober = Prober("http", HttpSettings, probe_http, with_hostname=with_hostname)
