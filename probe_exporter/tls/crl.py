"""Certificate revocation lists (RFC 5280), without I/O: where a certificate's list is, and what a list says.

A list of 10 MiB has some 300,000 entries. Parsing them takes half a second and holds the interpreter's lock, so
`read_list` is made to run in a helper process: it takes and returns plain data. A `RevocationList` keeps a digest of 16
bytes for each entry, sorted, in one bytes object.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from probe_exporter.tls.certificates import UNREADABLE, extension_of

MAX_POINTS = 8
"""Distribution points of a certificate that are tried; a certificate chooses how many it names."""

MAX_NAMES = 64
"""Names of distribution points that are looked at, usable or not."""

MAX_URL_CHARACTERS = 2048

_DIGEST_BYTES = 16
_PEM = b"-----BEGIN X509 CRL-----"


class Points(NamedTuple):
    """The distribution points of a certificate.

    Attributes:
        urls: those that can be fetched over HTTP, in order.
        skipped: the schemes of the others, such as ``ldap``.
        names: the URLs of all, by which a list may name them.
    """

    urls: tuple[str, ...]
    skipped: tuple[str, ...]
    names: tuple[str, ...]


class RevocationList(NamedTuple):
    """A revocation list whose signature is good.

    Attributes:
        this_update: when it was issued, in Unix seconds.
        next_update: when the next one is due, in Unix seconds; None if it does not say.
        digests: of the serial numbers on it, sorted, 16 bytes each.
        points: the distribution points that it is for, as URLs; empty if it is for all.
    """

    this_update: float
    next_update: float | None
    digests: bytes
    points: tuple[str, ...] = ()

    def has(self, serial: int) -> bool:
        """Return whether a serial number is on the list."""
        wanted = _digest(serial)
        low, high = 0, len(self.digests) // _DIGEST_BYTES
        while low < high:
            middle = (low + high) // 2
            found = self.digests[middle * _DIGEST_BYTES : (middle + 1) * _DIGEST_BYTES]
            if found == wanted:
                return True
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        return False

    def is_for(self, points: Points) -> bool:
        """Return whether the list is for certificates with these distribution points (RFC 5280, 6.3.3 b).

        An authority may have many lists, each for a part of its certificates. An attacker could serve another one.
        """
        return not self.points or not set(self.points).isdisjoint(points.names)

    def is_stale(self, now: float) -> bool:
        """Return whether the next list is overdue."""
        return self.next_update is not None and now > self.next_update


def points_of(certificate: x509.Certificate) -> Points:
    """Return the distribution points of a certificate; none if the extension does not parse."""
    points = extension_of(certificate, x509.CRLDistributionPoints) or ()
    names = islice((name for point in points for name in point.full_name or ()), MAX_NAMES)
    named = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    urls = [url for url in named if _scheme(url) in ("http", "https") and len(url) <= MAX_URL_CHARACTERS]
    others = dict.fromkeys(_scheme(url) for url in named if _scheme(url) not in ("http", "https"))
    return Points(tuple(urls[:MAX_POINTS]), tuple(others)[:MAX_POINTS], tuple(named))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme.lower()[:20]
    except ValueError:
        return ""


def public_key_of(certificate: x509.Certificate) -> bytes:
    """Return the public key of a certificate as DER, for `read_list`.

    Raises:
        ValueError, UnsupportedAlgorithm: the key is of no known kind.
    """
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def read_list(data: bytes, public_key: bytes) -> RevocationList | str:
    """Parse a list (DER or PEM) and check its signature; return it, or a sentence about what is wrong.

    Args:
        public_key: of the issuer, as `public_key_of` returns it.
    """
    try:
        found = x509.load_pem_x509_crl(data) if data.lstrip().startswith(_PEM) else x509.load_der_x509_crl(data)
        if not found.is_signature_valid(serialization.load_der_public_key(public_key)):  # type: ignore[arg-type]
            return "the list is not signed by the issuer of the certificate"
        if any(extension.oid == x509.DeltaCRLIndicator.oid for extension in found.extensions):
            return "the list is a delta, which is of no use without its base"
        next_update = found.next_update_utc
        return RevocationList(
            found.last_update_utc.timestamp(),
            None if next_update is None else next_update.timestamp(),
            b"".join(sorted({_digest(entry.serial_number) for entry in found})),
            _points_of_list(found),
        )
    except UNREADABLE as error:
        return f"the list can't be read: {str(error)[:200]}"


def _points_of_list(found: x509.CertificateRevocationList) -> tuple[str, ...]:
    """Return the URLs of the distribution points that a list is for; none if it does not say, or not by URLs."""
    try:
        named = found.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value.full_name or ()
    except x509.ExtensionNotFound:
        return ()
    urls = [name.value for name in named if isinstance(name, x509.UniformResourceIdentifier)]
    return tuple([url for url in urls[:MAX_NAMES] if len(url) <= MAX_URL_CHARACTERS])


def _digest(serial: int) -> bytes:
    size = serial.bit_length() // 8 + 1
    return hashlib.blake2b(serial.to_bytes(size, "big", signed=True), digest_size=_DIGEST_BYTES).digest()
