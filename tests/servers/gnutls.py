"""GnuTLS: a TLS 1.2 server without secure renegotiation (RFC 5746), like many old devices."""

from __future__ import annotations

from collections.abc import Iterator

from tests.servers import Room, listening, server


@server
def gnutls_without_renegotiation(room: Room) -> Iterator[int]:
    room.needs("gnutls-serv")
    port = room.port()
    certificate, key = room.certificate("rsa")
    arguments = ("--http", "--port", port, "--x509certfile", certificate, "--x509keyfile", key)
    priority = "NORMAL:-VERS-ALL:+VERS-TLS1.2:%DISABLE_SAFE_RENEGOTIATION"
    with room.running("gnutls-serv", *arguments, "--priority", priority, ready=listening(port)):
        yield port
