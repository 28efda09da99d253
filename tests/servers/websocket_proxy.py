"""nginx: a reverse proxy, with and without TLS, for a WebSocket server that the test runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import Room, server
from tests.servers.nginx import serving

BLOCKS = """
  server {{
    listen 127.0.0.1:{port};
    listen 127.0.0.1:{tls_port} ssl http2;
    proxy_http_version 1.1;
    proxy_set_header Connection upgrade;
    proxy_set_header Upgrade $http_upgrade;
    location / {{ proxy_pass http://127.0.0.1:{back}; }}
    location /forgetful {{ proxy_set_header Connection ""; proxy_pass http://127.0.0.1:{back}; }}
    location /members {{
      auth_basic members; auth_basic_user_file {users};
      proxy_pass http://127.0.0.1:{back};
    }}
    location /moved {{ return 301 /; }}
  }}
"""


@dataclass(frozen=True)
class WebsocketProxy:
    """A running nginx: its ports, and the port of its backend."""

    port: int
    tls_port: int
    back: int


@server
def websocket_proxy(room: Room) -> Iterator[WebsocketProxy]:
    made = WebsocketProxy(room.port(), room.port(), room.port())
    users = room.write("users", "user:{PLAIN}hunter2\n")
    blocks = BLOCKS.format(port=made.port, tls_port=made.tls_port, back=made.back, users=users)
    with serving(room, blocks, made.port):
        yield made
