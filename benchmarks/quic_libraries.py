"""Compare aioquic, our connection on top of it, and qh3 as QUIC clients of a probe: CPU of a handshake and a request.

    pip install qh3              # not needed by anything else
    python -m benchmarks.quic_libraries

Client and server speak in memory, without sockets. The server is aioquic's, and its CPU does not count. The request
and the response are bytes on one stream. Certificates are not verified by the libraries, as in a probe.
"""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median
from typing import Any

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from probe_exporter.network.quic_connection import USUAL_GROUPS, ClientConnection

OURS = "ours"
PROTOCOL = "h3"
REQUEST = b"x" * 200
RESPONSE = b"y" * 1_000
CLIENT, SERVER = ("192.0.2.1", 1000), ("192.0.2.2", 443)
PROBES = 200


class Clock:
    """The CPU time that the client has taken, and the time of day that both sides are told."""

    def __init__(self) -> None:
        self.cpu_seconds = 0.0
        self.now = 1_000.0

    def run(self, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Call the client's library, and count its CPU."""
        begun = time.process_time()
        try:
            return call(*arguments, **named)
        finally:
            self.cpu_seconds += time.process_time() - begun


def server_configuration() -> QuicConfiguration:
    """Return the configuration of a server with a certificate of its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "example.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("example.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return QuicConfiguration(is_client=False, alpn_protocols=[PROTOCOL], certificate=certificate, private_key=key)


def probe(library: str, configuration: QuicConfiguration) -> float:
    """Return the CPU seconds of one handshake, request and response, and of closing, on the client's side."""
    clock = Clock()
    client = clock.run(_client, library)
    clock.run(client.connect, SERVER, now=clock.now)
    datagrams = clock.run(client.datagrams_to_send, now=clock.now)
    original = first_server_id(datagrams[0][0])
    server = QuicConnection(configuration=configuration, original_destination_connection_id=original)
    received, asked = b"", False
    while len(received) < len(RESPONSE):
        for datagram, _ in datagrams:
            server.receive_datagram(datagram, CLIENT, now=clock.now)
        _answer(server)
        clock.now += 0.001
        for datagram, _ in server.datagrams_to_send(now=clock.now):
            clock.run(client.receive_datagram, datagram, SERVER, now=clock.now)
        while (event := clock.run(client.next_event)) is not None:
            kind = type(event).__name__
            if kind == "HandshakeCompleted" and not asked:
                asked = True
                clock.run(client.send_stream_data, 0, REQUEST, True)
            elif kind == "StreamDataReceived":
                received += event.data
            elif kind == "ConnectionTerminated":
                raise RuntimeError(f"{library}: {event}")
        datagrams = clock.run(client.datagrams_to_send, now=clock.now)
    clock.run(client.close)
    clock.run(client.datagrams_to_send, now=clock.now)
    if library == OURS:
        clock.run(client.discard)
    return clock.cpu_seconds


def _client(library: str) -> Any:
    package = "aioquic" if library == OURS else library
    configuration = import_module(f"{package}.quic.configuration").QuicConfiguration(
        alpn_protocols=[PROTOCOL], server_name="example.test", supported_versions=[1], verify_mode=ssl.CERT_NONE
    )
    if library == OURS:
        return ClientConnection(configuration, USUAL_GROUPS)
    return import_module(f"{package}.quic.connection").QuicConnection(configuration=configuration)


def first_server_id(datagram: bytes) -> bytes:
    """Return the connection id by which the client first addresses the server (RFC 9000, section 17.2)."""
    return datagram[6 : 6 + datagram[5]]


def _answer(server: QuicConnection) -> None:
    while (event := server.next_event()) is not None:
        if isinstance(event, StreamDataReceived) and event.end_stream:
            server.send_stream_data(event.stream_id, RESPONSE, end_stream=True)


def main() -> None:
    """Print the costs of each library, probe by probe in turn."""
    libraries = [library for library in ("aioquic", OURS, "qh3") if library == OURS or find_spec(library)]
    configuration = server_configuration()
    for library in libraries:
        probe(library, configuration)  # imports are not part of a probe
    costs: dict[str, list[float]] = {library: [] for library in libraries}
    for _ in range(PROBES):
        for library in libraries:
            costs[library].append(probe(library, configuration))
    for library in libraries:
        number = version("aioquic" if library == OURS else library)
        least, middle = min(costs[library]) * 1e3, median(costs[library]) * 1e3
        print(f"{library:<10}{number:<10}{least:8.2f} ms of CPU a probe at least, {middle:8.2f} ms in the median")


if __name__ == "__main__":
    main()
