"""TLS as a client: `TLSSettings` to a context, a handshake to metrics. Sans-I/O; `net` carries the bytes.

pyOpenSSL and not the standard library's ssl: it shows the chain that the peer sent and the one that was verified, also
where verification failed, and its OpenSSL is newer (and faster) than most systems'.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from OpenSSL import SSL, crypto
from OpenSSL._util import lib as openssl

from probe_exporter import certificates, names
from probe_exporter.fields import FilePath, Secret, Text, encode
from probe_exporter.metrics import Metric
from probe_exporter.prober import Probe, ProbeFailed, Reason, Settings
from probe_exporter.rules import NO_SECRET_MANAGER, exclusive, needs

EARLIEST_EXPIRY = Metric(
    "probe_ssl_earliest_cert_expiry",
    "When the first of the certificates that the peer sent ends, in Unix time.",
)
CHAIN_EXPIRY = Metric(
    "probe_ssl_last_chain_expiry_timestamp_seconds",
    "When the verified chain ends, root included, in Unix time; year 1 if verification is off.",
)
CERTIFICATE_INFO = Metric(
    "probe_ssl_last_chain_info",
    "The peer's own certificate.",
    ("fingerprint_sha256", "subject", "issuer", "subjectalternative", "serialnumber"),
)
VERSION_INFO = Metric("probe_tls_version_info", "The TLS version agreed on.", ("version",))
CIPHER_INFO = Metric("probe_tls_cipher_info", "The cipher suite agreed on, by its IANA name.", ("cipher",))
VERIFY_ERROR_INFO = Metric(
    "probe_ssl_verify_error_info", "What is wrong with the peer's certificate, one series each.", ("error",)
)

NO_CHAIN = -62135596800.0
"""The original's value where nothing was verified: midnight of 1 January of year 1, Go's zero time."""

TLSVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

_VERSIONS = {
    "TLS10": SSL.TLS1_VERSION,
    "TLS11": SSL.TLS1_1_VERSION,
    "TLS12": SSL.TLS1_2_VERSION,
    "TLS13": SSL.TLS1_3_VERSION,
}
_VERSION_NAMES = {"TLSv1": "TLS 1.0", "TLSv1.1": "TLS 1.1", "TLSv1.2": "TLS 1.2", "TLSv1.3": "TLS 1.3"}

# What the original's TLS offers, in its order of preference, so that a server chooses the same: OpenSSL's name of each
# suite, IANA's number and name. Without key exchange by RSA and without 3DES.
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
"""Key exchanges offered: the original's."""

TLS13_CIPHERS = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")

# OpenSSL's verification errors (x509_vfy.h) in the words of `probe_ssl_verify_error_info`.
_VERIFY_ERRORS = {
    2: "unknown_authority",  # no issuer for a certificate further up
    18: "unknown_authority",  # self-signed
    19: "unknown_authority",  # self-signed root of nobody's
    20: "unknown_authority",  # no issuer here
    21: "unknown_authority",  # a lone certificate
    27: "unknown_authority",  # untrusted
    9: "not_yet_valid",
    10: "expired",
    7: "bad_signature",
    22: "chain_too_long",
    23: "revoked",
    79: "not_an_authority",  # an issuer that may not be one
    25: "path_too_long",
    26: "wrong_purpose",
    47: "name_constraint",
    66: "weak_key",
    67: "weak_key",
    68: "weak_signature",
}
_VERDICTS = {
    "expired": (Reason.CERTIFICATE_EXPIRED, "a certificate of the peer has expired"),
    "not_yet_valid": (Reason.CERTIFICATE_NOT_YET_VALID, "a certificate of the peer is not valid yet"),
    "wrong_name": (Reason.CERTIFICATE_WRONG_NAME, "the certificate is not for {name}"),
    "unknown_authority": (
        Reason.CERTIFICATE_UNKNOWN_AUTHORITY,
        "the certificate is signed by an unknown authority",
    ),
}
"""The errors with a reason of their own, the first that applies giving the probe's; any other is invalid."""

_PRECEDENCE = tuple(_VERDICTS)

_RECORD = 65536  # several records at once where they came at once
_MOST_AT_ONCE = 262144
_HELLO_SIZE = 78  # the most of a ServerHello up to the suite
_PIECE = 16384  # the most that one record holds

_CERT = ("cert", "cert_file", "cert_ref")
_KEY = ("key", "key_file", "key_ref")


class TLSSettings(Settings):
    """The ``tls_config`` block. Files are read when a probe needs them, not at load."""

    rules = (
        exclusive("ca", "ca_file", "ca_ref"),
        exclusive("cert", "cert_file", "cert_ref"),
        exclusive("key", "key_file", "key_ref"),
        needs(_CERT, _KEY, "a client certificate needs a key: `key` or `key_file`"),
        needs(_KEY, _CERT, "a client key needs a certificate: `cert` or `cert_file`"),
    )
    ca: Text = ""
    ca_file: FilePath = ""
    ca_ref: Text = ""
    cert: Text = ""
    cert_file: FilePath = ""
    cert_ref: Text = ""
    key: Secret = Secret("")
    key_file: FilePath = ""
    key_ref: Text = ""
    server_name: Text = ""
    insecure_skip_verify: bool = False
    min_version: TLSVersion = "TLS12"
    max_version: TLSVersion = "TLS13"

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.min_version > self.max_version:
            yield "min_version", "greater than `max_version`: every probe of this module will fail"
        for key in ("ca_ref", "cert_ref", "key_ref"):
            if getattr(self, key):
                yield key, NO_SECRET_MANAGER


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a client is, to a server that asks."""

    certificate: x509.Certificate
    chain: Sequence[x509.Certificate]
    key: PrivateKeyTypes


class ClientContext:
    """TLS settings made ready to be used by any number of connections."""

    def __init__(self, settings: TLSSettings, alpn: tuple[str, ...]) -> None:
        """
        Raises:
            ProbeFailed: a file or a key can't be used.
        """
        self._verifies = not settings.insecure_skip_verify
        self._context, _ = _make_context(settings, settings.min_version, settings.max_version)
        if alpn:
            self._context.set_alpn_protos([name.encode() for name in alpn])

    def layer(self, server_name: str) -> Layer:
        """A new TLS client; `server_name` is asked for and verified (an address is verified only).

        Raises:
            ProbeFailed: there is no name to verify.
        """
        if self._verifies:
            _check_verifiable(server_name)
        try:
            return Layer(SSL.Connection(self._context, None), server_name.rstrip("."), self._verifies)
        except (ValueError, TypeError):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"{server_name!r} is not a server name") from None


class QuicContext:
    """TLS settings made ready for QUIC, where another implementation shakes hands and OpenSSL judges what it was shown.

    Attributes:
        identity: what to show to a server that asks; None for nothing.
    """

    def __init__(self, settings: TLSSettings) -> None:
        """
        Raises:
            ProbeFailed: a file or a key can't be used.
        """
        self._verifies = not settings.insecure_skip_verify
        self._max_version = settings.max_version
        self._context, self.identity = _make_context(settings, "TLS12", "TLS12")

    def check_usable(self, server_name: str) -> None:
        """
        Raises:
            ProbeFailed: there is no name to verify, or TLS 1.3 is not to be spoken.
        """
        if self._max_version < "TLS13":
            raise ProbeFailed(
                Reason.SETTINGS_UNUSABLE, f"tls_config: QUIC needs TLS 1.3, and max_version is {self._max_version}"
            )
        if self._verifies:
            _check_verifiable(server_name)

    def verify(self, shown: Handshake, server_name: str) -> Handshake:
        """Judge what a server showed, as a `Layer` would, and return it with the verified chain.

        pyOpenSSL lets us verify a chain by itself too, but then it names the first error only and does not look at
        what a certificate may be used for. In a handshake it does, so the server's half of one is played to it, up to
        the certificates: in TLS 1.2, because there they come in clear.

        Raises:
            VerificationFailed: with all that is wrong.
            ProbeFailed: OpenSSL can't read the certificates.
        """
        if not self._verifies:
            return shown
        check = _Check(server_name.rstrip("."))
        connection = SSL.Connection(self._context, None)
        connection.set_connect_state()
        connection.set_app_data(check)
        connection.bio_write(_hello_and_certificates(shown.sent))
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as error:  # any key but of an elliptic curve is wrong for the suite: an end after the verdict
            if not check.complete:
                raise ProbeFailed(Reason.TLS_HANDSHAKE, f"unreadable certificates: {_describe(error)}") from None
        if check.errors:
            raise check.failure(replace(shown, verify_errors=tuple(check.errors)))
        return replace(shown, verified=connection.get_verified_chain(as_cryptography=True))


def _make_context(
    settings: TLSSettings, lowest: TLSVersion, highest: TLSVersion
) -> tuple[SSL.Context, Identity | None]:
    if settings.min_version > settings.max_version:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE,
            f"tls_config: min_version {settings.min_version} is above max_version {settings.max_version}",
        )
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(_VERSIONS[lowest])
    context.set_max_proto_version(_VERSIONS[highest])
    # OpenSSL does TLS 1.0 and 1.1 at security level 0 only; level 1 is what Go's key sizes and hashes amount to.
    level = 1 if lowest >= "TLS12" else 0
    context.set_cipher_list(f"{':'.join(CIPHERS)}:@SECLEVEL={level}".encode())
    context.set_tls13_ciphersuites(":".join(TLS13_CIPHERS).encode())
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    # pyOpenSSL has no other way to say it. OpenSSL's default would add an ML-KEM key: see docs/decisions.md.
    openssl.SSL_CTX_set1_curves_list(context._context, ":".join(GROUPS).encode())  # noqa: SLF001  # see above
    if not settings.insecure_skip_verify:
        _trust(context, settings)
        context.set_verify(SSL.VERIFY_PEER, _collect)
    elif settings.ca or settings.ca_file:
        _read_authorities(settings)  # unused, but a file that can't be read is an error all the same
    return context, _identify(context, settings)


def _check_verifiable(server_name: str) -> None:
    if not server_name:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, "tls_config needs server_name or insecure_skip_verify for this target"
        )


def _trust(context: SSL.Context, settings: TLSSettings) -> None:
    """Load the authorities; whatever stands in the bundle is an anchor, be it a root, an intermediate or a leaf."""
    if not (settings.ca or settings.ca_file):
        context.set_default_verify_paths()
        return
    store = context.get_cert_store()
    assert store is not None
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for certificate in _longest_lived(_read_authorities(settings)):
        store.add_cert(crypto.X509.from_cryptography(certificate))


def _longest_lived(authorities: Iterable[x509.Certificate]) -> Iterable[x509.Certificate]:
    """Of several certificates of one authority (its name and its key) the last to end: the best chain there is."""
    best: dict[tuple[x509.Name, bytes], x509.Certificate] = {}
    for certificate in sorted(authorities, key=certificates.expiry):
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        best[certificate.subject, key] = certificate
    return best.values()


def _read_authorities(settings: TLSSettings) -> list[x509.Certificate]:
    pem = _read("ca", settings.ca, settings.ca_file)
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "tls_config: ca holds no certificate in PEM form") from None


def _identify(context: SSL.Context, settings: TLSSettings) -> Identity | None:
    """Load the client's certificate, its chain and its key."""
    if not (settings.cert or settings.cert_file):
        return None
    key = settings.key.reveal()
    try:
        leaf, *chain = x509.load_pem_x509_certificates(_read("cert", settings.cert, settings.cert_file))
        context.use_certificate(leaf)
        for certificate in chain:
            context.add_extra_chain_cert(certificate)
        private = serialization.load_pem_private_key(_read("key", key, settings.key_file), password=None)
        context.use_privatekey(cast("Any", private))  # of more kinds than the annotation tells
        context.check_privatekey()
    except (ValueError, TypeError, SSL.Error, UnsupportedAlgorithm) as error:
        what = type(error).__name__  # the text might quote the key
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: unusable cert or key ({what})") from None
    return Identity(leaf, chain, private)


def _read(key: str, inline: str, path: str) -> bytes:
    if inline:
        return encode(inline)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"tls_config: {key}_file {path} can't be read: {error.strerror}"
        ) from None


Stamp = tuple[tuple[int, int, int] | None, ...]

Context = TypeVar("Context", ClientContext, QuicContext)

_contexts: dict[Hashable, tuple[Stamp, ClientContext | QuicContext]] = {}


def client_context(settings: TLSSettings, alpn: tuple[str, ...] = ()) -> ClientContext:
    """The context for some settings: made once, and again when a file it came from has changed.

    Modules with equal settings share one, so that a thousand modules load the system's authorities once.

    Args:
        settings: a module's ``tls_config``.
        alpn: the protocols to offer, best first.

    Raises:
        ProbeFailed: the settings can't be used.
    """
    return _remembered((settings, alpn), settings, lambda: ClientContext(settings, alpn))


def quic_context(settings: TLSSettings) -> QuicContext:
    """The same for QUIC."""
    return _remembered((settings, QuicContext), settings, lambda: QuicContext(settings))


def _remembered(key: Hashable, settings: TLSSettings, make: Callable[[], Context]) -> Context:
    for source in ("ca_ref", "cert_ref", "key_ref"):
        if getattr(settings, source):
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"tls_config: {source} needs a secret manager: none here")
    stamp = tuple(
        _stamp(setting, path)
        for setting, path in (("ca", settings.ca_file), ("cert", settings.cert_file), ("key", settings.key_file))
    )
    known = _contexts.get(key)
    if known is not None and known[0] == stamp:
        return cast("Context", known[1])
    context = make()
    _contexts[key] = (stamp, context)
    return context


def forget_contexts() -> None:
    """Let go of every context: the next probe makes its own anew. Called when the configuration changes."""
    _contexts.clear()


def _stamp(key: str, path: str) -> tuple[int, int, int] | None:
    """What changes when a file does."""
    if not path:
        return None
    try:
        status = Path(path).stat()
    except OSError as error:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"tls_config: {key}_file {path} can't be read: {error.strerror}"
        ) from None
    return status.st_ino, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Handshake:
    """What a handshake showed, finished or not."""

    version: str
    cipher: str
    sent: Sequence[x509.Certificate]  # by the peer, its own first
    verified: Sequence[x509.Certificate] | None  # from its own to the anchor; None if not verified
    verify_errors: tuple[str, ...] = ()
    protocol: str = ""  # agreed by ALPN


class VerificationFailed(ProbeFailed):
    """The peer's certificate does not verify; `handshake` is what could be seen of it."""

    def __init__(self, reason: Reason, message: str, handshake: Handshake) -> None:
        super().__init__(reason, message)
        self.handshake = handshake


class _Check:
    """One verification of a peer's certificates: whatever is wrong with them.

    Attributes:
        errors: in the words of `probe_ssl_verify_error_info`.
        complete: the peer's own certificate has been looked at, which comes last.
    """

    __slots__ = ("complete", "errors", "server_name")

    def __init__(self, server_name: str) -> None:
        self.server_name = server_name
        self.errors: list[str] = []
        self.complete = False

    def note(self, code: int) -> None:
        """Remember a verdict of OpenSSL's verification."""
        word = _VERIFY_ERRORS.get(code, f"error_{code}")
        if word not in self.errors:
            self.errors.append(word)

    def check_name(self, leaf: x509.Certificate | None) -> bool:
        """Compare the name with the certificate; whether nothing at all was found wrong with it."""
        self.complete = True
        if leaf is None or not certificates.is_for(leaf, self.server_name):
            self.errors.append("wrong_name")
        return not self.errors

    def failure(self, handshake: Handshake) -> VerificationFailed:
        """The verdict on what has been found."""
        first = min(self.errors, key=lambda word: _PRECEDENCE.index(word) if word in _VERDICTS else len(_VERDICTS))
        reason, sentence = _VERDICTS.get(
            first, (Reason.CERTIFICATE_INVALID, f"the certificate does not verify ({first})")
        )
        return VerificationFailed(reason, sentence.format(name=self.server_name), handshake)


class Layer:
    """One TLS client without I/O: bytes from the peer go in, bytes for the peer and plain text come out."""

    __slots__ = ("_check", "_connection", "_hello", "_verifies", "ended", "failure", "handshake")

    def __init__(self, connection: SSL.Connection, server_name: str, verifies: bool) -> None:
        self._connection = connection
        self._verifies = verifies
        self._check = _Check(server_name)
        self._hello = b""  # what the peer sent first
        self.handshake: Handshake | None = None
        self.ended = False  # the peer has said that nothing more comes
        self.failure: ProbeFailed | None = None  # what came is not what TLS allows, or an alert
        connection.set_connect_state()
        connection.set_app_data(self._check)
        if server_name and names.literal(server_name) is None:
            connection.set_tlsext_host_name(names.to_ascii(server_name).encode("ascii"))

    def advance(self, data: bytes) -> bool:
        """Take handshake bytes from the peer; whether the handshake is complete.

        Raises:
            ProbeFailed: it can't be completed; `outgoing` then holds the alert that tells the peer.
        """
        if data:
            if len(self._hello) < _HELLO_SIZE:
                self._hello += data
            self._connection.bio_write(data)
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            if self._check.errors:
                raise self._check.failure(self._observe()) from None
            raise ProbeFailed(Reason.TLS_HANDSHAKE, f"the TLS handshake failed: {_describe(error)}") from None
        if self._verifies and not self._check.complete:
            self._check.check_name(self._connection.get_peer_certificate(as_cryptography=True))
        if self._check.errors:
            self._drop_outgoing()
            raise self._check.failure(self._observe())
        self.handshake = self._observe()
        return True

    def decrypt(self, data: bytes) -> bytes:
        """The plain text of what the peer sent, up to a `failure`; nothing more after one."""
        if data:
            self._connection.bio_write(data)
        plain: list[bytes] = []
        while self.failure is None:
            try:
                plain.append(self._connection.recv(_RECORD))
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                self.ended = True
                break
            except SSL.Error as error:
                self.failure = ProbeFailed(Reason.TLS_HANDSHAKE, f"TLS broke: {_describe(error)}")
        return plain[0] if len(plain) == 1 else b"".join(plain)

    def encrypt(self, data: bytes) -> bytes:
        """`data` as records for the peer; nothing once TLS has broken, which `decrypt` tells."""
        view = memoryview(data)
        with suppress(SSL.Error):
            while view:
                view = view[self._connection.send(view[:_MOST_AT_ONCE]) :]
        return self.outgoing()

    def outgoing(self) -> bytes:
        """What waits to be sent to the peer; empty if nothing does."""
        waiting = []
        while True:
            try:
                waiting.append(self._connection.bio_read(_MOST_AT_ONCE))
            except SSL.WantReadError:
                return waiting[0] if len(waiting) == 1 else b"".join(waiting)

    def close(self) -> None:
        """Tell the peer that nothing more comes."""
        with suppress(SSL.Error):
            self._connection.shutdown()

    def _drop_outgoing(self) -> None:
        """Nothing of a handshake that we do not accept leaves, least of all a client certificate."""
        self.outgoing()

    def _observe(self) -> Handshake:
        connection = self._connection
        name = connection.get_cipher_name()
        good = self._verifies and not self._check.errors
        return Handshake(
            version=_VERSION_NAMES.get(connection.get_protocol_version_name(), "unknown"),
            cipher=_IANA_NAMES.get(name, name) if name else _cipher_of_hello(self._hello),
            sent=connection.get_peer_cert_chain(as_cryptography=True) or (),
            verified=connection.get_verified_chain(as_cryptography=True) if good else None,
            verify_errors=tuple(self._check.errors),
            protocol=connection.get_alpn_proto_negotiated().decode("ascii", "replace"),
        )


def _collect(connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int) -> bool:
    """OpenSSL's question about each certificate of a chain: note what is wrong, refuse at the last one.

    Going on after an error finds all of them (expired, and by an unknown authority). The last question is about the
    peer's own certificate after everything else; to refuse there makes OpenSSL send the alert, and nothing more.
    """
    check = cast("_Check", connection.get_app_data())
    if not ok:
        check.note(code)
        return True
    if depth > 0:
        return True
    return check.check_name(certificate.to_cryptography())


def _hello_and_certificates(chain: Sequence[x509.Certificate]) -> bytes:
    """A server's first two messages in TLS 1.2 (RFC 5246, 7.4), as records.

    The hello chooses a suite that every context of ours offers and answers the question about renegotiation, which
    OpenSSL insists on.
    """
    suite = CIPHERS["ECDHE-ECDSA-AES128-GCM-SHA256"][0].to_bytes(2, "big")
    hello = b"\x03\x03" + bytes(32) + b"\0" + suite + b"\0" + b"\0\x05\xff\x01\0\x01\0"
    listed = b"".join(_sized(certificate.public_bytes(serialization.Encoding.DER)) for certificate in chain)
    messages = b"\x02" + _sized(hello) + b"\x0b" + _sized(_sized(listed))
    pieces = (messages[start : start + _PIECE] for start in range(0, len(messages), _PIECE))
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data


def _describe(error: SSL.Error) -> str:
    """OpenSSL's own words for an error, without its inner names."""
    if isinstance(error, SSL.SysCallError):
        return "the connection ended"
    reasons = [entry[-1] for entry in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return ", ".join(dict.fromkeys(reason for reason in reasons if reason)) or "no reason given"


_IANA_NAMES = {openssl: iana for openssl, (_, iana) in CIPHERS.items()}
_IANA_NUMBERS = dict(CIPHERS.values())


def _cipher_of_hello(received: bytes) -> str:
    """The suite that a ServerHello at the start of a connection names; empty if there is none.

    OpenSSL tells the suite of TLS 1.2 only after the certificate, which is too late for one that does not verify. So:
    5 bytes of record, 4 of handshake, 2 of version, 32 random, the session id and its length, the suite (RFC 5246).
    """
    if len(received) < 44 or received[0] != 22 or received[5] != 2:
        return ""
    start = 44 + received[43]
    return _IANA_NUMBERS.get(int.from_bytes(received[start : start + 2], "big"), "")


def report(probe: Probe, handshake: Handshake) -> None:
    """Fill the TLS metrics of a run from a handshake, also from one that failed at the certificate."""
    probe.set(VERSION_INFO, 1, handshake.version)
    if handshake.cipher:
        probe.set(CIPHER_INFO, 1, handshake.cipher)
    for error in handshake.verify_errors:
        probe.set(VERIFY_ERROR_INFO, 1, error)
    if not handshake.sent:
        return
    probe.set(CERTIFICATE_INFO, 1, *certificates.leaf_labels(handshake.sent[0]))
    probe.set(EARLIEST_EXPIRY, certificates.earliest_expiry(handshake.sent))
    if handshake.verified is not None:
        probe.set(CHAIN_EXPIRY, certificates.earliest_expiry(handshake.verified))
    elif not handshake.verify_errors:
        probe.set(CHAIN_EXPIRY, NO_CHAIN)
