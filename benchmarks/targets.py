"""Run the targets on loopback ports: nginx (a page, a gRPC health check), and servers of DNS, WebSocket and HTTP/3."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from tests.processes import free_port, listening, running
from tests.targets import Pki

NGINX = """
{user}
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{http} backlog=4096;
    listen 127.0.0.1:{https} ssl backlog=4096;
    listen 127.0.0.1:{http2} ssl http2 backlog=4096;
    listen unix:{directory}/nginx.socket backlog=4096;
    ssl_certificate {directory}/leaf.pem;
    ssl_certificate_key {directory}/leaf.key;
    ssl_session_tickets off;
    location /metrics {{ default_type text/plain; alias {directory}/metrics.txt; }}
    location / {{ default_type text/html; return 200 "<html><body>good morning</body></html>"; }}
  }}
  server {{
    listen 127.0.0.1:{grpc} http2 backlog=4096;
    default_type application/grpc;
    location /grpc.health.v1.Health/ {{
      root {directory};
      add_trailer grpc-status 0;
      error_page 405 =200 $uri;
    }}
  }}
}}
"""


@contextlib.contextmanager
def configured(modules: Mapping[str, Mapping[str, object]]) -> Iterator[Path]:
    """Yield a directory with certificates and a blackbox.yml that has these modules; remove it at the end."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        Pki(directory)
        plain = {module: dict(settings) for module, settings in modules.items()}
        (directory / "blackbox.yml").write_text(yaml.safe_dump({"modules": plain}))
        yield directory


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Mapping[str, int]]:
    """Run all targets with the certificate of the directory; yield the ports by placeholder name."""
    with (
        _nginx(directory) as ports,
        _server("dns_server") as dns,
        _server("echo_server") as websocket,
        _server("http3_server", str(directory)) as http3,
    ):
        yield {**ports, "dns": dns, "websocket": websocket, "http3": http3}


@contextlib.contextmanager
def hanging() -> Iterator[int]:
    """Run a server that accepts connections and never answers; yield its port."""
    with _server("hanging_server") as port:
        yield port


@contextlib.contextmanager
def timed() -> Iterator[int]:
    """Run a server that answers 50 ms after each request; yield its port."""
    with _server("timed_server") as port:
        yield port


@contextlib.contextmanager
def _server(name: str, *arguments: str) -> Iterator[int]:
    """Run a server of this folder; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", f"benchmarks.{name}", str(port), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise SystemExit(f"{name} did not start")
            yield port
        finally:
            process.terminate()


def _serve_health(directory: Path) -> None:
    """Write nginx's answer to a gRPC health check, a message with the status SERVING.

    nginx allows no POST to a file; its page for that error is the same file.
    """
    service = directory / "grpc.health.v1.Health"
    service.mkdir()
    (service / "Check").write_bytes(b"\0\0\0\0\2\x08\1")


def _serve_metrics(directory: Path) -> None:
    """Write a page of metrics as long as that of a small exporter: 60 families with 5 series each."""
    lines = []
    for number in range(60):
        lines += [f"# HELP app_{number} Something.", f"# TYPE app_{number} gauge"]
        lines += [f'app_{number}{{part="{part}"}} {number * part}' for part in range(5)]
    (directory / "metrics.txt").write_text("\n".join([*lines, ""]))


@contextlib.contextmanager
def _nginx(directory: Path) -> Iterator[Mapping[str, int]]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise SystemExit("nginx is not installed: apt install nginx")
    ports = {name: free_port() for name in ("http", "https", "http2", "grpc")}
    _serve_health(directory)
    _serve_metrics(directory)
    config = directory / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # otherwise a worker can't enter the directory
    config.write_text(NGINX.format(user=user, directory=directory, **ports))
    command = [nginx, "-c", str(config), "-p", str(directory)]
    with running(command, directory, directory / "nginx.out", listening(*ports.values())):
        yield ports
