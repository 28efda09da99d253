"""How long signatures by a key take to verify is estimated from its kind and its size."""

from __future__ import annotations

import datetime
import secrets

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from probe_exporter.tls.slow_keys import UNKNOWN_MILLISECONDS, UNREADABLE_MILLISECONDS, milliseconds

SIGNER = ec.generate_private_key(ec.SECP256R1())


def certificate(key: CertificatePublicKeyTypes) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([])
    return x509.CertificateBuilder(name, name, key, 1, now, now, []).sign(SIGNER, hashes.SHA256())


def odd(bits: int) -> int:
    """Return a number of so many bits. Nobody checks whether it is a prime."""
    return secrets.randbits(bits) | 1 << bits - 1 | 1


def rsa_key(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, odd(bits)).public_key()


def dsa_key(bits: int) -> dsa.DSAPublicKey:
    return dsa.DSAPublicNumbers(5, dsa.DSAParameterNumbers(odd(bits), odd(256), 3)).public_key()


@pytest.mark.parametrize(
    "key",
    [
        rsa_key(2048), rsa_key(4096), rsa_key(16384), rsa_key(4096, 2**64 - 1),
        ed25519.Ed25519PrivateKey.generate().public_key(), ed448.Ed448PrivateKey.generate().public_key(),
        *[ec.generate_private_key(curve).public_key() for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())],
    ],
    ids=lambda key: f"{type(key).__name__}-{getattr(key, 'key_size', '')}",
)  # fmt: skip
def test_usual_key_is_not_slow(key: CertificatePublicKeyTypes) -> None:
    assert milliseconds(certificate(key)) == 0


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        (rsa_key(3072, odd(3071)), 5.4, 5.6),
        (rsa_key(2048, odd(2047)), 1.5, 1.8),
        (rsa_key(3072, 2**80 + 1), 0.1, 0.2),
        (dsa_key(2048), 0.3, 0.5),
        (dsa_key(4096), 1.1, 1.8),
        (ec.generate_private_key(ec.BrainpoolP512R1()).public_key(), 0.9, 1.1),
        (ec.generate_private_key(ec.SECP256K1()).public_key(), 0.3, 1.1),
    ],
    ids=["rsa-3072", "rsa-2048", "rsa-80", "dsa-2048", "dsa-4096", "brainpool", "secp256k1"],
)
def test_unusual_key_is_slow_by_its_size(key: CertificatePublicKeyTypes, least: float, most: float) -> None:
    assert least < milliseconds(certificate(key)) < most


def changed(key: CertificatePublicKeyTypes, old: str, new: str) -> x509.Certificate:
    """Return a certificate of which some bytes, in hex, are replaced."""
    whole = certificate(key).public_bytes(Encoding.DER)
    assert whole.count(bytes.fromhex(old)) == 1
    return x509.load_der_x509_certificate(whole.replace(bytes.fromhex(old), bytes.fromhex(new)))


def test_key_that_cryptography_refuses_counts_as_one_of_the_slowest() -> None:
    even = changed(rsa_key(2048), "0203010001", "0203010000")
    assert milliseconds(even) == UNREADABLE_MILLISECONDS


def test_key_on_an_unknown_curve_counts_as_a_slow_one() -> None:
    strange = changed(SIGNER.public_key(), "2a8648ce3d030107", "2a8648ce3d03017f")
    assert milliseconds(strange) == UNKNOWN_MILLISECONDS
