"""Odd web config files, for a comparison with the original, and the tables of deliberate differences.

Their directory has ``leaf.pem``, ``leaf.key`` and ``root.pem`` of the test certificates.
"""

from __future__ import annotations

HASH = "$2b$04$gNbqzOh2tvx540RVVXPHA.8UBBwtTBXx1veLfxlB0UjWA1k6pq8wa"
"""Hash of the password ``x``."""


def tls(keys: str = "") -> str:
    """Return a file with a server certificate and these further keys."""
    return f"tls_server_config: {{cert_file: leaf.pem, key_file: leaf.key, {keys}}}\n"


def headers(pair: str) -> str:
    """Return a file with one header."""
    return f"http_server_config: {{headers: {{{pair}}}}}\n"


def user(hashed: str) -> str:
    """Return a file with one user."""
    return f"basic_auth_users: {{a: {hashed}}}\n"


VERIFYING = "client_auth_type: RequireAndVerifyClientCert"

AS_A_WHOLE = [
    "", "---\n", "null\n", "[]\n", "x\n", "{}\n", "# c\n", "bogus: 1\n", "a: [\n", "{}\n---\nx: 1\n", "\ufeff{}\n",
    "tls_server_config: {}\ntls_server_config: {}\n",
]  # fmt: skip

TLS = [
    "tls_server_config:\n", "tls_server_config: {}\n", "tls_server_config: []\n",
    "tls_server_config: {cert_file: leaf.pem}\n", "tls_server_config: {key_file: leaf.key}\n",
    "tls_server_config: {min_version: TLS13}\n", "tls_server_config: {client_auth_type: NoClientCert}\n",
    "tls_server_config: {client_ca_file: root.pem}\n",
    "tls_server_config: {cert_file: nope.pem, key_file: leaf.key}\n",
    "tls_server_config: {cert_file: leaf.key, key_file: leaf.key}\n",
    "tls_server_config: {cert_file: leaf.pem, key_file: leaf.pem}\n",
    "tls_server_config: {cert_file: leaf.pem, key_file: root.key}\n",
    "tls_server_config: {cert: x, key: y}\n", "tls_server_config: {cert_file: leaf.pem, key: y}\n",
    "tls_server_config: {cert: junk, cert_file: leaf.pem, key_file: leaf.key}\n",
    "tls_server_config: {<<: {cert_file: leaf.pem}, key_file: leaf.key}\n",
    tls(), tls("bogus: 1"), tls("cert: x"), tls("cert_file: nope"),
    tls("client_ca_file: root.pem"), tls("client_ca_file: root.pem, client_auth_type: ''"),
    tls("client_ca_file: root.pem, client_auth_type: NoClientCert"), tls(f"client_ca_file: root.pem, {VERIFYING}"),
    tls("client_ca_file: root.pem, client_auth_type: RequestClientCert"), tls(VERIFYING),
    tls("client_auth_type: VerifyClientCertIfGiven"), tls("client_auth_type: RequireClientCert"),
    tls("client_auth_type: RequireAnyClientCert"), tls("client_auth_type: bogus"),
    tls("client_auth_type: requireandverifyclientcert"), tls(f"client_ca_file: nope.pem, {VERIFYING}"),
    tls(f"client_ca_file: leaf.key, {VERIFYING}"), tls(f"client_ca: bogus, {VERIFYING}"),
    tls("client_allowed_sans: [a]"), tls(f"client_allowed_sans: [a], client_ca_file: root.pem, {VERIFYING}"),
    tls("client_allowed_sans: a"),
    tls("min_version: TLS10"), tls("min_version: TLS14"), tls("min_version: tls12"), tls("min_version: ''"),
    tls("min_version: 12"), tls("min_version: 771"), tls("max_version: null"),
    tls("min_version: TLS13, max_version: TLS12"), tls("max_version: TLS11"),
    tls("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]"), tls("cipher_suites: [TLS_AES_128_GCM_SHA256]"),
    tls("cipher_suites: [bogus]"), tls("cipher_suites: []"), tls("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"),
    tls("cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256]"),
    tls("cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]"),
    tls("cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]"),
    tls("cipher_suites: [tls_aes_128_gcm_sha256]"), tls("cipher_suites: TLS_AES_128_GCM_SHA256"),
    tls("cipher_suites: ['']"), tls("cipher_suites: [TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA]"),
    tls("curve_preferences: [CurveP256]"), tls("curve_preferences: [X25519]"),
    tls("curve_preferences: [CurveP256, X25519]"),
    tls("curve_preferences: [bogus]"), tls("curve_preferences: [P256]"), tls("curve_preferences: []"),
    tls("curve_preferences: [x25519]"),
    tls("prefer_server_cipher_suites: false"), tls("prefer_server_cipher_suites: x"),
]  # fmt: skip

HTTP = [
    "http_server_config:\n", "http_server_config: {}\n", "http_server_config: {bogus: 1}\n",
    "http_server_config: {http2: false}\n", "http_server_config: {http2: true}\n", "http_server_config: {http2: 1}\n",
    "http_server_config: {headers: {}}\n", "http_server_config: {headers: [a]}\n",
    headers("X-Frame-Options: deny"), headers("X-Frame-Options: DENY"), headers("X-Frame-Options: sameorigin"),
    headers("X-Frame-Options: x"), headers("x-frame-options: deny"), headers("X-Other: x"),
    headers("X-Content-Type-Options: nosniff"), headers("X-Content-Type-Options: x"),
    headers("X-Content-Type-Options: ''"), headers("X-XSS-Protection: anything"), headers("X-XSS-Protection: ''"),
    headers("Strict-Transport-Security: x"), headers("Strict-Transport-Security: ''"),
    headers("Content-Security-Policy: x"), headers("Content-Security-Policy: 5"),
    headers("Content-Security-Policy: null"), headers(r'Content-Security-Policy: "a\nb"'),
    headers(r'Content-Security-Policy: "a\0b"'), headers(r'Content-Security-Policy: " a\tb\r\n"'),
]  # fmt: skip

USERS = [
    "basic_auth_users:\n", "basic_auth_users: {}\n", "basic_auth_users: [a]\n",
    *[user(HASH.replace("2b", version)) for version in ("2b", "2y", "2a", "2x", "2z", "2", "1b", "3b")],
    *[user(HASH.replace("$04", cost)) for cost in ("$03", "$31", "$32", "$xx")],
    user(HASH[:40]), user(f"{HASH}x"), user(HASH[:10] + "!" * 50), user("plain"), user("''"), user("null"), user("5"),
    f"basic_auth_users: {{'': {HASH}}}\n", f"basic_auth_users: {{a: {HASH}, a: {HASH}}}\n",
]  # fmt: skip

LIMITS = [
    "rate_limit:\n", "rate_limit: {}\n", "rate_limit: {bogus: 1}\n", "rate_limit: {burst: 5}\n",
    *[f"rate_limit: {{interval: {value}, burst: 1}}\n"
      for value in ("1s", "1000", "1d", "x", "-1s", "1.5", "'1000'", "0", "'0'", "1m30s")],
    *[f"rate_limit: {{interval: 1s, burst: {value}}}\n" for value in ("-1", "1.5", "x", "0", "'1'")],
]  # fmt: skip

CASES = [*AS_A_WHOLE, *TLS, *HTTP, *USERS, *LIMITS]

STRICTER = {
    "Python's TLS verifies every certificate that it asks for": [
        tls("client_ca_file: root.pem, client_auth_type: RequestClientCert"),
        tls("client_auth_type: RequireClientCert"),
        tls("client_auth_type: RequireAnyClientCert"),
    ],
    "Python's TLS can't be told to use several curves, or X25519": [
        tls("curve_preferences: [CurveP256, X25519]"),
        tls("curve_preferences: [X25519]"),
    ],
    "nobody could connect": [
        tls("min_version: TLS13, max_version: TLS12"),
        tls("max_version: TLS11"),
        tls(f"client_ca_file: leaf.key, {VERIFYING}"),
        tls(f"client_ca: bogus, {VERIFYING}"),
    ],
    "a header can't hold control characters": [headers(r'Content-Security-Policy: "a\0b"')],
    "hashes that no tool makes, or that no password can match": [
        *[user(HASH.replace("2b", version)) for version in ("2x", "2z", "2", "1b")],
        user(f"{HASH}x"),
        user(HASH[:10] + "!" * 50),
    ],
}
"""Files that we reject and the original accepts, by reason."""

KINDER = {
    "suites that HTTP/2 demands are not missed without HTTP/2": [
        tls("cipher_suites: [TLS_AES_128_GCM_SHA256]"),
        tls("cipher_suites: [TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]"),
    ],
}
"""Files that we accept and the original rejects, by reason."""
