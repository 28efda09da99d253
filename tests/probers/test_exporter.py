"""The exporter prober against scripted exporters: verdicts, metrics, limits."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client import Counter as Counted
from prometheus_client.openmetrics.exposition import generate_latest

from probe_exporter.config import loading
from probe_exporter.config.module import ConfigError, Module
from probe_exporter.config.problems import Place
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import PROTOBUF, TEXT
from probe_exporter.exposition.protobuf_format import delimited_blocks
from probe_exporter.plugins import loader
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import exporter
from probe_exporter.probers.exporter import ExporterSettings, prober, with_hostname
from probe_exporter.runner import Result, run
from probe_exporter.scrape import lint
from tests.cost import expect_cheaper, turns
from tests.deadlines import in_phase, run_until
from tests.outcomes import why
from tests.targets import Answer, End, Pki, Repeat, Site, Tls, chunked, raw, redirect, reply, silence

TYPE = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = ("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
MESSAGES = (
    "Content-Type",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
)
PAGE = b"# HELP app_jobs_total Jobs.\n# TYPE app_jobs_total counter\napp_jobs_total 5\n"
PAGE += b"# HELP up x\n# TYPE up gauge\nup 1\n"
OK = reply(200, PAGE, TYPE)
HEALTHY = reply(200, b"ok")
ABOUT = reply(
    200, b'{"name": "app", "version": "1.2", "revision": "abc", "more": []}', ("Content-Type", "application/json")
)


async def probe(
    pages: Mapping[str, Answer] | Answer, target: str = "127.0.0.1:{port}", timeout: float = 20.0, **settings: Any
) -> tuple[Result, Site]:
    """Probe a scripted site."""
    module = Module("m", prober, ExporterSettings.model_validate(settings), 0.0, Place("test.yml"))
    async with Site({"/metrics": pages} if isinstance(pages, Answer) else pages) as site:
        result = await run(module, site.fill(target), timeout)
    return result, site


def samples(result: Result) -> dict[str, float]:
    """Return every sample by its series."""
    lines = encode(result.probe.samples, TEXT).decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


# --- the metrics API ---------------------------------------------------------------------------------------


async def test_metrics_page_passes_and_is_counted() -> None:
    result, site = await probe(OK)
    assert why(result) is None
    found = samples(result)
    assert found["probe_exporter_metrics_parsed"] == 1
    assert found['probe_exporter_format_info{format="text"}'] == 1
    assert found['probe_exporter_families{type="counter"}'] == 1
    assert found['probe_exporter_samples{type="gauge"}'] == 1
    assert found["probe_exporter_body_bytes"] == len(PAGE)
    assert found["probe_exporter_status_code"] == 200
    assert sum(value for name, value in found.items() if name.startswith("probe_exporter_lint")) == 0
    assert "probe_exporter_healthy" not in found
    assert [request.path for request in site.requests] == [
        "/metrics", "/-/healthy", "/health", "/healthz", "/metadata",
    ]  # fmt: skip


async def test_request_accepts_the_formats_of_the_module() -> None:
    _, site = await probe(OK, formats=["protobuf", "text"], headers={"X-A": "b"})
    accepted = site.requests[0].all("Accept")[0]
    assert accepted.startswith("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delim")
    assert "text/plain;version=0.0.4;q=0.9" in accepted
    assert site.requests[0].all("Accept-Encoding") == ["gzip"]
    assert site.requests[0].all("X-A") == site.requests[-1].all("X-A") == ["b"]


TARGETS = {
    "127.0.0.1:{port}": "/metrics",
    "http://127.0.0.1:{port}": "/metrics",
    "127.0.0.1:{port}/": "/",
    "http://127.0.0.1:{port}/app/metrics": "/app/metrics",
    "127.0.0.1:{port}?a=b": "/metrics",
    "HTTP://127.0.0.1:{port}": "/metrics",
}


@pytest.mark.parametrize("target", TARGETS)
async def test_target_without_path_means_metrics(target: str) -> None:
    result, site = await probe(dict.fromkeys(TARGETS.values(), OK), target)
    assert why(result) is None
    assert site.requests[0].path == TARGETS[target]


def messages() -> bytes:
    registry = CollectorRegistry()
    Counted("app_jobs_total", "Jobs.", registry=registry).inc(5)
    return b"".join(block for _, block in delimited_blocks(registry.collect(), PROTOBUF))


def openmetrics() -> bytes:
    registry = CollectorRegistry()
    Counted("app_jobs_total", "Jobs.", registry=registry).inc(5)
    body: bytes = generate_latest(registry)  # type: ignore[no-untyped-call]
    return body


GOOD = {
    "OpenMetrics": reply(200, openmetrics(), OPENMETRICS),
    "protocol buffers": reply(200, messages(), MESSAGES),
    "gzip": reply(200, gzip.compress(PAGE), TYPE, ("Content-Encoding", "gzip")),
    "chunks": chunked(PAGE[:10], PAGE[10:], headers=[TYPE]),
    "redirect to a page": redirect(302, "/there"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_metrics_page_is_read_in_any_format_and_coding(name: str) -> None:
    result, _ = await probe({"/metrics": GOOD[name], "/there": OK}, formats=["protobuf", "openmetrics", "text"])
    assert why(result) is None
    assert samples(result)['probe_exporter_families{type="counter"}'] == 1


MALFORMED = (exporter.MALFORMED, "parse")
BAD: dict[str, tuple[Answer, tuple[str, str]]] = {
    "5xx": (reply(503, PAGE, TYPE), (Reason.HTTP_STATUS, "")),
    "204": (reply(204), (Reason.HTTP_STATUS, "")),
    "HTML": (reply(200, b"<html></html>", ("Content-Type", "text/html")), (exporter.CONTENT_TYPE, "")),
    "HTML served as text": (reply(200, b"<html>\n</html>\n", TYPE), MALFORMED),
    "no Content-Type": (reply(200, PAGE), (exporter.CONTENT_TYPE, "")),
    "format that was not requested": (reply(200, messages(), MESSAGES), (exporter.CONTENT_TYPE, "")),
    "TYPE twice": (reply(200, b"# TYPE a gauge\n# TYPE a gauge\na 1\n", TYPE), MALFORMED),
    "TYPE after samples": (reply(200, b"a 1\n# TYPE a gauge\n", TYPE), MALFORMED),
    "no EOF": (reply(200, openmetrics()[:-6], OPENMETRICS), MALFORMED),
    "truncated line": (reply(200, PAGE[:-4], TYPE), MALFORMED),
    "unknown content coding": (
        reply(200, PAGE, TYPE, ("Content-Encoding", "zstd")),
        (Reason.HTTP_CONTENT_ENCODING, "transfer"),
    ),
    "invalid gzip": (reply(200, PAGE, TYPE, ("Content-Encoding", "gzip")), (Reason.HTTP_CONTENT_ENCODING, "transfer")),
    "truncated body": (
        raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\na 1\n"),
        (Reason.HTTP_BODY_TRUNCATED, "transfer"),
    ),
    "not HTTP": (raw(b"SSH-2.0-x\r\n", end=End.HOLD), (Reason.HTTP_PROTOCOL_ERROR, "processing")),
    "closed at once": (raw(), (Reason.CONNECT_CLOSED, "processing")),
}


@pytest.mark.parametrize("name", BAD)
async def test_invalid_metrics_page_fails_with_its_reason(name: str) -> None:
    """The prober asks for health although the page failed."""
    answer, expected = BAD[name]
    result, site = await probe({"/metrics": answer, "/-/healthy": HEALTHY})
    assert why(result) == expected
    assert samples(result)["probe_exporter_metrics_parsed"] == 0
    assert samples(result)["probe_exporter_healthy"] == 1
    assert site.requests[-1].path == "/metadata"


async def test_truncated_protobuf_page_fails() -> None:
    result, _ = await probe(reply(200, messages()[:-3], MESSAGES), formats=["protobuf"])
    assert why(result) == MALFORMED


async def test_page_without_content_type_is_read_in_the_fallback_format() -> None:
    result, _ = await probe(reply(200, PAGE), fallback_format="text")
    assert why(result) is None


@pytest.mark.usefixtures("clock")
async def test_silent_server_times_out_in_the_transfer_phase() -> None:
    result, _ = await probe(silence(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\na 1\n"))
    assert why(result) == (Reason.TIMEOUT_TRANSFER, "transfer")
    assert 19 < result.duration < 25  # the deadline is set a moment before the run begins


async def test_closed_port_is_asked_once() -> None:
    result, _ = await probe(OK, "127.0.0.1:{dead}")
    assert why(result) == (Reason.CONNECT_REFUSED, "connect")
    assert "probe_exporter_healthy" not in samples(result)
    assert 'probe_exporter_duration_seconds{phase="health"}' not in samples(result)


async def test_gzip_bomb_fails_at_the_size_limit() -> None:
    bomb = gzip.compress(b"# " + b" " * (80 * 1024 * 1024) + b"\n", compresslevel=1)
    result, _ = await probe(reply(200, bomb, TYPE, ("Content-Encoding", "gzip")), timeout=60)
    assert why(result) == (Reason.HTTP_BODY_TOO_LARGE, "transfer")


async def test_endless_page_fails_at_the_size_limit() -> None:
    endless = raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n", Repeat(b"a 1\n" * 1000, 10**6))
    result, _ = await probe(endless, body_size_limit="100KB")
    assert why(result) == (Reason.HTTP_BODY_TOO_LARGE, "transfer")


async def test_sample_limit_is_enforced() -> None:
    body = b"".join(b'a{n="%d"} 1\n' % number for number in range(100))
    assert why((await probe(reply(200, body, TYPE), sample_limit=100))[0]) is None
    assert why((await probe(reply(200, body, TYPE), sample_limit=99))[0]) == (exporter.TOO_MANY_SAMPLES, "parse")


async def test_large_page_is_parsed_in_short_turns() -> None:
    """100,000 samples are parsed in many short turns of the event loop."""
    lines = [b'http_requests_total{path="/api/%d",code="200"} %d\n' % (number, number) for number in range(100_000)]
    body = b"# HELP http_requests_total x\n# TYPE http_requests_total counter\n" + b"".join(lines)
    with turns() as taken:
        result, _ = await probe(reply(200, body, TYPE), timeout=60)
    assert why(result) is None
    assert samples(result)['probe_exporter_samples{type="counter"}'] == 100_000
    expect_cheaper(max(taken), sum(taken) / 4, "a turn of the event loop")


async def test_deadline_ends_the_parsing_of_a_large_page() -> None:
    body = b"".join(b'a{n="%d"} 1\n' % number for number in range(400_000))
    module = Module("m", prober, ExporterSettings(), 0.0, Place("test.yml"))
    async with Site({"/metrics": reply(200, body, TYPE)}) as site:
        result = await run_until(in_phase("parse"), module, site.fill("127.0.0.1:{port}"))
    assert why(result) == (Reason.TIMEOUT_PROBE, "parse")


async def test_tls_certificate_is_reported(pki: Pki) -> None:
    settings = ExporterSettings.model_validate({"tls_config": {"ca_file": str(pki.directory / "root.pem")}})
    async with Site({"/metrics": OK}, Tls(), pki.directory) as site:
        module = Module("m", prober, settings, 0.0, Place("test.yml"))
        result = await run(module, site.fill("https://localhost:{tls_port}"), 20.0)
    assert why(result) is None
    assert any(name.startswith("probe_ssl_earliest_cert_expiry") for name in samples(result))


# --- the linter --------------------------------------------------------------------------------------------


async def test_lint_findings_are_counted_and_logged_without_failing() -> None:
    page = b"# TYPE app_jobs counter\napp_jobs 5\napp_jobs 5\n"
    result, _ = await probe(reply(200, page, TYPE))
    assert why(result) is None
    found = samples(result)
    assert found['probe_exporter_lint_findings{rule="counter_without_total"}'] == 1
    assert found['probe_exporter_lint_findings{rule="help_missing"}'] == 1
    assert found['probe_exporter_lint_findings{rule="duplicate_series"}'] == 1
    logged = [event.fields["rule"] for event in result.probe.events if event.message == "A convention is violated"]
    assert logged == ["help_missing", "counter_without_total", "duplicate_series"]


async def test_lint_findings_fail_the_probe_if_required() -> None:
    page = reply(200, b"app_jobs 5\n", TYPE)
    result, _ = await probe(page, require={"lint": True})
    assert why(result) == (exporter.LINT_FINDINGS, "lint")
    assert result.failure is not None
    assert "help_missing (1)" in result.failure.message
    result, _ = await probe(page, require={"lint": True}, lint_ignore=["help_missing"])
    assert why(result) is None


def test_settings_know_every_lint_rule() -> None:
    assert get_args(exporter.Rule) == tuple(lint.RULES)


# --- health and metadata -----------------------------------------------------------------------------------

SILENT = silence()
HEALTH: dict[str, tuple[Mapping[str, Answer], float | None, str | None]] = {
    "a path that answers 200": ({"/-/healthy": HEALTHY}, 1, None),
    "the last path": ({"/healthz": HEALTHY}, 1, None),
    "a path that answers 503, and one 200": ({"/-/healthy": reply(503), "/health": HEALTHY}, 1, None),
    "a path that answers 503": ({"/health": reply(503)}, 0, exporter.UNHEALTHY),
    "a path that redirects to a login": ({"/health": redirect(302, "/metrics")}, 0, exporter.UNHEALTHY),
    "a path that closes the connection": ({"/health": raw()}, 0, exporter.UNHEALTHY),
    "a path that does not answer": ({"/health": SILENT}, 0, exporter.UNHEALTHY),
    "none": ({}, None, exporter.NO_HEALTH),
    "a path that does not allow GET": ({"/health": reply(405)}, None, exporter.NO_HEALTH),
}


@pytest.mark.parametrize("name", HEALTH)
@pytest.mark.usefixtures("clock")
async def test_health_is_reported_and_fails_the_probe_only_if_required(name: str) -> None:
    pages, healthy, reason = HEALTH[name]
    result, _ = await probe({"/metrics": OK, **pages})
    assert why(result) is None
    assert samples(result).get("probe_exporter_healthy") == healthy
    result, _ = await probe({"/metrics": OK, **pages}, require={"health": True})
    assert why(result) == (None if reason is None else (reason, "health"))


async def test_health_is_asked_at_the_configured_paths() -> None:
    _, site = await probe({"/metrics": OK}, health_paths=["/up?deep=1"], metadata_path="")
    assert [request.line for request in site.requests][1:] == ["GET /up?deep=1 HTTP/1.1"]
    _, site = await probe({"/metrics": OK}, health_paths=[], metadata_path="")
    assert len(site.requests) == 1


BUILD = b'app_build_info{version="2.0",revision="r"} 1\n'
JSON = ("Content-Type", "application/json")
METADATA: dict[str, tuple[Mapping[str, Answer], str | None]] = {
    "a document": ({"/metadata": ABOUT}, 'source="/metadata",version="1.2"'),
    "a metric": ({"/metrics": reply(200, PAGE + BUILD, TYPE)}, 'source="app_build_info",version="2.0"'),
    "both": ({"/metrics": reply(200, PAGE + BUILD, TYPE), "/metadata": ABOUT}, 'source="/metadata",version="1.2"'),
    "build info of the Go runtime": ({"/metrics": reply(200, PAGE + b"go_build_info 1\n", TYPE)}, None),
    "invalid JSON": ({"/metadata": reply(200, b"{", JSON)}, None),
    "JSON that is no object": ({"/metadata": reply(200, b"[1]", JSON)}, None),
    "deep JSON": ({"/metadata": reply(200, b"[" * 100_000, JSON)}, None),
    "another content type": ({"/metadata": reply(200, b"{}")}, None),
    "document beyond the limit": ({"/metadata": reply(200, b" " * 2_000_000, JSON)}, None),
    "no response": ({"/metadata": SILENT}, None),
    "nothing": ({}, None),
}


@pytest.mark.parametrize("name", METADATA)
@pytest.mark.usefixtures("clock")
async def test_metadata_is_reported_and_fails_the_probe_only_if_required(name: str) -> None:
    pages, labels = METADATA[name]
    result, _ = await probe({"/metrics": OK, **pages})
    assert why(result) is None
    found = [name for name in samples(result) if name.startswith("probe_exporter_metadata_info")]
    assert [labels in name for name in found if labels] == ([True] if labels else [])
    result, _ = await probe({"/metrics": OK, **pages}, require={"metadata": True})
    assert why(result) == (None if labels else (exporter.NO_METADATA, "metadata"))


async def test_metadata_is_cut_to_the_length_of_a_label() -> None:
    about = reply(200, b'{"name": "%s", "version": 5}' % (b"x" * 500), JSON)
    result, _ = await probe({"/metrics": OK, "/metadata": about})
    (name,) = [name for name in samples(result) if name.startswith("probe_exporter_metadata_info")]
    assert f'name="{"x" * 128}"' in name
    assert 'version=""' in name


# --- series and values of the target -----------------------------------------------------------------------

SERIES = b"""\
# TYPE app_jobs_total counter
app_jobs_total{kind="a"} 5
app_jobs_total{kind="b"} 6
# TYPE app_seconds histogram
app_seconds_bucket{le="+Inf"} 3
app_seconds_sum 1.5
app_seconds_count 3
# TYPE probe_success gauge
probe_success 0
app_long{l="%s"} 1
""" % (b"x" * 300)


async def test_reexposed_series_are_in_the_answer() -> None:
    result, _ = await probe(reply(200, SERIES, TYPE), reexpose={"names": ["app_jobs_*", "app_*_count", "probe_*"]})
    found = samples(result)
    assert found['app_jobs_total{kind="a"}'] == 5
    assert found["app_seconds_count"] == 3
    assert "app_seconds_sum" not in found
    assert found["probe_success"] == 1
    assert found["probe_exporter_reexposed_series"] == 3
    text = encode(result.probe.samples, TEXT).decode()
    assert "# TYPE app_jobs_total counter\n" in text
    assert "# TYPE app_seconds_count untyped\n" in text


async def test_reexposed_series_beyond_the_limit_are_dropped_and_counted() -> None:
    result, _ = await probe(reply(200, SERIES, TYPE), reexpose={"names": ["app_*"], "limit": 2, "prefix": "their_"})
    found = samples(result)
    assert {name for name in found if "app_" in name} == {f'their_app_jobs_total{{kind="{kind}"}}' for kind in "ab"}
    assert found["probe_exporter_left_out_series"] == 4
    result, _ = await probe(reply(200, SERIES, TYPE), reexpose={"names": ["app_long"]})
    assert samples(result)["probe_exporter_left_out_series"] == 1


async def test_reexposed_series_with_prefix_do_not_clash_with_those_of_a_prober() -> None:
    result, _ = await probe(reply(200, SERIES, TYPE), reexpose={"names": ["probe_*"], "prefix": "their_"})
    assert samples(result)["their_probe_success"] == 0


async def test_values_come_from_page_header_and_metadata() -> None:
    metrics = [
        {"name": "a", "help": "x", "from": {"regexp": r"up (\d)"}},
        {"name": "b", "help": "x", "from": {"header": "Content-Length"}},
        {"name": "c", "help": "x", "from": {"json": "$.version"}, "required": True},
    ]
    result, _ = await probe({"/metrics": OK, "/metadata": ABOUT}, metrics=metrics)
    assert why(result) is None
    found = samples(result)
    assert (found["a"], found["b"], found["c"]) == (1, len(PAGE), 1.2)
    result, _ = await probe({"/metrics": OK}, metrics=metrics)
    assert why(result) == (Reason.VALUE_MISSING, "values")


@cache
def probers() -> Mapping[str, Prober[Any]]:
    """Return every prober, loaded once."""
    return loader.load_probers([])


async def test_metadata_redirect_to_a_denied_target_fails_the_probe(tmp_path: Path) -> None:
    """Metadata may fail without failing the probe, but a denied target always fails it."""
    path = tmp_path / "a.yml"
    path.write_text("modules: {m: {prober: exporter, targets: {deny: [127.0.0.77]}}}")
    module = loading.load([path], probers()).modules["m"]
    pages = {"/metrics": OK, "/metadata": redirect(302, "http://127.0.0.77:1/")}
    async with Site(pages) as site:
        result = await run(module, site.fill("127.0.0.1:{port}"), 20.0)
    assert result.failure is not None
    assert result.failure.reason is Reason.TARGET_DENIED


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"formats": []},
        {"formats": ["xml"]},
        {"health_paths": ["health"]},
        {"metadata_path": "a b"},
        {"sample_limit": 0},
        {"lint_ignore": ["nothing"]},
        {"reexpose": {"names": ["a b"]}},
        {"reexpose": {"prefix": "probe_"}},
        {"reexpose": {"prefix": "1"}},
        {"require": {"metrics": True}},
    ],
    ids=str,
)
def test_settings_without_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        ExporterSettings.model_validate(settings)


def test_required_health_without_paths_is_a_caution() -> None:
    settings = ExporterSettings.model_validate({"require": {"health": True}, "health_paths": []})
    assert [key for key, _ in settings.cautions()] == ["health_paths"]


PLACES = {
    "formats: [text, xml]": "1:60: modules.m.exporter.formats[1]: expected protobuf, openmetrics or text",
    "format: text": "1:44: modules.m.exporter.format: unknown key `format`; did you mean `formats`?",
    "require: {helth: true}": "1:54: modules.m.exporter.require.helth: unknown key `helth`; did you mean `health`?",
    "health_paths: [up]": "1:59: modules.m.exporter.health_paths[0]: expected a path, such as /-/healthy",
    "reexpose: {prefix: probe_x}": "1:55: modules.m.exporter.reexpose.prefix: names that begin with probe_ are",
    "sample_limit: many": "1:44: modules.m.exporter.sample_limit: expected an integer, found a string",
}


@pytest.mark.parametrize("written", PLACES)
def test_settings_error_names_its_position(written: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(f"modules: {{m: {{prober: exporter, exporter: {{{written}}}}}}}\n")
    with pytest.raises(ConfigError) as refused:
        loading.load([path], probers())
    assert str(refused.value).partition("a.yml:")[2].startswith(PLACES[written])


def test_oauth2_token_source_is_shared_by_every_api_and_hostname() -> None:
    oauth2 = {"client_id": "a", "token_url": "http://127.0.0.1:1/token"}
    settings = ExporterSettings.model_validate({"oauth2": oauth2})
    named = with_hostname(settings, "app.example")
    assert settings.tokens is not None
    for one in (settings, named):
        assert {
            id(requests.tokens) for requests in (one.metrics_requests, one.health_requests, one.metadata_requests)
        } == {id(settings.tokens)}


async def test_hostname_is_the_host_header_of_every_request() -> None:
    settings = with_hostname(ExporterSettings.model_validate({"headers": {"X-A": "b"}}), "app.example")
    async with Site({"/metrics": OK}) as site:
        await run(Module("m", prober, settings, 0.0, Place("test.yml")), site.fill("127.0.0.1:{port}"), 20.0)
    assert {request.all("Host")[0] for request in site.requests} == {"app.example"}
    assert with_hostname(settings, "app.example") is settings
    with pytest.raises(ValueError, match="conflicts"):
        with_hostname(settings, "other.example")
