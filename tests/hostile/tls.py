"""TLS servers: garbage and certificates, against the tcp prober, and some against the others that speak TLS."""

from __future__ import annotations

import contextlib
import datetime
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.hostile.cases import (
    SHORT_SECONDS,
    SUCCESS,
    TIMED_OUT,
    Case,
    Clients,
    Drip,
    Flood,
    Handshake,
    Hear,
    Hold,
    Make,
    Open,
    against,
    ends,
)
from tests.hostile.peers import tcp

_ENDS = ends("tls_handshake", "connect_closed", "connect_reset")
_CERTIFICATE = ends("certificate_unknown_authority", "certificate_invalid", "certificate_wrong_name")

CLIENTS: Clients = {
    "tcp": {"settings": {"tls": True, "tls_config": {"ca_file": "{ca}"}}, "ends": _ENDS | _CERTIFICATE},
    "tcp without verification": {
        "settings": {"tls": True, "tls_config": {"insecure_skip_verify": True}},
        "ends": _ENDS | {SUCCESS},
    },
    "http": {
        "target": "https://127.0.0.1:{port}/",
        "settings": {"tls_config": {"ca_file": "{ca}"}},
        "ends": _ENDS | _CERTIFICATE | {"http_protocol_error"},
    },
    "dns": {
        "settings": {
            "query_name": "example.test", "transport_protocol": "tcp", "dns_over_tls": True,
            "tls_config": {"ca_file": "{ca}"},
        },
        "ends": _ENDS | _CERTIFICATE,
    },
    "grpc": {
        "settings": {"tls": True, "tls_config": {"ca_file": "{ca}"}},
        "ends": _ENDS | _CERTIFICATE | {"grpc_not_http2"},
    },
}  # fmt: skip

_HELLO = b"\x16\x03\x03"
_ALERT = b"\x15\x03\x03\0\2\1"  # a warning
_LATE: dict[str, Any] = {"timeout": SHORT_SECONDS, "ends": _ENDS | _CERTIFICATE | TIMED_OUT}

GARBAGE: dict[str, Make] = {
    "random bytes": lambda: [Hear(_HELLO[:1]), Flood(secrets.token_bytes(65536))],
    "a flood of warnings": lambda: [Hear(_HELLO[:1]), Flood(_ALERT + b"\x5a")],
    "a flood of empty records": lambda: [Hear(_HELLO[:1]), Flood(_HELLO + b"\0\0")],
    "a flood of change_cipher_spec": lambda: [Hear(_HELLO[:1]), Flood(b"\x14\x03\x03\0\1\1")],
    "a flood of HelloRequest": lambda: [Hear(_HELLO[:1]), Flood(_HELLO + b"\0\4\0\0\0\0")],
    "a handshake message of 16 MB": lambda: [
        Hear(_HELLO[:1]), _HELLO + b"\0\4\2\xff\xff\xff", Flood(_HELLO + b"\x40\0" + bytes(16384))
    ],
    "records of the largest size": lambda: [Hear(_HELLO[:1]), Flood(_HELLO + b"\xff\xff" + bytes(65535))],
    "a hello byte by byte": lambda: [Hear(_HELLO[:1]), Drip(_HELLO + b"\0\4\2\0\x10\0" + bytes(50), 0.01)],
    "records of a byte": lambda: [Hear(_HELLO[:1]), Flood(_HELLO + b"\0\1\2")],
    "silence": lambda: [Hold()],
}  # fmt: skip


def _chain(make: Callable[[], Sequence[x509.Certificate]], name: str) -> Open:
    """Return a server that shows a chain of certificates, all signed with one key."""

    @contextlib.contextmanager
    def start(pki: Path) -> Iterator[Mapping[str, str]]:
        chain = make()
        pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
        (pki / f"{name}.pem").write_bytes(pem)
        (pki / f"{name}.key").write_bytes(
            _key().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        with tcp(lambda: [Handshake(f"{name}.pem", f"{name}.key")])(pki) as words:
            yield words

    return start


@cache
def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(number: int, *extensions: x509.ExtensionType) -> x509.Certificate:
    """Return a certificate of a chain: number 0 is the server's, and each is signed by the next."""
    now = datetime.datetime.now(datetime.UTC)
    subject, issuer = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"hostile {n}")]) for n in (number, number + 1)
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=number > 0, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(_key(), hashes.SHA256())


def _names(number: int, size: int = 8) -> x509.SubjectAlternativeName:
    names = [x509.DNSName(f"n{n:0{size - 1}d}.test") for n in range(number)]
    return x509.SubjectAlternativeName([*names, x509.DNSName("localhost")])


CHAINS: dict[str, Callable[[], Sequence[x509.Certificate]]] = {
    "200 certificates": lambda: [_certificate(number) for number in range(200)],
    "9 certificates of 8,000 bytes": lambda: [_certificate(number, _names(450)) for number in range(9)],
    "a certificate of 95 KB with 6,000 names": lambda: [_certificate(0, _names(5_400))],
    "a certificate of 1 MB": lambda: [_certificate(0, _names(60_000))],
    "a certificate of 90 KB in one extension": lambda: [
        _certificate(0, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(90_000)))
    ],
    "a name of 60,000 labels": lambda: [
        _certificate(0, x509.SubjectAlternativeName([x509.DNSName("a." * 30_000 + "test")]))
    ],
    "wildcards": lambda: [
        _certificate(0, x509.SubjectAlternativeName([x509.DNSName(f"*.{n}.test") for n in range(6_000)]))
    ],
    "name constraints": lambda: [
        _certificate(0, _names(1_500)),
        _certificate(1, x509.NameConstraints([x509.DNSName(f"n{n}.test") for n in range(3_000)], None)),
    ],
}


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, {peer: {"start": tcp(make), **_LATE} for peer, make in GARBAGE.items()})
    chains = {peer: {"start": _chain(make, f"chain{place}")} for place, (peer, make) in enumerate(CHAINS.items())}
    yield from against(CLIENTS, chains)
