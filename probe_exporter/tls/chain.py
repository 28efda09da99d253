"""The certificates of a connection, each read once: most handshakes show what the last one showed.

pyOpenSSL writes each out and has it parsed, 4 µs a time and six times a handshake. A digest takes one, but pyOpenSSL
shows it as text: hence the private names, of its objects and of the library under it.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL, crypto
from OpenSSL._util import ffi, lib

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import certificates
from probe_exporter.tls.certificates import Certificate

_SHA256 = lib.EVP_get_digestbyname(b"sha256")


def sent(connection: SSL.Connection) -> tuple[Certificate, ...]:
    """What the peer sent, its own certificate first.

    Raises:
        ProbeFailed: one of them can't be read; of all functions here.
    """
    return _read_all(lib.SSL_get_peer_cert_chain(connection._ssl))  # noqa: SLF001  # see above


def verified(connection: SSL.Connection) -> tuple[Certificate, ...]:
    """The chain that verification found, from the peer's own certificate to the anchor."""
    return _read_all(lib.SSL_get0_verified_chain(connection._ssl))  # noqa: SLF001  # see above


def read(certificate: crypto.X509) -> Certificate:
    """One of a chain, as pyOpenSSL has it."""
    return _read(certificate._x509)  # noqa: SLF001  # see above


def _read_all(stack: Any) -> tuple[Certificate, ...]:
    if stack == ffi.NULL:
        return ()
    return tuple([_read(lib.sk_X509_value(stack, index)) for index in range(lib.sk_X509_num(stack))])


def _read(pointer: Any) -> Certificate:
    digest = ffi.new("unsigned char[32]")
    lib.X509_digest(pointer, _SHA256, digest, ffi.NULL)
    fingerprint = ffi.buffer(digest)[:]
    known = certificates.memory.known.get(fingerprint)
    if known is None:
        lib.X509_up_ref(pointer)
        try:
            parsed = crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()  # noqa: SLF001  # see above
        except ValueError as error:
            raise ProbeFailed(Reason.CERTIFICATE_INVALID, f"a certificate of the peer can't be read: {error}") from None
        known = certificates.memory.add(fingerprint, parsed)
    return known
