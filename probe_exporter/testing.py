"""pytest plugin for tests of probers: scripted servers on loopback, and functions that probe them.

pytest loads it if probe-exporter is installed. The fixtures `tcp_target` and `udp_target` start servers that end with
the test; `serve` and `serve_udp` do so for a ``with`` block; `run_prober` and `run_module` probe. All are for plain
tests (``def``, not ``async def``): servers run in threads, a probe on an event loop of its own.

pytest imports this file at every start, so functions import the exporter and large libraries on first use.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import pytest

if TYPE_CHECKING:
    import ssl

    from cryptography import x509

    from probe_exporter.config.module import Module
    from probe_exporter.prober.declaration import Prober
    from probe_exporter.prober.metrics import Samples

__all__ = [
    "Certificate",
    "Outcome",
    "Peer",
    "Server",
    "TcpTarget",
    "Turn",
    "UdpServer",
    "UdpTarget",
    "expect",
    "hold",
    "load_prober",
    "reset",
    "run_module",
    "run_prober",
    "serve",
    "serve_udp",
    "start_tls",
    "wait",
]

PATIENCE = 10.0
"""Seconds that a scripted server waits for anything."""

# --- probes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a probe.

    Attributes:
        success: whether the target passed.
        reason, phase, message: the reason of a failure, its phase and its message; empty on success.
        metrics: the prober's own samples (``probe_NAME_…``), without durations, which differ between runs.
        all_metrics: every sample; keys are as in the text format, ``probe_ip_protocol`` or ``x{a="1",b="2"}``.
        log: the log of the probe: pairs of message and fields.
    """

    success: bool
    reason: str
    phase: str
    message: str
    metrics: Mapping[str, float]
    all_metrics: Mapping[str, float]
    log: tuple[tuple[str, Mapping[str, object]], ...]


def load_prober(path: Path) -> Prober[Any]:
    """Load the prober of a file as the exporter does.

    Raises:
        LoaderError: the file can't be loaded.
    """
    from probe_exporter.plugins.loader import load_file  # noqa: PLC0415  # see the top of this file

    return load_file(path)


def run_prober(
    prober: Prober[Any], target: object, settings: Mapping[str, Any] | None = None, *, timeout: float = 5.0
) -> Outcome:
    """Probe a target.

    Args:
        target: a scripted server, or a target as in a request.
        settings: the prober's block, with values as in YAML: ``{"password": "x", "max_lag": "5s"}``.
        timeout: seconds.

    Raises:
        ValueError: the settings have errors; with the message for a configuration file.
    """
    from probe_exporter.config import one_module  # noqa: PLC0415  # see the top of this file

    try:
        module = one_module.with_settings(prober, json.dumps(settings or {}).encode(), "settings")
    except one_module.NoModule as refused:
        raise ValueError(str(refused)) from None
    return _outcome(module, target, timeout)


def run_module(
    prober: Prober[Any],
    file: Path,
    name: str,
    target: object,
    parameters: Mapping[str, str] | None = None,
    *,
    timeout: float = 5.0,
) -> Outcome:
    """Probe a target with a module of a YAML file.

    Args:
        prober: the module's prober; shipped ones are available, too.
        parameters: values of the module's parameters.
        timeout: seconds; it replaces the module's timeout.

    Raises:
        ValueError: there is no such module, or it does not accept the parameters.
        ConfigError: the file has errors.
    """
    from probe_exporter.config import one_module  # noqa: PLC0415  # see the top of this file

    try:
        module = one_module.of_yaml(prober, file, name)
    except one_module.NoModule as refused:
        raise ValueError(str(refused)) from None
    return _outcome(module.given(parameters or {}), target, timeout)


def _outcome(module: Module, target: object, timeout: float) -> Outcome:
    from probe_exporter import runner  # noqa: PLC0415  # see the top of this file
    from probe_exporter.history.record import entry  # noqa: PLC0415  # the same

    result = runner.run_in_new_loop(module, str(target), timeout)
    if result.failure is not None and runner.LATE in result.failure.fields:
        pytest.fail(f"{result.failure.message}; use await, or asyncio.to_thread for what blocks")
    told = entry(0, result)
    everything = dict(_samples(result.probe.samples))
    prefix = f"probe_{module.prober.name}_"
    return Outcome(
        told.success,
        told.reason,
        told.phase,
        told.message,
        {
            series: value
            for series, value in everything.items()
            if series.startswith(prefix) and "_duration_seconds" not in series.partition("{")[0]
        },
        everything,
        tuple((event.message, event.fields) for event in result.probe.events),
    )


def _samples(samples: Samples) -> Iterator[tuple[str, float]]:
    for family in samples.collect():
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            yield f"{sample.name}{{{labels}}}" if labels else sample.name, sample.value


# --- scripts -----------------------------------------------------------------------------------------------


class Peer:
    """A connection of a scripted server, for the turns of its script.

    Attributes:
        socket: the connection, for anything else.
    """

    def __init__(self, connected: socket.socket, server: Server) -> None:
        self.socket = connected
        self._server = server

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        """Receive `size` bytes, or fewer if the probe closes its half before."""
        data = b""
        while len(data) < size and (more := self.socket.recv(size - len(data))):
            data += more
        self._server.heard += data
        return data

    def line(self) -> bytes:
        """Receive a line with its newline, or what comes before the end."""
        data = b""
        while not data.endswith(b"\n") and (more := self.receive(1)):
            data += more
        return data

    def start_tls(self) -> None:
        """Do a TLS handshake as the server."""
        self.socket = self._server.certificate.context.wrap_socket(self.socket, server_side=True)

    def fail(self, message: str) -> None:
        """Fail the test at its end, because the probe does not follow the script. This closes the connection."""
        self._server.complaints.append(message)
        raise ConnectionAbortedError(message)


Turn = bytes | Callable[[Peer], None]
"""One turn of a script: bytes to send, one of the functions below, or any function with a `Peer` as argument."""


def expect(expected: bytes | re.Pattern[bytes]) -> Turn:
    """Receive exactly these bytes, or a line that matches; anything else fails the test."""

    def turn(peer: Peer) -> None:
        if isinstance(expected, bytes):
            heard = peer.receive(len(expected))
            fits = heard == expected
        else:
            heard = peer.line()
            fits = expected.search(heard) is not None
        if not fits:
            wanted = expected if isinstance(expected, bytes) else expected.pattern
            peer.fail(f"expected {wanted!r} of the probe, heard {heard!r}")

    return turn


def wait(seconds: float) -> Turn:
    """Wait."""
    return lambda peer: time.sleep(seconds)


def start_tls() -> Turn:
    """Do a TLS handshake as the server, within a dialogue."""
    return Peer.start_tls


def hold() -> Turn:
    """Send nothing more, and keep the connection open until the probe closes it."""
    return _hear_out


def reset() -> Turn:
    """Reset the connection."""

    def turn(peer: Peer) -> None:
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.socket.close()

    return turn


# --- peers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """A temporary, self-signed certificate.

    Args:
        names: its host names and addresses.
        days: days until it expires; if negative, it expired so many days ago.
    """

    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    days: float = 1.0

    @cached_property
    def pem(self) -> str:
        """The certificate as PEM. As ``ca`` of a ``tls_config`` it is trusted."""
        return self._pair[0].decode()

    @cached_property
    def context(self) -> ssl.SSLContext:
        """The TLS context of a server with this certificate."""
        import ssl  # noqa: PLC0415  # see the top of this file
        import tempfile  # noqa: PLC0415  # the same

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "both.pem"
            file.write_bytes(self._pair[1] + self._pair[0])
            context.load_cert_chain(file)
        return context

    @cached_property
    def _pair(self) -> tuple[bytes, bytes]:
        """The certificate and its key, as PEM."""
        from cryptography import x509  # noqa: PLC0415  # see the top of this file
        from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415  # the same
        from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  # the same
        from cryptography.x509.oid import NameOID  # noqa: PLC0415  # the same

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.names[0])])
        end = datetime.now(UTC) + timedelta(days=self.days)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=abs(self.days) + 1))
            .not_valid_after(end)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in self.names]), critical=False)
            .sign(key, hashes.SHA256())
        )
        return (
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )


def _alternative(name: str) -> x509.GeneralName:
    import ipaddress  # noqa: PLC0415  # see the top of this file

    from cryptography import x509  # noqa: PLC0415  # the same

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


_THROWAWAY = Certificate()  # generated on first use


class Server:
    """A scripted TCP server on loopback; it plays its script on every connection. ``str()`` is its target.

    Attributes:
        port: its port on 127.0.0.1.
        heard: all received bytes, decrypted.
        complaints: deviations of probes from the script.
        certificate: its certificate for TLS.
    """

    def __init__(self, *script: Turn, tls: bool = False, certificate: Certificate = _THROWAWAY) -> None:
        """
        Args:
            script: the turns of each connection; then the server closes it.
            tls: whether a connection begins with TLS.
            certificate: the certificate for TLS.
        """
        self.heard = b""
        self.complaints: list[str] = []
        self.certificate = certificate
        self._script = (start_tls(), *script) if tls else script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def tls_config(self) -> dict[str, str]:
        """A ``tls_config`` that trusts the server's certificate."""
        return {"ca": self.certificate.pem}

    def __str__(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections.

        Raises:
            AssertionError: a probe did not follow the script.
        """
        for sock in [self._listener, *[peer.socket for peer in self._peers]]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # this wakes the thread that waits for it
        self._listener.close()
        for thread in self._threads:
            thread.join()
        if kind is None and self.complaints:
            raise AssertionError("; ".join(self.complaints))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connected, _ = self._listener.accept()
                connected.settimeout(PATIENCE)
                peer = Peer(connected, self)
                self._peers.append(peer)
                thread = threading.Thread(target=self._play, args=(peer,))
                self._threads.append(thread)
                thread.start()

    def _play(self, peer: Peer) -> None:
        with contextlib.suppress(OSError):
            for turn in self._script:
                if isinstance(turn, bytes):
                    peer.send(turn)
                else:
                    self._take(turn, peer)
            if peer.socket.fileno() >= 0:
                _finish(peer)
        peer.socket.close()

    def _take(self, turn: Callable[[Peer], None], peer: Peer) -> None:
        """Call the function of a turn; an exception in it fails the test."""
        try:
            turn(peer)
        except OSError:
            raise
        except Exception as error:
            peer.fail(f"{type(error).__name__} in a turn: {error}")


def _finish(peer: Peer) -> None:
    """Close our half, and receive until the probe closes its own: closing at once would reset the connection."""
    import ssl  # noqa: PLC0415  # see the top of this file

    if isinstance(peer.socket, ssl.SSLSocket):
        with contextlib.suppress(ssl.SSLError):
            peer.socket = peer.socket.unwrap()
    peer.socket.shutdown(socket.SHUT_WR)
    _hear_out(peer)


def _hear_out(peer: Peer) -> None:
    while peer.receive(65536):
        pass


Respond = Callable[[bytes], Iterable[bytes]]
"""A function from a received datagram to the datagrams to respond with."""


class UdpServer:
    """A scripted UDP server on loopback; ``str()`` is its target.

    Attributes:
        port: its port on 127.0.0.1.
        heard: the received datagrams.
    """

    def __init__(self, answer: Respond) -> None:
        self.heard: list[bytes] = []
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __str__(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # fails, as the socket is not connected, but wakes the thread
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            data, sender = self._socket.recvfrom(65536)
            if not sender or sender[1] == 0:  # the socket was shut down: no datagram has such a sender
                return
            self.heard.append(data)
            for answer in self._answer(data):
                self._socket.sendto(answer, sender)


def serve(*script: Turn, tls: bool = False, certificate: Certificate = _THROWAWAY) -> Server:
    """Make a scripted TCP server: ``with serve(expect(b"PING\\r\\n"), b"PONG\\r\\n") as target: …``. See `Server`."""
    return Server(*script, tls=tls, certificate=certificate)


def serve_udp(answer: Respond) -> UdpServer:
    """Make a scripted UDP server: ``with serve_udp(lambda query: [b"pong"]) as target: …``. See `UdpServer`."""
    return UdpServer(answer)


# --- fixtures ----------------------------------------------------------------------------------------------


class TcpTarget(Protocol):
    """The fixture `tcp_target`."""

    def __call__(self, *script: Turn, tls: bool = False, certificate: Certificate = _THROWAWAY) -> Server:
        """Start a `Server` that ends with the test."""


class UdpTarget(Protocol):
    """The fixture `udp_target`."""

    def __call__(self, answer: Respond) -> UdpServer:
        """Start a `UdpServer` that ends with the test."""


@pytest.fixture
def tcp_target() -> Iterator[TcpTarget]:
    """Fixture that makes scripted TCP servers: ``tcp_target(expect(b"PING\\r\\n"), b"PONG\\r\\n")``."""
    with contextlib.ExitStack() as running:
        yield lambda *script, **how: running.enter_context(Server(*script, **how))


@pytest.fixture
def udp_target() -> Iterator[UdpTarget]:
    """Fixture that makes scripted UDP servers: ``udp_target(lambda query: [b"pong"])``."""
    with contextlib.ExitStack() as running:
        yield lambda answer: running.enter_context(UdpServer(answer))
