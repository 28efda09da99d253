"""Test all endpoints of an exporter process, with a prober that is controlled by its target."""

from __future__ import annotations

import html
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import pytest
import yaml

from tests import exporters
from tests.cost import expect_cheaper
from tests.exporters import Response, Server
from tests.http_client import ask
from tests.metrics_proto import decode
from tests.waiting import wait_until

PLUGINS = Path(__file__).parents[1] / "own_probers"
CONFIG = """
modules:
  http_2xx: {prober: actor}
  named: {prober: actor, actor: {host: configured.example}}
  brief: {prober: actor, timeout: 200ms}
  secret: {prober: actor, actor: {password: hunter2}}
  "<b>&": {prober: actor}
"""
TEXT = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
PLAIN = "text/plain; charset=utf-8"
MESSAGES = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily"


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run one exporter for all tests of this file."""
    directory = tmp_path_factory.mktemp("web")
    (directory / "blackbox.yml").write_text(CONFIG)
    with exporters.ours(directory, f"--modules.dir={PLUGINS}", "--log.level=debug") as running:
        yield running


def values(body: str) -> dict[str, float]:
    """Return the samples of a text exposition by name and labels as written."""
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in body.splitlines()
        if line and not line.startswith("#")
    }


def probe(exporter: Server, target: str, module: str = "http_2xx", more: str = "", **headers: str) -> Response:
    return ask(exporter.port, f"/probe?module={quote(module)}&target={quote(target)}{more}", headers=headers)


def own_metric(exporter: Server, name: str) -> float:
    return values(ask(exporter.port, "/metrics").text)[name]


def hang_up_on(exporter: Server, path: str, running: Callable[[], bool]) -> None:
    """Send a request, wait until it is being answered, and close the connection."""
    with socket.create_connection(("127.0.0.1", exporter.port)) as impatient:
        impatient.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_until(running)


def cpu_seconds(exporter: Server) -> float:
    """Return the CPU time of the exporter's process, all threads together."""
    return time.clock_gettime((~exporter.process.pid << 3) | 2)  # see clock_getcpuclockid(3)


# --- /probe --------------------------------------------------------------------------------------------------


def test_probe_answers_with_its_metrics(exporter: Server) -> None:
    before = time.monotonic()
    answer = probe(exporter, "two words")
    waited = time.monotonic() - before
    assert (answer.status, answer.headers["content-type"]) == (200, TEXT)
    shown = values(answer.text)
    assert (shown["probe_success"], shown["probe_actor_words"]) == (1, 2)
    assert 0 < shown["probe_duration_seconds"] < waited
    assert shown["probe_timeout_seconds"] == 119.5


def test_failed_probe_is_answered_with_200(exporter: Server) -> None:
    answer = probe(exporter, "fail")
    assert answer.status == 200
    shown = values(answer.text)
    assert shown["probe_success"] == 0
    assert shown['probe_failure_info{phase="acting",reason="target_invalid"}'] == 1
    assert shown["probe_actor_words"] == 1, "samples from before the failure are missing"


def test_exception_in_a_prober_is_counted_and_answered_with_200(exporter: Server) -> None:
    before = own_metric(exporter, "probe_exporter_internal_errors_total")
    answer = probe(exporter, "break")
    assert answer.status == 200
    assert values(answer.text)['probe_failure_info{phase="acting",reason="internal_error"}'] == 1
    assert own_metric(exporter, "probe_exporter_internal_errors_total") == before + 1
    wait_until(lambda: "a bug of the prober" in exporter.log.read_text())


def test_probers_own_registry_is_in_the_answer(exporter: Server) -> None:
    shown = values(probe(exporter, "count").text)
    assert shown["probe_actor_counted_total"] == 2
    assert shown['probe_actor_spread_bucket{le="2.0"}'] == 1
    assert not [name for name in shown if "_created" in name]


def test_probers_own_registry_is_new_for_each_probe(exporter: Server) -> None:
    for _ in range(2):
        assert values(probe(exporter, "count").text)["probe_actor_counted_total"] == 2
    assert "probe_actor_counted_total" not in values(probe(exporter, "x").text)


@pytest.mark.parametrize(
    ("query", "target"),
    [
        ("target=x", "x"),
        ("target=a&target=b", "a"),
        ("target=a+b", "a b"),
        ("target=a%2Bb", "a+b"),
        ("target=100%2525", "100%25"),
        ("target=x%3B", "x;"),
        ("target=a%23b", "a#b"),
        ("target=a;b&target=c", "c"),
        ("target=%zz&target=c", "c"),
        ("target=caf%C3%A9", "café"),
        ("target=http://h/?q=1/2:3@4", "http://h/?q=1/2:3@4"),
        ("target=%20", " "),
    ],
)
def test_target_is_decoded_once(exporter: Server, query: str, target: str) -> None:
    answer = ask(exporter.port, f"/probe?{query}")
    assert f'probe_actor_seen_info{{host="",target="{target}"}} 1\n' in answer.text


@pytest.mark.parametrize("query", ["module=", "module=;", "module=%zz", "module=http_2xx&module=no_such"])
def test_missing_module_means_http_2xx(exporter: Server, query: str) -> None:
    assert ask(exporter.port, f"/probe?target=x&{query}").status == 200


@pytest.mark.parametrize(
    ("query", "header", "status", "line"),
    [
        ("module=no_such&target=x", "", 400, 'Unknown module "no_such". /config lists all modules'),
        ("module=no_such", "abc", 400, 'Unknown module "no_such". /config lists all modules'),
        ("module=brief&target=x", "abc", 400, "Cannot parse the scrape timeout header: 'abc' is not a number"),
        ("module=brief", "abc", 400, "Cannot parse the scrape timeout header: 'abc' is not a number"),
        ("module=brief", "10", 400, "The target parameter is missing"),
        ("target=", "", 400, "The target parameter is missing"),
        ("", "", 400, "The target parameter is missing"),
        ("target=a;b", "", 400, "The target parameter is missing"),
        ("hostname=other.example&module=named", "", 400, "The target parameter is missing"),
        (
            "hostname=other.example&module=named&target=x",
            "",
            400,
            'the module says "configured.example" and the request "other.example"',
        ),
    ],
)
def test_first_error_of_a_request_is_reported(
    exporter: Server, query: str, header: str, status: int, line: str
) -> None:
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": header} if header else {}
    answer = ask(exporter.port, f"/probe?{query}", headers=headers)
    assert (answer.status, answer.text) == (status, f"{line}\n")
    assert answer.headers["content-type"] == PLAIN
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_unknown_module_is_counted(exporter: Server) -> None:
    before = own_metric(exporter, "blackbox_module_unknown_total")
    probe(exporter, "x", "no_such")
    assert own_metric(exporter, "blackbox_module_unknown_total") == before + 1


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS"])
def test_probe_allows_only_get(exporter: Server, method: str) -> None:
    answer = ask(exporter.port, "/probe?target=x", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")


def test_form_body_is_ignored(exporter: Server) -> None:
    assert ask(exporter.port, "/probe", method="GET", body=b"target=x").text == "The target parameter is missing\n"


@pytest.mark.parametrize(
    ("module", "header", "timeout"),
    [
        ("http_2xx", "", 119.5),
        ("http_2xx", "10", 9.5),
        ("http_2xx", " 1e1 ", 9.5),
        ("http_2xx", "inf", 119.5),
        ("brief", "10", 0.2),
        ("brief", "nan", 0.2),
    ],
)
def test_timeout_follows_from_header_offset_and_module(
    exporter: Server, module: str, header: str, timeout: float
) -> None:
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": header} if header else {}
    answer = ask(exporter.port, f"/probe?target=x&module={module}", headers=headers)
    assert values(answer.text)["probe_timeout_seconds"] == timeout


def test_probe_fails_at_its_timeout(exporter: Server) -> None:
    shown = values(probe(exporter, "hang /dev/null", "brief").text)
    assert shown["probe_success"] == 0
    assert shown['probe_failure_info{phase="acting",reason="timeout_probe"}'] == 1


def test_hostname_is_passed_to_the_prober(exporter: Server) -> None:
    def host(more: str, module: str = "http_2xx") -> list[str]:
        return re.findall(r'host="([^"]*)"', probe(exporter, "x", module, more).text)

    assert host("&hostname=a.example") == ["a.example"]
    assert host("&hostname=configured.example", "named") == ["configured.example"]
    assert host("&hostname=", "named") == ["configured.example"]
    assert host("") == [""], "the module was changed"


def test_disconnected_client_cancels_its_probe(exporter: Server, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    hang_up_on(exporter, f"/probe?target=hang+{quote(str(witness))}", witness.exists)
    wait_until(lambda: witness.read_text() == "cancelled")
    assert str(witness) not in ask(exporter.port, "/").text, "a cancelled probe is not in the history"


# --- formats and compression ---------------------------------------------------------------------------------


def test_openmetrics_is_sent_if_accepted(exporter: Server) -> None:
    for path in ("/probe?target=count", "/metrics"):
        ask(exporter.port, path)  # the series that count such requests exist from now on
        answer = ask(exporter.port, path, headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        media = "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
        assert answer.headers["content-type"] == media
        assert answer.text.endswith("# EOF\n")
        assert values(answer.text).keys() == values(ask(exporter.port, path).text).keys()


@pytest.mark.parametrize("path", ["/probe?target=count", "/metrics"])
def test_protocol_buffers_are_sent_if_accepted(exporter: Server, path: str) -> None:
    types = re.findall(r"# TYPE (\S+)", ask(exporter.port, path).text)
    headers = {"Accept": f"{MESSAGES}; encoding=delimited;q=0.6,text/plain;q=0.5", "Accept-Encoding": "gzip"}
    answer = ask(exporter.port, path, headers=headers)
    assert answer.headers["content-type"] == f"{MESSAGES}; encoding=delimited; escaping=underscores"
    assert answer.headers["content-encoding"] == "gzip"
    assert [family.name for family in decode(answer.body)] == types
    for encoding, start in (("text", 'name: "'), ("compact-text", 'name:"')):
        spelt = ask(exporter.port, path, headers={"Accept": f"{MESSAGES}; encoding={encoding}"})
        assert spelt.headers["content-type"] == f"{MESSAGES}; encoding={encoding}; escaping=underscores"
        assert spelt.text.startswith(start)


@pytest.mark.parametrize("path", ["/probe?target=x", "/metrics"])
def test_gzip_is_sent_if_accepted(exporter: Server, path: str) -> None:
    packed = ask(exporter.port, path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
    assert packed.headers["content-encoding"] == "gzip"
    plain = ask(exporter.port, path, headers={"Accept-Encoding": "br, *"})
    assert "content-encoding" not in plain.headers
    assert values(packed.text).keys() == values(plain.text).keys()


# --- debug document, logs and history ------------------------------------------------------------------------


def test_debug_document_has_log_metrics_and_module(exporter: Server) -> None:
    headers = {"Accept-Encoding": "gzip", "Accept": "application/openmetrics-text"}
    answer = ask(exporter.port, "/probe?target=fail&module=brief&debug=true", headers=headers)
    assert (answer.status, answer.headers["content-type"]) == (200, PLAIN)
    assert "content-encoding" not in answer.headers, "the debug document is not compressed"
    log, metrics, module = answer.text.split("\n\n\n\n")
    heading, *lines = log.splitlines()
    assert heading == "Logs for the probe:"
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"time=\S+ level=(WARN|ERROR) source=\w+\.py:\d+ msg=.* module=brief target=fail\b", line)
    assert metrics.startswith("Metrics that would have been returned:\n# HELP ")
    assert values(metrics.partition("\n")[2])["probe_success"] == 0
    heading, _, text = module.partition("\n")
    assert heading == "Module configuration:"
    assert yaml.safe_load(text)["timeout"] == "200ms"


@pytest.mark.parametrize("word", ["True", "1", "", "false"])
def test_debug_is_on_only_for_true(exporter: Server, word: str) -> None:
    assert probe(exporter, "x", more=f"&debug={word}").headers["content-type"] == TEXT


def test_debug_document_shows_hostname_applied_and_no_secrets(exporter: Server) -> None:
    text = probe(exporter, "x", "secret", "&debug=true&hostname=a.example").text
    assert "host: a.example" in text
    assert "<secret>" in text
    assert "hunter2" not in text


def test_logs_finds_probes_by_id_and_by_target(exporter: Server) -> None:
    unique = f"fail {time.monotonic_ns()}"
    first = probe(exporter, unique, more="&debug=true").text
    probe(exporter, f"{unique} later")
    second = probe(exporter, unique, "brief", "&debug=true").text
    assert first != second
    found = re.findall(r'href="logs\?id=(\d+)"', ask(exporter.port, "/").text)
    newest = int(found[0])
    assert [int(number) for number in found[:3]] == [newest, newest - 1, newest - 2]
    assert ask(exporter.port, f"/logs?id={found[0]}").text == second
    assert ask(exporter.port, f"/logs?id={found[2]}").text == first
    by_target = f"/logs?target={quote(unique)}"
    assert ask(exporter.port, by_target).text == second, "the newest"
    assert ask(exporter.port, f"{by_target}&module=http_2xx").text == first
    assert ask(exporter.port, f"{by_target}&id=none").text == second


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 400),
        ("?id=", 400),
        ("?id=one", 400),
        ("?id=-1", 400),
        ("?id=1.0", 400),
        ("?id=1_0", 400),
        ("?id=+5", 400),
        ("?module=http_2xx", 400),
        ("?id=0&module=http_2xx", 400),
        ("?id=0&target=x", 400),
        ("?id=99999999", 404),
        ("?id=-2", 404),
        ("?target=no+such+target", 404),
        ("?target=no+such+target&module=http_2xx", 404),
    ],
)
def test_logs_refuses_invalid_queries(exporter: Server, query: str, status: int) -> None:
    answer = ask(exporter.port, f"/logs{query}")
    assert (answer.status, answer.headers["content-type"]) == (status, PLAIN)
    assert answer.text.count("\n") == 1


def test_refused_requests_have_no_history_entry(exporter: Server) -> None:
    before = ask(exporter.port, "/").text.count("logs?id=")
    probe(exporter, "x", "no_such")
    probe(exporter, "")
    assert ask(exporter.port, "/").text.count("logs?id=") == before


# --- pages and administration --------------------------------------------------------------------------------


def test_landing_page_has_relative_links_and_escapes_html(exporter: Server) -> None:
    probe(exporter, "<script>alert('&')</script>", "<b>&")
    answer = ask(exporter.port, "/")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    page = answer.text
    links = re.findall(r'(?:href|action)="([^"]*)"', page)
    pages = ("metrics", "config", "history", "health", "metadata", "openapi.json")
    for link in (*pages, "probe?target=prometheus.io&amp;module=http_2xx"):
        assert link in links
    assert "probe?target=prometheus.io&amp;module=http_2xx&amp;debug=true" in links
    assert not [link for link in links if link.startswith("/") or "://" in link]
    assert "<script>" not in page
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page
    assert "&lt;b&gt;&amp;" in page
    assert page.index("Success") > 0


def test_config_page_masks_secrets(exporter: Server) -> None:
    answer = ask(exporter.port, "/config")
    assert (answer.status, answer.headers["content-type"]) == (200, PLAIN)
    shown = yaml.safe_load(answer.text)["modules"]
    assert list(shown) == sorted(shown)
    assert shown["secret"]["actor"]["password"] == "<secret>"
    assert "hunter2" not in answer.text


@pytest.mark.slow
def test_config_page_of_many_modules_does_not_block_other_requests(tmp_path: Path) -> None:
    """The same holds for /metadata and the landing page."""
    modules = "".join(f"  m{number}: {{prober: actor}}\n" for number in range(5000))
    (tmp_path / "blackbox.yml").write_text(f"modules:\n{modules}")
    with exporters.ours(tmp_path, f"--modules.dir={PLUGINS}") as exporter:
        with ThreadPoolExecutor() as other:
            began = cpu_seconds(exporter)
            asked = other.submit(ask, exporter.port, "/config", timeout=120)
            waits = []
            while not asked.done():
                before = cpu_seconds(exporter)
                ask(exporter.port, "/-/healthy")
                waits.append(cpu_seconds(exporter) - before)
        assert asked.result().text.count("prober: actor") == 5000
        expect_cheaper(max(waits), (cpu_seconds(exporter) - began) / 2, "work that another request waited for")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/config", "/logs", "/history", "/-/healthy", "/-/ready", "/health"])
def test_pages_allow_only_get_and_head(exporter: Server, path: str, method: str) -> None:
    answer = ask(exporter.port, path, method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/config", "/probe?target=x", "/probe?target=x&debug=true", "/probe", "/history", "/logs",
     "/-/healthy", "/-/ready", "/health", "/metadata", "/openapi.json", "/nothing", "//", "/-/reload"],
)  # fmt: skip
def test_every_response_forbids_sniffing(exporter: Server, path: str) -> None:
    for headers in ({}, {"Accept-Encoding": "gzip"}, {"Accept": "application/openmetrics-text"}):
        assert ask(exporter.port, path, headers=headers).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_healthy_answers_one_word(exporter: Server, method: str) -> None:
    answer = ask(exporter.port, "/-/healthy", method=method)
    assert (answer.status, answer.headers["content-type"]) == (200, PLAIN)
    assert answer.body == (b"" if method == "HEAD" else b"Healthy")


def test_metrics_requests_are_counted(exporter: Server) -> None:
    before = own_metric(exporter, 'promhttp_metric_handler_requests_total{code="200"}')
    assert own_metric(exporter, 'promhttp_metric_handler_requests_total{code="200"}') == before + 1


def test_requests_are_counted_by_path_and_status(exporter: Server) -> None:
    def counted(handler: str, code: int) -> float:
        name = f'probe_exporter_http_requests_total{{code="{code}",handler="{handler}"}}'
        return values(ask(exporter.port, "/metrics").text).get(name, 0)

    before = counted("/probe", 400), counted("other", 404), counted("/-/reload", 405)
    ask(exporter.port, "/probe")
    ask(exporter.port, "/no/such/path")
    ask(exporter.port, "/-/reload")
    assert (counted("/probe", 400), counted("other", 404), counted("/-/reload", 405)) == tuple(n + 1 for n in before)


@pytest.mark.slow
def test_unknown_names_create_no_series(exporter: Server) -> None:
    """Send 10,000 requests with unknown modules, targets, paths and parameters."""

    def names() -> set[str]:
        return set(values(ask(exporter.port, "/metrics").text))

    ask(exporter.port, "/probe?module=no_such&target=x")
    ask(exporter.port, "/no_such")
    ask(exporter.port, "/probe?target=x")
    ask(exporter.port, "/metrics")  # a request is counted after its response
    before = names()
    with socket.create_connection(("127.0.0.1", exporter.port)) as connection, connection.makefile("rb") as answers:
        for number in range(10_000):
            path = [f"/probe?module=m{number}&target=t{number}", f"/p{number}", f"/probe?target=t{number}&x{number}=y"]
            connection.sendall(f"GET {path[number % 3]} HTTP/1.1\r\nHost: h{number}\r\n\r\n".encode())
            _skip_answer(answers)
    assert names() == before


def _skip_answer(answers: BinaryIO) -> None:
    length = 0
    while (line := answers.readline()) != b"\r\n":
        assert line, "the connection has ended"
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    answers.read(length)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_reload_allows_only_post(exporter: Server, method: str) -> None:
    answer = ask(exporter.port, "/-/reload", method=method)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["/nope", "/probe/", "/metrics/x", "/-/unready", "/debug/pprof/"])
def test_unknown_path_is_404(exporter: Server, path: str) -> None:
    answer = ask(exporter.port, path)
    assert (answer.status, answer.text) == (404, "Not found\n")


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//probe?target=x", "/probe?target=x"),
        ("///metrics", "/metrics"),
        ("/./metrics", "/metrics"),
        ("/%2e", "/"),
        ("/a/../probe?target=a%20b", "/probe?target=a%20b"),
        ("/%2e%2e/metrics", "/metrics"),
        ("//evil.example/%2e%2e", "/"),
        ("/%0d%0aSet-Cookie:x//", "/%0D%0ASet-Cookie%3Ax/"),
    ],
)
def test_unnormalised_path_is_redirected(exporter: Server, path: str, location: str) -> None:
    answer = ask(exporter.port, path)
    assert (answer.status, answer.headers["location"]) == (301, location)
    assert "set-cookie" not in answer.headers


def test_path_may_be_escaped_or_absolute(exporter: Server) -> None:
    assert ask(exporter.port, "/%6detrics").status == 200
    assert ask(exporter.port, f"http://127.0.0.1:{exporter.port}/-/healthy").text == "Healthy"


def test_target_may_be_long(exporter: Server) -> None:
    target = "x" * 60_000
    assert f'target="{target}"' in probe(exporter, target).text


@pytest.mark.parametrize(
    "sent", [b"garbage\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 100_000)]
)
def test_malformed_request_gets_400_and_is_not_logged(exporter: Server, sent: bytes) -> None:
    wait_until(lambda: "Listening" in exporter.log.read_text())
    before = exporter.logged()
    with socket.create_connection(("127.0.0.1", exporter.port), 60) as connection:
        connection.sendall(sent)
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    assert ask(exporter.port, "/-/healthy").status == 200
    assert exporter.logged() == before


def test_server_header_has_no_version(exporter: Server) -> None:
    assert ask(exporter.port, "/").headers["server"] == "probe-exporter"


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/probe", "/modules/no-such", "/history?limit=0", "/a/b/c", "/logs?id=99999999"])
def test_browser_gets_errors_as_a_page(exporter: Server, path: str) -> None:
    text, page = ask(exporter.port, path), ask(exporter.port, path, headers=BROWSER)
    assert (text.headers["content-type"], page.headers["content-type"]) == (PLAIN, "text/html; charset=utf-8")
    assert page.status == text.status >= 400
    assert html.escape(text.text.strip(), quote=False).replace('"', "&#34;") in page.text


def test_redirect_and_refused_method_keep_their_headers_for_a_browser(exporter: Server) -> None:
    assert ask(exporter.port, "//metrics", headers=BROWSER).headers["location"] == "/metrics"
    assert ask(exporter.port, "/probe", method="POST", headers=BROWSER).headers["allow"] == "GET"


def test_static_file_is_not_sent_again_to_a_client_that_has_it(exporter: Server) -> None:
    first = ask(exporter.port, "/static/style.css")
    again = ask(exporter.port, "/static/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (first.status, again.status, again.body) == (200, 304, b"")
