"""Web config files: the original and ours respond alike to the same requests and client certificates."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests import exporters
from tests.asking import ask
from tests.exporters import Server
from tests.peers.test_prometheus import value_of, wait_for_value
from tests.peers.web_config_cases import HASH
from tests.targets import Pki

pytestmark = pytest.mark.slow

LOCKED = f"""
basic_auth_users: {{who: {HASH}, other: "{HASH.replace("2b", "2y")}"}}
http_server_config:
  headers:
    X-Frame-Options: sameorigin
    Strict-Transport-Security: max-age=60
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
CLIENTS = {
    "": [],
    "client": ["--cert", "client.pem", "--key", "client.key"],
    "foreign": ["--cert", "foreign_client.pem", "--key", "foreign_client.key"],
}
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


@pytest.fixture
def directory(tmp_path: Path, pki: Pki) -> Path:
    """Return the working directory of both."""
    for name in ("leaf", "root", "client", "foreign_client"):
        for kind in ("pem", "key"):
            shutil.copy(pki.directory / f"{name}.{kind}", tmp_path)
    (tmp_path / "blackbox.yml").write_text("modules: {http_2xx: {prober: http}}\n")
    return tmp_path


@pytest.fixture
def both(directory: Path) -> Iterator[list[Server]]:
    """Start the original and ours with an empty web config file, which tests then replace."""
    with ExitStack() as stack:
        flags = ("--web.config.file=web.yml",)
        (directory / "web.yml").write_text("{}\n")
        yield [stack.enter_context(start(directory, *flags)) for start in (exporters.original, exporters.ours)]


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
    directory: Path, both: list[Server], headers: dict[str, str]
) -> None:
    """Both read the file again for each request, so the processes need no restart."""
    (directory / "web.yml").write_text(LOCKED)
    shown = ("www-authenticate", "x-frame-options", "strict-transport-security", "content-type")
    theirs, ours = (
        [
            (answer.status, answer.text, {name: answer.headers.get(name) for name in shown})
            for answer in [ask(server.port, "/-/healthy", headers=headers)]
        ]
        for server in both
    )
    assert theirs == ours


def test_rate_limit_rejects_the_requests_that_the_original_rejects(directory: Path) -> None:
    (directory / "web.yml").write_text(LIMITED)
    answers = []
    for start in (exporters.original, exporters.ours):
        with start(directory, "--web.config.file=web.yml") as server:
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
    directory: Path, policy: str, names: str, least: str
) -> None:
    (directory / "web.yml").write_text(MUTUAL % (policy, f"client_allowed_sans: {names}" if names else "", least))
    outcomes = []
    for start in (exporters.original, exporters.ours):
        with start(directory, "--web.config.file=web.yml") as server:
            outcomes.append([is_served(directory, server.port, flags) for flags in CLIENTS.values()])
    assert outcomes[0] == outcomes[1]


def is_served(directory: Path, port: int, flags: list[str]) -> bool:
    command = [
        "curl",
        "-sS",
        "--max-time",
        "200",
        "--cacert",
        "root.pem",
        *flags,
        f"https://localhost:{port}/-/healthy",
    ]
    return subprocess.run(command, cwd=directory, capture_output=True, timeout=300).stdout == b"Healthy"


def test_plain_http_request_to_a_tls_port_gets_400(directory: Path) -> None:
    (directory / "web.yml").write_text(MUTUAL % ("VerifyClientCertIfGiven", "", "TLS12"))
    for start in (exporters.original, exporters.ours):
        with start(directory, "--web.config.file=web.yml") as server:
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
