"""Estimate how long OpenSSL takes to verify signatures by the keys of a chain, which a server may have chosen for that.

Most keys take 0.05 to 0.4 ms: RSA with a short exponent, the curves of NIST, Ed25519, ML-DSA. These take longer, in
milliseconds with OpenSSL 4.0 in 2026:

* RSA with a public exponent of more than 64 bits: 5.5 with 3072 bits, the longest that OpenSSL takes.
* DSA: 0.3 with 2048 bits, 1.1 with 4096, 8 with 10000.
* Brainpool's curves and secp256k1: 0.3 to 0.9.
* Curves over binary fields: 2.4 with sect571r1.

The original refuses all of these keys.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import PublicKeyAlgorithmOID

UNREADABLE_MILLISECONDS = 8.0
"""For a key of RSA or DSA that cryptography refuses, and OpenSSL may take: DSA with 10000 bits."""

UNKNOWN_MILLISECONDS = 2.5
"""For any other key that cryptography does not know, and OpenSSL may know: curves over binary fields, SLH-DSA."""

_OTHER_CURVE_MILLISECONDS = 1.0
_MODULAR = (PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5, PublicKeyAlgorithmOID.RSASSA_PSS, PublicKeyAlgorithmOID.DSA)
_USUAL_CURVES = (ec.SECP224R1, ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_USUAL_EXPONENT_BITS = 64
_MILLISECONDS = 5.5 / 3072**3
"""For each bit of an exponent, divided by the square of the modulus' bits."""


def milliseconds(certificate: x509.Certificate) -> float:
    """Return about how long a signature by the certificate's key takes to verify; 0 for a usual key."""
    try:
        key = certificate.public_key()
        match key:
            case rsa.RSAPublicKey():
                exponent = key.public_numbers().e.bit_length()
                return _MILLISECONDS * key.key_size**2 * exponent if exponent > _USUAL_EXPONENT_BITS else 0.0
            case dsa.DSAPublicKey():
                numbers = key.parameters().parameter_numbers()
                return _MILLISECONDS * key.key_size**2 * 2 * numbers.q.bit_length()  # two exponentiations
            case ec.EllipticCurvePublicKey():
                return 0.0 if isinstance(key.curve, _USUAL_CURVES) else _OTHER_CURVE_MILLISECONDS
            case _:
                return 0.0
    except (ValueError, TypeError, UnsupportedAlgorithm):
        modular = certificate.public_key_algorithm_oid in _MODULAR
        return UNREADABLE_MILLISECONDS if modular else UNKNOWN_MILLISECONDS
