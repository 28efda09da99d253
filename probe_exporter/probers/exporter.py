"""The exporter prober: fetch and check an exporter's page of metrics, its health API and its metadata API.

Only a page of metrics that is missing or invalid fails a probe, unless `require` says more. Health and metadata get
a part of the remaining time, so that an optional request can't fail the probe.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Ge, MinLen
from pydantic import AfterValidator, Field

from probe_exporter.network.settings import AddressSettings
from probe_exporter.prober.deadline import Late, within
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import OutOfFiles, OwnReason, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import Turn
from probe_exporter.protocols.http.oauth2 import TokenSource
from probe_exporter.protocols.http.request import check_references, with_host_header
from probe_exporter.protocols.http.response import Response
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.http.url import URL, parse_target
from probe_exporter.protocols.http.whole_page import PageRequests, WholePage
from probe_exporter.scrape import build_info
from probe_exporter.scrape.lint import RULES, findings
from probe_exporter.scrape.page import TYPES, Malformed, Page, TooManySamples
from probe_exporter.scrape.reading import FORMATS, Format, FormatName, accept, announced, free, read
from probe_exporter.scrape.reexpose import ReexposeSettings
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Size, Text
from probe_exporter.settings.secrets import Named
from probe_exporter.tls import metrics
from probe_exporter.tls.settings import CertificateSettings, TLSSettings
from probe_exporter.values import documents, pool
from probe_exporter.values.search import SearchedAnswer, report
from probe_exporter.values.settings import Metrics

# --- settings ----------------------------------------------------------------------------------------------

MAX_METADATA_BYTES = 1024 * 1024
"""Bytes of a metadata document that are read."""

MAX_INLINE_METADATA_BYTES = 64 * 1024
"""Bytes of a metadata document that are parsed on the event loop; a helper process parses more."""

MAX_LOGGED_FINDINGS = 100
"""Findings that are written to the log; the others are only counted."""

Rule = Literal[
    "help_missing", "unit_not_base", "unit_abbreviated", "counter_without_total", "total_without_counter",
    "suffix_reserved", "label_reserved", "type_in_name", "colon_in_name", "camel_case_name", "camel_case_label",
    "duplicate_series",
]  # fmt: skip
"""The keys of `lint.RULES`; a test checks that they are equal."""


def _path(text: str) -> str:
    if not text.startswith("/") or re.search(r"[\x00-\x20\x7f#]", text):
        raise ValueError("expected a path, such as /-/healthy")
    return text


Path = Annotated[Text, AfterValidator(_path)]


class RequireSettings(Settings):
    """Requirements beyond a valid page of metrics. A probe fails if one of them is not met.

    Args:
        health: a health path must answer 200.
        metadata: the metadata document must be there.
        lint: the linter must find nothing.
    """

    health: bool = False
    metadata: bool = False
    lint: bool = False


class ExporterSettings(CertificateSettings, HttpClientSettings, AddressSettings):
    """The ``exporter`` block of a module.

    Args:
        formats: formats to request, best first: ``protobuf``, ``openmetrics``, ``text``. Another format fails the
            probe.
        fallback_format: format of a page without a valid Content-Type; without this key, such a page fails the probe.
        headers: headers to send.
        body_size_limit: maximum size of the decompressed page; 64 MiB if it is 0.
        sample_limit: maximum number of samples; one more fails the probe.
        health_paths: paths to try until one answers 200.
        metadata_path: path of a JSON object that describes the exporter; empty for none.
        lint_ignore: rules of the linter to skip.
        require: further checks that fail the probe.
        reexpose: series of the page to copy into the response.
        metrics: values of the page as metrics.
    """

    formats: Annotated[tuple[FormatName, ...], MinLen(1)] = ("openmetrics", "text")
    fallback_format: Literal["", "protobuf", "openmetrics", "text"] = ""
    headers: Named = Field(default_factory=dict)
    body_size_limit: Size = 0
    sample_limit: Annotated[int, Ge(1)] = 500_000
    health_paths: tuple[Path, ...] = ("/-/healthy", "/health", "/healthz")
    metadata_path: Annotated[Text, AfterValidator(lambda text: text and _path(text))] = "/metadata"
    lint_ignore: tuple[Rule, ...] = ()
    require: RequireSettings = RequireSettings()
    reexpose: ReexposeSettings = ReexposeSettings()
    metrics: Metrics = ()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.require.health and not self.health_paths:
            yield "health_paths", "empty, but `require` demands health: every probe of this module will fail"
        for key in ("basic_auth", "authorization", "oauth2"):
            if getattr(self, key) is not None and self.headers.keys() & {"Authorization", "authorization"}:
                yield (
                    "headers",
                    f"`headers` contains Authorization, and `{key}` sets it too: the one in `headers` is sent",
                )

    @cached_property
    def metrics_requests(self) -> PageRequests:
        """The requests for the page of metrics."""
        return PageRequests.make(self, self, {"Accept": accept(self.formats), **self.headers}, self.tokens)

    @cached_property
    def health_requests(self) -> PageRequests:
        """The requests for health: without redirects, because one to a login page is not a healthy answer."""
        return PageRequests.make(self.model_copy(update={"follow_redirects": False}), self, self.headers, self.tokens)

    @cached_property
    def metadata_requests(self) -> PageRequests:
        """The requests for metadata."""
        return PageRequests.make(self, self, {"Accept": "application/json", **self.headers}, self.tokens)

    @cached_property
    def tokens(self) -> TokenSource | None:
        """The source of the tokens of ``oauth2``, for all requests."""
        return None if self.oauth2 is None else TokenSource(self.oauth2)

    @cached_property
    def has_tls_config(self) -> bool:
        """Whether ``tls_config`` is set, so that its files are read even if TLS is not used."""
        return self.tls_config != TLSSettings()


def with_hostname(settings: ExporterSettings, hostname: str) -> ExporterSettings:
    """Return the settings with ``hostname`` as the Host header, and so as the server name for TLS.

    Raises:
        ValueError: the settings have another Host header.
    """
    settings.tokens  # noqa: B018  # the copy shares the source and its token
    return with_host_header(settings, hostname, made_of_it=("metrics_requests", "health_requests", "metadata_requests"))


# --- metrics and reasons -------------------------------------------------------------------------------------

STATUS_CODE = Metric("probe_exporter_status_code", "Status code of the metrics API; 0 without a response.")
BODY = Metric("probe_exporter_body_bytes", "Bytes of the page of metrics, decompressed.")
PARSED = Metric("probe_exporter_metrics_parsed", "Whether the whole page of metrics could be parsed.")
FORMAT = Metric("probe_exporter_format_info", "Format of the page of metrics.", ("format",), type="info")
FAMILIES = Metric("probe_exporter_families", "Metric families of the page, by type.", ("type",))
SAMPLES = Metric("probe_exporter_samples", "Samples of the page, by the type of their family.", ("type",))
LINT = Metric(
    "probe_exporter_lint_findings",
    "Violations of Prometheus' conventions by the page, by rule; the probe's log lists them.",
    ("rule",),
)
HEALTHY = Metric("probe_exporter_healthy", "Whether the target's health API answers 200; absent if there is none.")
METADATA = Metric(
    "probe_exporter_metadata_info",
    "Name, version and revision of the target, from its metadata API or a metric (`source`); absent if it has neither.",
    ("source", "name", "version", "revision"),
    type="info",
)
REEXPOSED = Metric("probe_exporter_reexposed_series", "Series of the target that were re-exposed.")
LEFT_OUT = Metric(
    "probe_exporter_left_out_series", "Series that match `reexpose` and were dropped because of its limits."
)
DURATION = Metric("probe_exporter_duration_seconds", "Seconds of each phase.", ("phase",), series=9)

CONTENT_TYPE = OwnReason(
    "exporter_content_type",
    "The response of the metrics API has no format that was requested.",
    advice=(
        "Look at the Content-Type with `curl -sI TARGET`: an error page, a login page or a proxy may answer "
        "in the exporter's place."
    ),
)
MALFORMED = OwnReason(
    "exporter_malformed",
    "The page of metrics violates its format, or is cut off.",
    advice=(
        "The message has the line. `curl -sS TARGET | promtool check metrics` finds the rest. If the page is "
        "cut off, look at the target's log."
    ),
)
TOO_MANY_SAMPLES = OwnReason(
    "exporter_too_many_samples",
    "The page of metrics has more samples than `sample_limit`.",
    advice="Find the metric with the most series: a label may have unbounded values. Or raise `sample_limit`.",
)
UNHEALTHY = OwnReason(
    "exporter_unhealthy",
    "The health API fails, or does not answer with 200.",
    advice="The message has what the health API says: look there and in the target's log.",
)
NO_HEALTH = OwnReason(
    "exporter_no_health",
    "There is no health API, and the module requires one.",
    advice="Check the path of the health API in the module, or do not require it.",
)
NO_METADATA = OwnReason(
    "exporter_no_metadata",
    "There is no metadata, and the module requires it.",
    advice="Check that the target's version has metadata, or do not require it.",
)
LINT_FINDINGS = OwnReason(
    "exporter_lint",
    "The page of metrics violates conventions, and the module requires that it does not.",
    advice="The log of the probe has each finding; `promtool check metrics` names most of them, too.",
)

# --- the probe ---------------------------------------------------------------------------------------------

_PATHLESS = re.compile(r"((?:https?://)?[^/?#]*)([?#].*)?", re.IGNORECASE | re.DOTALL)
_ABSENT = (404, 405, 410, 501)


async def probe_exporter(probe: Probe, settings: ExporterSettings) -> None:
    """Fetches and checks an exporter's page of metrics, its health API and its metadata API."""
    running = _ExporterProbe(probe, settings)
    await running.prepare()
    await running.resolve()
    await running.metrics()
    await running.health()
    await running.metadata()
    await running.values()


def _target(text: str) -> URL:
    """Parse the target; without a path it means ``/metrics``."""
    pathless = _PATHLESS.fullmatch(text)
    try:
        return parse_target(f"{pathless[1]}/metrics{pathless[2] or ''}" if pathless else text)
    except ValueError as error:
        raise ProbeFailed(Reason.TARGET_INVALID, str(error)) from None


class _ExporterProbe:
    """One probe: its requests, and what they have in common."""

    def __init__(self, probe: Probe, settings: ExporterSettings) -> None:
        self._probe = probe
        self._settings = settings
        self._url = _target(probe.target)
        self._addresses: list[str] = []
        self._taken = settings.reexpose.selection()
        self._headers: Callable[[str], list[str]] = lambda _: []
        self._page: bytes | None = None  # if values are searched in it
        self._document: bytes | None = None  # of the metadata API
        self._build_info = build_info.selection()

    async def prepare(self) -> None:
        """Check the settings before anything is sent, and set the metrics that every result has."""
        settings = self._settings
        check_references(settings)
        if self._url.secure or settings.has_tls_config:
            await WholePage(self._probe, settings.metrics_requests, self._url).follower.prepare_tls()
        for metric in (STATUS_CODE, BODY, PARSED):
            self._probe.set(metric, 0)

    async def resolve(self) -> None:
        """Choose the address for all requests."""
        follower = WholePage(self._probe, self._settings.metrics_requests, self._url).follower
        try:
            self._addresses = [await follower.resolve(self._url)]
        finally:
            self._probe.set(DURATION, round(follower.resolve_seconds, 9), "resolve")

    # The metrics API.

    async def metrics(self) -> None:
        """Fetch the page, parse it, and check it against conventions."""
        probe = self._probe
        with WholePage(probe, self._settings.metrics_requests, self._url) as there:
            try:
                response = (await there.open(self._addresses)).response
                probe.set(STATUS_CODE, response.status)
                format = self._format(response)
                with probe.phase("transfer"):
                    body = await there.read(self._settings.body_size_limit)
            except ProbeFailed as failed:
                if not there.follower.connect_seconds:
                    raise  # there is no server for the other requests
                probe.fail(failed)
                probe.current_phase = ""  # the next requests have phases of their own
                return
            finally:
                self._report(there)
        self._headers = response.get_all
        self._page = body if self._settings.metrics else None
        probe.set(BODY, len(body))
        probe.set(FORMAT, 1, format.name)
        page = Page(self._settings.sample_limit, self._taken, self._build_info)
        try:
            if await self._read(format, body, page):
                await self._lint(page)
        finally:
            free(page)

    def _report(self, there: WholePage) -> None:
        """Report the seconds of each phase, and the last connection's TLS."""
        probe, follower = self._probe, there.follower
        probe.add(DURATION, round(follower.resolve_seconds, 9), "resolve")  # of later hops
        probe.set(DURATION, round(follower.connect_seconds, 9), "connect")
        probe.set(DURATION, round(follower.tls_seconds, 9), "tls")
        probe.set(DURATION, round(follower.processing_seconds, 9), "processing")
        probe.set(DURATION, round(there.transfer_seconds, 9), "transfer")
        if follower.last is not None and follower.last.handshake is not None:
            metrics.report_handshake(probe, follower.last.handshake)

    def _format(self, response: Response) -> Format:
        """Return the format of the response; raise `ProbeFailed` if it can't be a page of metrics."""
        if response.status != 200:
            reason = Reason.PROXY_REFUSED if response.status == 407 else Reason.HTTP_STATUS
            raise ProbeFailed(reason, f"the metrics API answers {response.status}, expected 200")
        said = response.get("content-type") or ""
        format = announced(said)
        if not said and self._settings.fallback_format:
            return FORMATS[self._settings.fallback_format]
        if format is None or format.name not in self._settings.formats:
            what = f"has the Content-Type {said[:100]!r}" if said else "has no Content-Type"
            wanted = " or ".join(self._settings.formats)
            raise ProbeFailed(CONTENT_TYPE, f"the response of the metrics API {what}, expected {wanted}")
        return format

    async def _read(self, format: Format, body: bytes, page: Page) -> bool:
        """Parse a page, and return whether it is valid; the samples before an error are counted as well."""
        probe = self._probe
        with probe.phase("parse", DURATION):
            try:
                await read(format, body, page)
            except Malformed as error:
                probe.fail(ProbeFailed(MALFORMED, f"the page of metrics is not {format.name}: {error}"))
                return False
            except TooManySamples as error:
                probe.fail(ProbeFailed(TOO_MANY_SAMPLES, str(error)))
                return False
            finally:
                self._count(page)
        probe.set(PARSED, 1)
        probe.set(REEXPOSED, len(self._taken.kept))
        probe.set(LEFT_OUT, self._taken.left_out)
        await self._settings.reexpose.hand_over(probe, self._taken)
        return True

    def _count(self, page: Page) -> None:
        for type in TYPES:
            self._probe.set(FAMILIES, page.families_by_type[type], type)
            self._probe.set(SAMPLES, page.samples_by_type[type], type)

    async def _lint(self, page: Page) -> None:
        """Check the page against conventions."""
        probe, settings = self._probe, self._settings
        found = Counter[str]()
        with probe.phase("lint", DURATION):
            turn = Turn()
            await turn.begin()
            for family in page.families:
                for finding in findings(family):
                    if finding.rule in settings.lint_ignore:
                        continue
                    found[finding.rule] += 1
                    if found.total() <= MAX_LOGGED_FINDINGS:
                        probe.log(
                            "A convention is violated", rule=finding.rule, metric=finding.metric, what=finding.message
                        )
                await turn.give()
            for rule in RULES:
                probe.set(LINT, found[rule], rule)
            if found and settings.require.lint:
                rules = ", ".join(f"{rule} ({times})" for rule, times in found.most_common())
                probe.fail(ProbeFailed(LINT_FINDINGS, f"the page of metrics violates conventions: {rules}"))

    # What is optional for an exporter.

    async def health(self) -> None:
        """Request each path until one answers 200."""
        probe, settings = self._probe, self._settings
        if not settings.health_paths:
            if settings.require.health:
                probe.fail(ProbeFailed(NO_HEALTH, "the module requires health, but `health_paths` is empty"))
            return
        with probe.phase("health", DURATION):
            told = ""
            for path in settings.health_paths:
                found = await self._health_at(path)
                if found == "healthy":
                    probe.set(HEALTHY, 1)
                    return
                told = told or found
            probe.log("No health path answers 200", level=logging.INFO, first=told or "all are absent")
            if told:
                probe.set(HEALTHY, 0)
            if settings.require.health:
                failed = ProbeFailed(UNHEALTHY, told) if told else ProbeFailed(NO_HEALTH, "there is no health API")
                probe.fail(failed)

    async def _health_at(self, path: str) -> str:
        """Return ``healthy``, why it is not, or an empty string if there is no such path."""
        url = self._url._replace(path=path)
        with WholePage(self._probe, self._settings.health_requests, url) as there:
            try:
                with within(self._probe.remaining / 2):
                    status = (await there.open(self._addresses)).response.status
            except (ProbeFailed, Late) as error:
                self._go_on(error, "health")
                return f"{path} fails: {error}"
        if status == 200:
            return "healthy"
        return "" if status in _ABSENT else f"{path} answers {status}"

    async def metadata(self) -> None:
        """Report name, version and revision, from the metadata API or else from a metric."""
        probe, settings = self._probe, self._settings
        with probe.phase("metadata", DURATION):
            found = await self._ask_metadata() if settings.metadata_path else None
            labels = build_info.program_of(self._build_info)
            if found is not None:
                labels = (settings.metadata_path, *found)
            if labels is not None:
                probe.set(METADATA, 1, *labels)
            elif settings.require.metadata:
                probe.fail(
                    ProbeFailed(NO_METADATA, "there is neither a metadata API nor a metric that ends in _build_info")
                )

    async def _ask_metadata(self) -> tuple[str, str, str] | None:
        """Return name, version and revision from the metadata API; None if there is none."""
        url = self._url._replace(path=self._settings.metadata_path)
        with WholePage(self._probe, self._settings.metadata_requests, url) as there:
            try:
                with within(self._probe.remaining / 2):
                    response = (await there.open(self._addresses)).response
                    if response.status != 200 or "json" not in (response.get("content-type") or ""):
                        self._probe.log("There is no metadata API", status_code=response.status)
                        return None
                    self._document = await there.read(MAX_METADATA_BYTES)
                    return await _described(self._document)
            except (ProbeFailed, Late, ValueError, pool.HelperFailed) as error:
                self._go_on(error, "metadata")
                self._probe.log("The metadata API fails", level=logging.INFO, err=str(error))
                return None

    def _go_on(self, error: Exception, phase: str) -> None:
        """Ignore the failure of an optional request, unless the network policy forbids the request."""
        if isinstance(error, OutOfFiles) or (isinstance(error, ProbeFailed) and error.reason is Reason.TARGET_DENIED):
            raise error
        self._probe.current_phase = phase

    async def values(self) -> None:
        """Set the module's own metrics: regular expressions search the page, JSONPath the metadata."""
        if self._settings.metrics:
            with self._probe.phase("values"):
                answer = SearchedAnswer(self._headers, self._page, self._document)
                await report(self._probe, self._settings.metrics, answer)


async def _described(document: bytes) -> tuple[str, str, str] | None:
    """Return name, version and revision in a metadata document; None if it is not a JSON object.

    Raises:
        ValueError: it is not JSON.
        HelperFailed: it is large, and could not be parsed in a helper process.
    """
    if len(document) <= MAX_INLINE_METADATA_BYTES:
        found = describe(document)
    else:
        found = await pool.run(describe, [document])
    if isinstance(found, str):
        raise ValueError(found)
    return found


def describe(document: bytes) -> tuple[str, str, str] | str | None:
    """Return the same, or why it is not JSON."""
    try:
        fields = documents.parse(document)
    except ValueError as error:
        return str(error)
    if not isinstance(fields, dict):
        return None
    return (
        build_info.short(fields.get("name")),
        build_info.short(fields.get("version")),
        build_info.short(fields.get("revision")),
    )


prober = Prober(
    "exporter",
    ExporterSettings,
    probe_exporter,
    with_hostname=with_hostname,
    reasons=(CONTENT_TYPE, MALFORMED, TOO_MANY_SAMPLES, UNHEALTHY, NO_HEALTH, NO_METADATA, LINT_FINDINGS),
)
