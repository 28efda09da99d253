"""Read the certificates of a connection: the chain that the peer sent, and the chain that was verified.

pyOpenSSL serialises and parses each certificate, which takes 4 µs, six times a handshake. A digest takes 1 µs and finds
a certificate that is known. pyOpenSSL has no public method for it, hence the private names.
"""

from __future__ import annotations

from typing import Any

from OpenSSL import crypto
from OpenSSL._util import ffi, lib

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.tls import certificates
from probe_exporter.tls.certificates import Certificate
from probe_exporter.tls.session import Session, new

_SHA256 = lib.EVP_get_digestbyname(b"sha256")


def sent(session: Session) -> tuple[Certificate, ...]:
    """Return what the peer sent, its own certificate first.

    Raises:
        ProbeFailed: a certificate can't be parsed. The other functions raise it too.
    """
    return _read_all(lib.SSL_get_peer_cert_chain(session.ssl))


def verified(session: Session) -> tuple[Certificate, ...]:
    """Return the verified chain, from the peer's own certificate to the trust anchor."""
    return _read_all(lib.SSL_get0_verified_chain(session.ssl))


def stapled(session: Session) -> bytes:
    """Return the OCSP response that the peer sent with its certificate; empty without one.

    pyOpenSSL has a callback for it, which costs more and would judge the response in the middle of the handshake.
    """
    found = ffi.new("unsigned char **")
    size = lib.SSL_get_tlsext_status_ocsp_resp(session.ssl, found)
    return ffi.buffer(found[0], size)[:] if size > 0 else b""


def _read_all(stack: Any) -> tuple[Certificate, ...]:
    if stack == ffi.NULL:
        return ()
    return tuple([read(lib.sk_X509_value(stack, index)) for index in range(lib.sk_X509_num(stack))])


def fingerprint(pointer: Any) -> bytes:
    """Return the SHA-256 fingerprint of an X509 object."""
    digest = new("char[32]")
    if not lib.X509_digest(pointer, _SHA256, digest, ffi.NULL):
        raise ProbeFailed(Reason.CERTIFICATE_INVALID, "a certificate of the peer can't be read: it has no digest")
    found: bytes = ffi.unpack(digest, 32)
    return found


def read(pointer: Any) -> Certificate:
    """Return the certificate of an X509 object."""
    found = fingerprint(pointer)
    known = certificates.memory.known.get(found)
    if known is None:
        lib.X509_up_ref(pointer)
        try:
            parsed = crypto.X509._from_raw_x509_ptr(pointer).to_cryptography()  # noqa: SLF001  # see above
        except certificates.UNREADABLE as error:
            raise ProbeFailed(Reason.CERTIFICATE_INVALID, f"a certificate of the peer can't be read: {error}") from None
        known = certificates.memory.add(found, parsed)
    return known
