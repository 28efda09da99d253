"""squid: an HTTP proxy that allows only the host name localhost."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servers import NOBODY, Room, listening, server

CONFIG = """
http_port 127.0.0.1:{port}
pid_filename none
cache_log /dev/null
access_log none
cache deny all
coredump_dir none
visible_hostname squid
cache_effective_user {user}
cache_effective_group nogroup
shutdown_lifetime 0 seconds
acl named dstdomain -n localhost
http_access allow named
http_access deny all
"""


@server
def squid(room: Room) -> Iterator[int]:
    room.needs("squid", groups=("nogroup",))
    port = room.port()
    config = room.write("squid.conf", CONFIG.format(port=port, user=NOBODY))
    with room.running("squid", "-N", "-f", config, ready=listening(port)):
        yield port
