"""Test that a secret in any setting or target is in no response, log or file, for any result of the probe."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.exporters import Server
from tests.http_client import ask
from tests.waiting import wait_until
from tests.web.conftest import HISTORY_FILE, ExporterSetup
from tests.web.test_routes import BROWSER

SECRET = "hunter2"
"""Part of every secret below and of nothing else."""

CONFIG = """
modules:
  http_2xx: {prober: http}
  basic_auth: {prober: http, http: {basic_auth: {username: alice, password: a-hunter2}}}
  bearer: {prober: http, http: {authorization: {credentials: b-hunter2}}}
  bearer_token: {prober: http, http: {bearer_token: c-hunter2}}
  headers: {prober: http, http: {headers: {Authorization: Custom d-hunter2, Cookie: e=hunter2, X-Api-Key: f-hunter2}}}
  http_headers: {prober: http, http: {http_headers: {X-Any: {secrets: [g-hunter2]}}}}
  proxy: {prober: http, http: {proxy_url: 'http://bob:h-hunter2@127.0.0.1:1', proxy_connect_header: {X: [i-hunter2]}}}
  proxy_in_use: {prober: http, http: {proxy_url: 'http://bob:h-hunter2@127.0.0.1:PORT'}}
  oauth2:
    prober: http
    http:
      oauth2: {client_id: me, client_secret: j-hunter2, token_url: 'http://t:k-hunter2@127.0.0.1:1/token',
               endpoint_params: {password: l-hunter2}}
  oauth2_refused:
    prober: http
    http: {oauth2: {client_id: me, client_secret: j-hunter2, token_url: 'http://127.0.0.1:PORT/token'}}
  dialogue:
    prober: tcp
    tcp:
      query_response:
      - {send: PASS m-hunter2}
      - {send: AUTH LOGIN}
      - {send: n-hunter2}
      - {send_bytes: o-hunter2}
      - {expect: ^never$}
  parameter:
    prober: http
    params: {token: {pattern: '[a-z0-9-]*'}}
    http: {http_headers: {X-Token: {secrets: ['q-${param:token}']}}, fail_if_body_not_matches_regexp: [never]}
  parameter_with_default:
    prober: http
    params: {password: {pattern: '.*', default: aa-hunter2}}
    http: {basic_auth: {username: me, password: '${param:password}'}}
  parameter_in_url:
    prober: http
    params: {password: {pattern: '.*', default: ab-hunter2}}
    http: {proxy_url: 'http://me:${param:password}@127.0.0.1:1'}
  websocket: {prober: websocket, websocket: {headers: {X-Any: {secrets: [r-hunter2]}}}}
  grpc: {prober: grpc, timeout: 1s, grpc: {metadata: {authorization: [s-hunter2]}}}
"""


class Echo(BaseHTTPRequestHandler):
    """A server that returns the received header values in Location and X-Told."""

    def do_GET(self) -> None:
        told = " ".join([value for name, value in self.headers.items() if name.lower() not in ("host", "user-agent")])
        if "/again" in self.path:
            self.send_response(503)
        else:
            self.send_response(302)
            self.send_header("Location", f"http://u:t-hunter2@{self.headers['Host']}/again?told={told}")
        self.send_header("X-Told", told)
        self.end_headers()

    do_POST = do_GET  # noqa: N815  # the name that http.server calls

    def log_message(self, *_: object) -> None:
        """Write nothing to stderr."""


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


FLAGS = ("--log.level=debug", "--log.prober=debug", "--log.format=json")


@pytest.fixture(scope="module")
def exporter_setup(echo: int) -> ExporterSetup:
    return ExporterSetup(CONFIG.replace("PORT", str(echo)), FLAGS)


MODULES = re.findall(r"^  (\w+):", CONFIG, re.MULTILINE)
TARGETS = [
    "127.0.0.1:{port}",
    "http://127.0.0.1:{port}/",
    "http://user:u-hunter2@127.0.0.1:{port}/",
    "http://user:v-hunter2@x@127.0.0.1:{port}/",
    "http://user:w/hunter2@127.0.0.1:{port}/",
    "user:x-hunter2@127.0.0.1:{port}",
    "https://user:y%2dhunter2@127.0.0.1:{port}/",
    "ftp://user:z-hunter2@127.0.0.1:{port}/",
    "http://user:z-hunter2@127.0.0.1:1/",
]


@pytest.mark.parametrize("module", MODULES)
def test_secrets_are_in_no_answer_about_a_probe(exporter: Server, echo: int, module: str) -> None:
    for target in TARGETS:
        where = f"module={module}&target={quote(target.format(port=echo))}&token=p-hunter2"
        timeout = {"X-Prometheus-Scrape-Timeout-Seconds": "1.5"}
        assert "probe_success" in without_secret(ask(exporter.port, f"/probe?{where}", headers=timeout).text)
        assert "Module configuration" in without_secret(
            ask(exporter.port, f"/probe?{where}&debug=true", headers=timeout).text
        )
        by_target = f"module={module}&target={quote(target.format(port=echo))}"
        assert "Module configuration" in without_secret(ask(exporter.port, f"/logs?{by_target}").text)
        listed = json.loads(without_secret(ask(exporter.port, f"/history?{by_target}").text))["probes"]
        assert len(listed) >= 2, "both probes are found by the target as requested"
        assert without_secret(ask(exporter.port, f"/history?id={listed[0]['id']}").text).startswith("{")
        for path in (f"/probe?{where}&debug=true", f"/history?id={listed[0]['id']}", f"/logs?id={listed[0]['id']}"):
            page = ask(exporter.port, path, headers={**timeout, **BROWSER})
            assert without_secret(page.text).startswith("<!DOCTYPE html>")


def test_secrets_are_in_no_page_log_or_history_file(exporter: Server) -> None:
    target = quote("http://user:u-hunter2@127.0.0.1:1/")
    assert "probe_success 0" in without_secret(ask(exporter.port, f"/probe?module=proxy&target={target}").text)
    of_modules = [f"/config?module={module}" for module in MODULES]
    for path in ("/", "/config", "/metrics", "/metadata", "/history", *of_modules):
        without_secret(ask(exporter.port, path).text)
        without_secret(ask(exporter.port, path, headers=BROWSER).text)
    pages = [f"{path}{module}" for path in ("/modules/", "/form?module=") for module in MODULES]
    for path in ("/modules", *pages, f"/form?module={','.join(MODULES[:9])}"):
        without_secret(ask(exporter.port, path, headers=BROWSER).text)
    wait_until(lambda: "Probe failed" in without_secret(exporter.log.read_text()))
    for file in Path(exporter.log.parent).glob(f"{HISTORY_FILE}*"):
        assert SECRET.encode() not in file.read_bytes()


def without_secret(text: str) -> str:
    """Return the text; fail if it contains a secret."""
    start = max(0, text.find(SECRET) - 300)
    assert SECRET not in text, text[start : start + 600]
    return text
