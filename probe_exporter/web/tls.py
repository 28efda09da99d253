"""TLS of the web server: make an SSL context from `tls_server_config`, and a new one when its files change.

The keys and defaults are Go's, the implementation is OpenSSL. A setting that Python's ssl module can't implement is an
error when the file is read.
"""

from __future__ import annotations

import os
import ssl
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import FilePath, Text
from probe_exporter.settings.rules import Block
from probe_exporter.settings.secrets import Secret

VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
Version = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

CIPHERS = {  # in order of preference
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
}
"""OpenSSL's names of the cipher suites up to TLS 1.2, by their names at IANA and in Go."""

CIPHERS_OF_13 = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")
"""The cipher suites of TLS 1.3; neither Go nor Python's ssl module can restrict them."""

_SELECTABLE = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1"}
"""OpenSSL's names of the curves that Python's ssl module can set. X25519 is used by default and can't be set."""

_VERIFYING = {
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_NOT_VERIFYING = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
_SWITCHES = ("cert", "cert_file", "key", "key_file", "client_ca", "client_ca_file", "client_auth_type")
"""TLS is on if any of these keys has a value."""


def _complete(block: Block) -> Iterator[tuple[str, str]]:
    if any(block.get(key) for key in _SWITCHES):
        for key, what in (("cert", "a certificate"), ("key", "the key of its certificate")):
            if not block.get(key) and not block.get(f"{key}_file"):
                yield f"{key}_file", f"TLS needs {what}: `{key}_file` or `{key}`"


def _authority_with_a_use(block: Block) -> Iterator[tuple[str, str]]:
    if block.get("client_auth_type", "") in ("", "NoClientCert"):
        for key in ("client_ca_file", "client_ca"):
            if block.get(key):
                yield key, "authorities of clients need a `client_auth_type` other than NoClientCert"


def _possible_in_python(block: Block) -> Iterator[tuple[str, str]]:
    if block.get("client_auth_type") in _NOT_VERIFYING:
        means = f"`{block['client_auth_type']}` takes a certificate without verifying it, which Python's TLS can't do"
        yield "client_auth_type", f"{means}: use {' or '.join(_VERIFYING)}"
    curves = block.get("curve_preferences")
    if isinstance(curves, list | tuple) and (len(curves) > 1 or "X25519" in curves):
        names = ", ".join(_SELECTABLE)
        yield "curve_preferences", f"Python's TLS takes one of {names}; without the key, all of OpenSSL's are offered"


def _some_version(block: Block) -> Iterator[tuple[str, str]]:
    least, most = block.get("min_version", "TLS12"), block.get("max_version", "TLS13")
    if least in VERSIONS and most in VERSIONS and VERSIONS[least] > VERSIONS[most]:
        key = "max_version" if "max_version" in block else "min_version"
        yield key, f"no version is from {least} to {most}: no client could connect"


class TlsServer(Settings):
    """``tls_server_config``; without a certificate, a key or a policy for clients, the server uses plain HTTP."""

    cert_file: FilePath = ""
    cert: Text = ""
    key_file: FilePath = ""
    key: Secret = Secret("")
    client_ca_file: FilePath = ""
    client_ca: Text = ""
    client_auth_type: Literal[
        "",
        "NoClientCert",
        "RequestClientCert",
        "RequireClientCert",
        "RequireAnyClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
    ] = ""
    client_allowed_sans: tuple[Text, ...] | None = None
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"
    cipher_suites: tuple[Literal[(*CIPHERS_OF_13, *CIPHERS)], ...] = ()  # type: ignore[valid-type]  # a table, once
    prefer_server_cipher_suites: bool = True
    curve_preferences: tuple[Literal["CurveP256", "CurveP384", "CurveP521", "X25519"], ...] = ()

    rules = (_complete, _authority_with_a_use, _possible_in_python, _some_version)

    @property
    def enabled(self) -> bool:
        return bool(self.cert_file or self.cert)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files that a context is made from, as written."""
        return tuple(file for file in (self.cert_file, self.key_file, self.client_ca_file) if file)

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Yield warnings about settings that have no effect, or that allow more or fewer clients than expected."""
        verifies = self.client_auth_type in _VERIFYING
        if self.client_allowed_sans is not None and not verifies:
            yield "client_allowed_sans", "has no effect unless clients' certificates are verified"
        elif self.client_allowed_sans == ():
            yield "client_allowed_sans", "an empty list refuses all clients"
        if verifies and not self.client_ca_file and not self.client_ca:
            yield "client_auth_type", "without `client_ca_file`, any certificate that this system trusts is accepted"
        if "prefer_server_cipher_suites" in self.model_fields_set:
            yield "prefer_server_cipher_suites", "has no effect: the server's order counts"
        if self.min_version in ("TLS10", "TLS11"):
            yield "min_version", f"{self.min_version} is insecure and deprecated (RFC 8996)"


class Unusable(Exception):
    """A file or text of `tls_server_config` can't be used; has the key of the setting and the cause."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class ServerContext(ssl.SSLContext):
    """The TLS context of one version of the file.

    Attributes:
        allowed_names: a client's certificate must have one of these, even if it is optional; None accepts any.
    """

    allowed_names: frozenset[str] | None = None


def make_context(settings: TlsServer, directory: Path) -> ServerContext:
    """Return a context for new connections.

    Args:
        directory: the base of relative paths.

    Raises:
        Unusable: a file can't be read, or has invalid content.
    """
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = ServerConnection
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _set_versions_and_ciphers(context, settings)
    if settings.curve_preferences:
        context.set_ecdh_curve(_SELECTABLE[settings.curve_preferences[0]])
    _load_certificate(context, settings, directory)
    _set_client_policy(context, settings, directory)
    return context


def _set_versions_and_ciphers(context: ServerContext, settings: TlsServer) -> None:
    named = [CIPHERS[name] for name in CIPHERS if name in settings.cipher_suites]  # Go ignores the order of the file
    least = VERSIONS[settings.min_version]
    if settings.cipher_suites and not named:  # suites of TLS 1.3 alone
        least = ssl.TLSVersion.TLSv1_3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of versions that the file asks for by name
        context.minimum_version, context.maximum_version = least, VERSIONS[settings.max_version]
    # OpenSSL's default security level forbids the signatures of TLS 1.0 and 1.1.
    level = ["@SECLEVEL=0"] if least < ssl.TLSVersion.TLSv1_2 else []
    context.set_ciphers(":".join([*(named or CIPHERS.values()), *level]))


def _load_certificate(context: ServerContext, settings: TlsServer, directory: Path) -> None:
    from cryptography import x509  # noqa: PLC0415  # few exporters serve TLS themselves
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  # the same

    certificate_key, certificate = _content("cert", settings.cert_file, settings.cert, directory)
    key_key, key = _content("key", settings.key_file, settings.key.reveal(), directory)
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
    except ValueError as error:
        raise Unusable(certificate_key, "holds no certificate in PEM") from error
    try:
        loaded = load_pem_private_key(key, None)
    except TypeError as error:
        raise Unusable(key_key, "the key is encrypted, and there is no setting for its passphrase") from error
    except ValueError as error:
        raise Unusable(key_key, "holds no private key in PEM") from error
    if loaded.public_key() != leaf.public_key():
        raise Unusable(key_key, "the key does not belong to the certificate")
    with _as_file(certificate) as certificate_file, _as_file(key) as key_file:
        try:
            context.load_cert_chain(certificate_file, key_file)
        except ssl.SSLError as error:  # of a kind that OpenSSL does not use, or too weak for it
            raise Unusable(certificate_key, str(error)) from error


def _set_client_policy(context: ServerContext, settings: TlsServer, directory: Path) -> None:
    if settings.client_auth_type not in _VERIFYING:
        return
    context.verify_mode = _VERIFYING[settings.client_auth_type]
    if settings.client_allowed_sans is not None:
        context.allowed_names = frozenset(settings.client_allowed_sans)
    if not settings.client_ca_file and not settings.client_ca:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    key, authorities = _content("client_ca", settings.client_ca_file, settings.client_ca, directory)
    try:
        context.load_verify_locations(cadata=authorities.decode("ascii", "replace"))
    except (ssl.SSLError, ValueError) as error:
        raise Unusable(key, "holds no certificate in PEM") from error
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # every certificate in the file is a trust anchor, as in Go


def _content(key: str, file: str, text: str, directory: Path) -> tuple[str, bytes]:
    """Return the key in effect and the content; the file's key if both are given."""
    if not file:
        return key, text.encode()
    try:
        return f"{key}_file", (directory / file).read_bytes()
    except OSError as error:
        raise Unusable(f"{key}_file", f"{file} can't be read: {error.strerror or error}") from error


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield a path from which OpenSSL can read `content`; it is never written to a disk."""
    descriptor = os.memfd_create("pem")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


# --- connections -------------------------------------------------------------------------------------------

_SENT_PLAIN = b"This port serves HTTPS, and the request was plain HTTP.\n"
_PLAIN_ANSWER = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_SENT_PLAIN), _SENT_PLAIN)
)


class ServerConnection(ssl.SSLObject):
    """One client's TLS. After a failed handshake it sends the alert before it raises, and logs nothing.

    uvloop drops the alert with the connection, so that the client would not learn the cause. So a failure is first
    raised as SSLWantReadError, which makes uvloop send the alert, and as itself once the client has closed the
    connection or the handshake has timed out.
    """

    outgoing: ssl.MemoryBIO
    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Continue the handshake.

        Raises:
            ssl.SSLError: the handshake failed, or needs more data from the client.
        """
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self.outgoing.read()
                self.outgoing.write(_PLAIN_ANSWER)
            self._failure = error
            if self.outgoing.pending:
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "an alert has to be sent") from error
            raise
        self._check_names()

    def _check_names(self) -> None:
        context = self.context
        allowed = context.allowed_names if isinstance(context, ServerContext) else None
        if allowed is None:
            return
        certificate = self.getpeercert(binary_form=True)
        if certificate is None or not allowed & set(_names(certificate)):
            raise ssl.SSLCertVerificationError("the client has no certificate with an allowed name")


def _names(certificate: bytes) -> Iterator[str]:
    """Yield the subject alternative names of a certificate of the kinds that `client_allowed_sans` can list."""
    from cryptography import x509  # noqa: PLC0415  # loaded with the context

    parsed = x509.load_der_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names:
        if isinstance(name, x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier | x509.IPAddress):
            yield str(name.value)


class LiveContext(ssl.SSLContext):
    """Delegates to the current context for each new connection; for servers that keep one context while they run."""

    _current: Callable[[], ServerContext]

    def __new__(cls, current: Callable[[], ServerContext]) -> Self:
        """
        Args:
            current: returns the context for a new connection.
        """
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER)
        self._current = current
        return self

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **more: Any) -> ssl.SSLObject:
        """Return the TLS object of a new connection."""
        connection = self._current().wrap_bio(incoming, outgoing, *rest, **more)
        if isinstance(connection, ServerConnection):
            connection.outgoing = outgoing
        return connection
