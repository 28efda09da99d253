"""Web config files: the original and ours respond alike to the same requests and client certificates."""

from __future__ import annotations

import base64
import re
import shutil
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests import exporters
from tests.exporters import Server
from tests.http_client import ask
from tests.peers.test_prometheus import value_of, wait_for_value
from tests.peers.web_config_cases import HASH
from tests.targets import Pki
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

LOCKED = f"""
basic_auth_users: {{who: {HASH}, other: "{HASH.replace("2b", "2y")}"}}
http_server_config:
  headers:
    X-Frame-Options: sameorigin
    Strict-Transport-Security: max-age=60
    Content-Security-Policy: |
      default-src 'self';
      img-src *
"""
LIMITED = "rate_limit: {interval: 1h, burst: 3}\nhttp_server_config: {headers: {X-Frame-Options: deny}}\n"
MUTUAL = """
tls_server_config:
  cert_file: leaf.pem
  key_file: leaf.key
  client_ca_file: root.pem
  client_auth_type: %s
  %s
  min_version: %s
"""
CLIENTS = ("", "client", "foreign_client")
"""The names of the certificates of clients; "" for a client without one."""

SCRAPING = """
global: {scrape_interval: 3s, scrape_timeout: 3s}
scrape_configs:
  - job_name: locked
    scheme: https
    tls_config: {ca_file: root.pem, server_name: localhost, cert_file: client.pem, key_file: client.key}
    basic_auth: {username: who, password: x}
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
  - job_name: stranger
    scheme: https
    tls_config: {ca_file: root.pem, server_name: localhost}
    static_configs: [{targets: ["127.0.0.1:PORT"]}]
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Path:
    """Return the working directory of both."""
    directory = tmp_path_factory.mktemp("web-config")
    for name in ("leaf", "root", "client", "foreign_client"):
        for kind in ("pem", "key"):
            shutil.copy(pki.directory / f"{name}.{kind}", directory)
    (directory / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}\n")
    return directory


@contextmanager
def started(directory: Path, file: str, text: str) -> Iterator[list[Server]]:
    """Start the original and ours with a web config file of this name and text.

    Both read the file again for each request and each handshake, so tests replace it and need no other processes.
    """
    (directory / file).write_text(text)
    with ExitStack() as stack:
        starts = (exporters.original, exporters.ours)
        yield [stack.enter_context(start(directory, f"--web.config.file={file}")) for start in starts]


@pytest.fixture(scope="module")
def in_clear(directory: Path) -> Iterator[list[Server]]:
    with started(directory, "clear.yml", "{}\n") as both:
        yield both


@pytest.fixture(scope="module")
def with_tls(directory: Path) -> Iterator[list[Server]]:
    with started(directory, "tls.yml", MUTUAL % ("VerifyClientCertIfGiven", "", "TLS12")) as both:
        yield both


def login(name: str, password: str, scheme: str = "Basic") -> dict[str, str]:
    return {"Authorization": f"{scheme} {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        login("who", "x"),
        login("other", "x"),
        login("who", "y"),
        login("nobody", "x"),
        login("who", ""),
        login("", ""),
        login("who", "x", "basic"),
        login("who", "x", "BASIC"),
        login("who", "x", "Bearer"),
        login("who", "x", "Basic "),
        login("who", "x:"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic !"},
        {"Authorization": "Basic d2hvOng"},  # without its padding
        {"Authorization": "Basic d2hvOng= "},
        {"Authorization": "Basic d2hv"},  # without a colon
        {"Authorization": login("who", "x")["Authorization"] + ", Basic x"},
    ],
    ids=lambda headers: repr(headers.get("Authorization", "")),
)
def test_credentials_get_the_response_of_the_original(
    directory: Path, in_clear: list[Server], headers: dict[str, str]
) -> None:
    (directory / "clear.yml").write_text(LOCKED)
    set_here = ("x-frame-options", "strict-transport-security", "content-security-policy")
    shown = ("www-authenticate", "content-type", *set_here)
    theirs, ours = (
        [
            (answer.status, answer.text, {name: answer.headers.get(name) for name in shown})
            for answer in [ask(server.port, "/-/healthy", headers=headers)]
        ]
        for server in in_clear
    )
    assert theirs == ours


def test_rate_limit_rejects_the_requests_that_the_original_rejects(directory: Path) -> None:
    answers = []
    with started(directory, "limited.yml", LIMITED) as both:
        for server in both:
            several = [
                ask(server.port, path) for path in ("/-/healthy", "/metrics", "/config", "/-/healthy", "/-/reload")
            ]
            answers.append([(answer.status, answer.headers.get("x-frame-options")) for answer in several])
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0]].count(429) == 2


@pytest.mark.parametrize("least", ["TLS12", "TLS13"])
@pytest.mark.parametrize("names", ["", "[]", "[www.example.test]", "[127.0.0.1]", "['::1']", "[other.example.test]"])
@pytest.mark.parametrize("policy", ["VerifyClientCertIfGiven", "RequireAndVerifyClientCert"])
def test_client_certificate_is_accepted_if_the_original_accepts_it(
    directory: Path, with_tls: list[Server], policy: str, names: str, least: str
) -> None:
    allowed = f"client_allowed_sans: {names}" if names else ""
    (directory / "tls.yml").write_text(MUTUAL % (policy, allowed, least))
    theirs, ours = ([is_served(directory, server.port, client) for client in CLIENTS] for server in with_tls)
    assert theirs == ours
    if not names:  # the new file applies
        assert ours[0] is (policy == "VerifyClientCertIfGiven")


def is_served(directory: Path, port: int, client: str) -> bool:
    context = ssl.create_default_context(cafile=directory / "root.pem")
    if client:
        context.load_cert_chain(directory / f"{client}.pem", directory / f"{client}.key")
    connection = HTTPSConnection("localhost", port, context=context, timeout=PATIENCE)
    try:
        connection.request("GET", "/-/healthy")
        return connection.getresponse().read() == b"Healthy"
    except (ssl.SSLError, ConnectionError):  # with TLS 1.3, a client learns of the refusal when it reads
        return False
    finally:
        connection.close()


def test_plain_http_request_to_a_tls_port_gets_400(directory: Path, with_tls: list[Server]) -> None:
    (directory / "tls.yml").write_text(MUTUAL % ("VerifyClientCertIfGiven", "", "TLS12"))
    for server in with_tls:
        answer = ask(server.port, "/metrics")
        assert answer.status == 400
        assert re.search("HTTPS", answer.text)


async def test_prometheus_scrapes_only_with_certificate_and_password(directory: Path) -> None:
    (directory / "web.yml").write_text(LOCKED + MUTUAL % ("RequireAndVerifyClientCert", "", "TLS13"))
    with exporters.ours(directory, "--web.config.file=web.yml", "--workers=2") as ours:
        (directory / "prometheus.yml").write_text(SCRAPING.replace("PORT", str(ours.port)))
        with exporters.prometheus(directory, "--config.file=prometheus.yml") as prometheus:
            await wait_for_value(prometheus, 'sum(up{job="locked"})', 1)
            await wait_for_value(prometheus, 'sum(up{job="stranger"})', 0)
            await wait_for_value(prometheus, 'count(probe_exporter_probes_waiting{job="locked"})', 1)
            scrapes = 'sum(promhttp_metric_handler_requests_total{job="locked"})'
            before = await value_of(prometheus, scrapes)
            assert before is not None
            await wait_for_value(prometheus, f"{scrapes} > bool {before}", 1)
        assert "level=ERROR" not in ours.log.read_text()
