"""OCSP (RFC 6960), without I/O: requests, and responses whose signature is verified.

A response counts if the issuer of the certificate signed it, or a responder whose certificate the issuer signed for
that purpose (RFC 6960, 4.2.2.2).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from probe_exporter.tls import der
from probe_exporter.tls.certificates import UNREADABLE, extension_of

MAX_RESPONDERS = 4
"""Responders of a certificate that are asked; a certificate chooses how many it names."""

MAX_DESCRIPTIONS = 64
"""Accesses to the authority that are looked at, responders or not."""

MAX_URL_CHARACTERS = 2048

STATUSES = {
    ocsp.OCSPCertStatus.GOOD: "good",
    ocsp.OCSPCertStatus.REVOKED: "revoked",
    ocsp.OCSPCertStatus.UNKNOWN: "unknown",
}
UNUSABLE = "unusable"
_KNOWN = ("good", "revoked")

MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT = (1 << 31) - 1
"""Limits of a signer's RSA key. Above them one verification takes milliseconds; Go's client has the same limits."""

_STATUS_REQUEST = x509.TLSFeatureType.status_request


class Answer(NamedTuple):
    """What a response says about a certificate.

    Attributes:
        status: ``good``, ``revoked`` or ``unknown``; ``unusable`` if the response does not count.
        problem: why it does not count; empty if it does.
        this_update: the time that the status is about, in Unix seconds; None if the response does not count.
        next_update: when a newer status is due; None if the response does not say.
    """

    status: str
    problem: str = ""
    this_update: float | None = None
    next_update: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether the certificate is known to be good or to be revoked."""
        return self.status in _KNOWN


def must_staple(certificate: x509.Certificate) -> bool:
    """Return whether a certificate demands that its server staples a response (RFC 7633)."""
    return _STATUS_REQUEST in (extension_of(certificate, x509.TLSFeature) or ())


def responders_of(certificate: x509.Certificate) -> list[str]:
    """Return the URLs of the responders that a certificate names, those by http and https."""
    described = extension_of(certificate, x509.AuthorityInformationAccess) or ()
    urls = [
        one.access_location.value
        for one in islice(described, MAX_DESCRIPTIONS)
        if one.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(one.access_location, x509.UniformResourceIdentifier)
    ]
    return [url for url in urls if url.lower().startswith(("http://", "https://")) and len(url) <= MAX_URL_CHARACTERS][
        :MAX_RESPONDERS
    ]


def request_for(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return a request for the status of a certificate. SHA-1 only identifies the issuer; every responder knows it.

    Raises:
        UNREADABLE: the name of the issuer can't be read, or its key is of no known kind.
    """
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # see above
    return builder.build().public_bytes(serialization.Encoding.DER)


def identify(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """Return a digest of issuer and serial number: what an answer is about.

    Raises:
        UNREADABLE: the name of the issuer can't be read, or its key is of no known kind.
    """
    digest = hashes.Hash(hashes.SHA256())
    for part in (issuer.subject.public_bytes(), _public_key_of(issuer)):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(hex(certificate.serial_number).encode())
    return digest.finalize()


def read_response(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate) -> Answer:
    """Parse and verify a response (DER)."""
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            return Answer(UNUSABLE, f"the responder answers {response.response_status.name.lower()}")
        problem = _unsigned(response, issuer)
        if problem:
            return Answer(UNUSABLE, problem)
        names: dict[str, tuple[bytes, bytes]] = {}
        for single in response.responses:
            if single.serial_number != certificate.serial_number:
                continue
            algorithm = single.hash_algorithm
            if algorithm.name not in names:
                names[algorithm.name] = _names_of(issuer, algorithm)
            if names[algorithm.name] == (single.issuer_name_hash, single.issuer_key_hash):
                return _answer(single)
        return Answer(UNUSABLE, "the response is about another certificate")
    except UNREADABLE as error:
        return Answer(UNUSABLE, f"the response can't be read: {str(error)[:200]}")


def _answer(single: ocsp.OCSPSingleResponse) -> Answer:
    this_update, following = single.this_update_utc.timestamp(), single.next_update_utc
    next_update, now = None if following is None else following.timestamp(), time.time()
    if this_update > now:
        return Answer(UNUSABLE, "the response is not valid yet", this_update, next_update)
    if next_update is not None and next_update < now:
        return Answer(UNUSABLE, "the response is past its next update", this_update, next_update)
    return Answer(STATUSES[single.certificate_status], "", this_update, next_update)


def _names_of(issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """Return the hashes of an issuer's name and key, by which responses name it."""
    name, key = hashes.Hash(algorithm), hashes.Hash(algorithm)
    name.update(issuer.subject.public_bytes())
    key.update(_bits_of(_public_key_of(issuer)))
    return name.finalize(), key.finalize()


def _public_key_of(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _bits_of(public_key: bytes) -> bytes:
    """Return the BIT STRING of a SubjectPublicKeyInfo, without tag, length and number of unused bits."""
    _, bits = der.elements(der.content(public_key))
    return der.content(bits)[1:]


def _unsigned(response: ocsp.OCSPResponse, issuer: x509.Certificate) -> str:
    """Return why the signature of a response does not count; empty if it does."""
    if not _is_verifiable(issuer):
        return "the key of the issuer is larger than the exporter verifies"
    if any(_signed(response, signer) for signer in (issuer, *_delegates(response.certificates, issuer))):
        return ""
    return "the response is signed neither by the issuer of the certificate nor by a responder of the issuer"


def _delegates(shown: Iterable[x509.Certificate], issuer: x509.Certificate) -> list[x509.Certificate]:
    """Return the certificates that the issuer has issued to responders and that are valid now."""
    return [one for one in list(shown)[:4] if _is_delegate(one, issuer)]


def _is_delegate(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    usages = extension_of(certificate, x509.ExtendedKeyUsage) or ()
    if not _is_verifiable(certificate):
        return False
    valid = certificate.not_valid_before_utc.timestamp() <= time.time() <= certificate.not_valid_after_utc.timestamp()
    return valid and ExtendedKeyUsageOID.OCSP_SIGNING in usages


def _is_verifiable(certificate: x509.Certificate) -> bool:
    """Return whether the key of a certificate is within the limits of an RSA key, or of another kind."""
    key = certificate.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return True
    return key.key_size <= MAX_RSA_BITS and key.public_numbers().e <= MAX_RSA_EXPONENT


def _signed(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    """Return whether a response is signed with the key of a certificate."""
    key, signature, signed = signer.public_key(), response.signature, response.tbs_response_bytes
    algorithm = response.signature_hash_algorithm
    try:
        match key:
            case rsa.RSAPublicKey() if algorithm is not None:
                key.verify(signature, signed, padding.PKCS1v15(), algorithm)
            case ec.EllipticCurvePublicKey() if algorithm is not None:
                key.verify(signature, signed, ec.ECDSA(algorithm))
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
                key.verify(signature, signed)
            case _:
                return False
    except InvalidSignature:
        return False
    return True
