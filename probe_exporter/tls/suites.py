"""TLS versions, cipher suites and key exchanges that a client offers, by their names in OpenSSL and at IANA."""

from __future__ import annotations

from OpenSSL import SSL

VERSIONS = {
    "TLS10": SSL.TLS1_VERSION,
    "TLS11": SSL.TLS1_1_VERSION,
    "TLS12": SSL.TLS1_2_VERSION,
    "TLS13": SSL.TLS1_3_VERSION,
}
VERSION_NAMES = {
    SSL.TLS1_VERSION: "TLS 1.0",
    SSL.TLS1_1_VERSION: "TLS 1.1",
    SSL.TLS1_2_VERSION: "TLS 1.2",
    SSL.TLS1_3_VERSION: "TLS 1.3",
}

# The original's cipher suites in its order of preference, so that a server chooses the same: OpenSSL's name, IANA's
# number and name. There are none with RSA key exchange or 3DES.
CIPHERS = {
    "ECDHE-ECDSA-AES128-GCM-SHA256": (0xC02B, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    "ECDHE-RSA-AES128-GCM-SHA256": (0xC02F, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    "ECDHE-ECDSA-AES256-GCM-SHA384": (0xC02C, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    "ECDHE-RSA-AES256-GCM-SHA384": (0xC030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    "ECDHE-ECDSA-CHACHA20-POLY1305": (0xCCA9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    "ECDHE-RSA-CHACHA20-POLY1305": (0xCCA8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    "ECDHE-ECDSA-AES128-SHA": (0xC009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    "ECDHE-RSA-AES128-SHA": (0xC013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    "ECDHE-ECDSA-AES256-SHA": (0xC00A, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    "ECDHE-RSA-AES256-SHA": (0xC014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
}
GROUPS = ("X25519", "P-256", "P-384", "P-521")
"""Key exchanges, as in the original."""

TLS13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

IANA_NAMES = {openssl: iana for openssl, (_, iana) in CIPHERS.items()}
_IANA_NUMBERS = dict(CIPHERS.values())


def cipher_of_hello(received: bytes) -> str:
    """Return the cipher suite in the ServerHello at the start of a connection; empty if there is none.

    In TLS 1.2 OpenSSL tells the suite only after the certificate, too late for one that does not verify. The suite
    follows 5 bytes of record, 4 of handshake, 2 of version, 32 random, and the session id with its length (RFC 5246).
    """
    if len(received) < 44 or received[0] != 22 or received[5] != 2:
        return ""
    start = 44 + received[43]
    return _IANA_NUMBERS.get(int.from_bytes(received[start : start + 2], "big"), "")
