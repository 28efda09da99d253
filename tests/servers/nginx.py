"""nginx: a site over HTTP/2, and other servers with the configuration blocks of a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.servers import Room, listening, server

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
