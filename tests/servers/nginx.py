"""nginx: a site over HTTP/2, sites that staple OCSP responses, and servers with the configuration of a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from tests.servers import Room, listening, server
from tests.targets.authority import Authority

CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {directory}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {directory}/1; proxy_temp_path {directory}/2; fastcgi_temp_path {directory}/3;
  uwsgi_temp_path {directory}/4; scgi_temp_path {directory}/5;
  ssl_certificate {certificate};
  ssl_certificate_key {key};
{blocks}
}}
"""

SITE = """
  server {{
    listen 127.0.0.1:{port} ssl http2;
    root {directory};
    keepalive_requests 1;
    gzip on; gzip_min_length 1; gzip_types text/plain;
    location = / {{ default_type text/plain; return 200 "good morning"; }}
    location = /moved {{ return 302 /; }}
    location = /elsewhere {{ return 302 https://$host:{port}/large; }}
    location = /gone {{ return 410; }}
    location = /count {{ proxy_pass http://127.0.0.1:{back}; }}
    location = /large {{ }}
  }}
  server {{
    listen 127.0.0.1:{back};
    location / {{ default_type text/plain; return 200 "$http_content_length bytes"; }}
  }}
"""
LARGE = 20_000_000
"""Bytes of the page /large."""


def serving(room: Room, blocks: str, port: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Run an nginx with these server blocks, one of which listens on `port`, and with the leaf certificate."""
    room.needs("nginx")
    certificate, key = room.certificate()
    user = "user root;" if os.geteuid() == 0 else ""
    filled = CONFIG.format(user=user, directory=room.directory, certificate=certificate, key=key, blocks=blocks)
    config = room.write("nginx.conf", filled)
    return room.running("nginx", "-c", config, "-p", room.directory, ready=listening(port))


@dataclass(frozen=True)
class Nginx:
    """A running nginx that speaks HTTP/2 and sends GOAWAY with its first response."""

    port: int


@server
def nginx(room: Room) -> Iterator[Nginx]:
    port = room.port()
    (room.directory / "large").write_bytes(b"0123456789" * (LARGE // 10))
    with serving(room, SITE.format(directory=room.directory, port=port, back=room.port()), port):
        yield Nginx(port)


STAPLING = """
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {directory}/{name}.pem;
    ssl_certificate_key {directory}/{name}.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    {stapling}
    return 200 "good morning";
  }}
"""
KINDS = ("good", "revoked", "demanded", "demanded and missing")


@dataclass(frozen=True)
class Stapling:
    """An nginx whose sites staple OCSP responses.

    Attributes:
        ca_file: the authority of their certificates.
        ports: by `KINDS`; the certificates of the last two have the extension must-staple.
    """

    ca_file: Path
    ports: dict[str, int]


@server
def nginx_stapling(room: Room) -> Iterator[Stapling]:
    authority = Authority(room.directory)
    ports = {kind: room.port() for kind in KINDS}
    blocks = [_stapling(authority, kind, port) for kind, port in ports.items()]
    with serving(room, "".join(blocks), ports[KINDS[-1]]):
        yield Stapling(authority.ca_file, ports)


def _stapling(authority: Authority, kind: str, port: int) -> str:
    """Issue a certificate and a response for one site; return its configuration."""
    name = kind.replace(" ", "-")
    must_staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    leaf = authority.issue(extensions=[must_staple] if "demanded" in kind else [], name=name)
    response = authority.directory / f"{name}.der"
    response.write_bytes(authority.status(leaf, revoked=kind == "revoked"))
    stapling = "" if "missing" in kind else f"ssl_stapling on; ssl_stapling_file {response};"
    return STAPLING.format(port=port, directory=authority.directory, name=name, stapling=stapling)
