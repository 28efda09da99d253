"""The ``tls_config`` block of a module: its keys, and warnings about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import AfterValidator

from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import FilePath, Text
from probe_exporter.settings.rules import NO_SECRET_MANAGER, exclusive, needs
from probe_exporter.settings.secrets import Secret

TLSVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

_CERT = ("cert", "cert_file", "cert_ref")
_KEY = ("key", "key_file", "key_ref")


class TLSSettings(Settings):
    """The ``tls_config`` block, with the original's keys. Files are read by the first probe, not at load.

    Args:
        ca, ca_file: authorities to trust (PEM) in place of the system's.
        cert, cert_file, key, key_file: a client certificate and its key (PEM).
        ca_ref, cert_ref, key_ref: references to a secret manager; not supported.
        server_name: the name to send (SNI) and to verify; otherwise the target's host.
        insecure_skip_verify: accept any certificate.
        min_version, max_version: ``TLS10`` to ``TLS13``.
    """

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

    @cached_property  # every handshake asks for these three
    def files(self) -> tuple[tuple[str, str], ...]:
        """The settings that name a file, and the paths."""
        named = (("ca", self.ca_file), ("cert", self.cert_file), ("key", self.key_file))
        return tuple([(key, path) for key, path in named if path])

    @cached_property
    def context_key(self) -> tuple[object, ...]:
        """All values but the server name, which belongs to a connection; requests choose it, and would add contexts."""
        return tuple([value for name, value in self if name != "server_name"])

    @cached_property
    def references(self) -> tuple[str, ...]:
        """The keys that are set and refer to a secret manager."""
        return tuple([key for key in ("ca_ref", "cert_ref", "key_ref") if getattr(self, key)])

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.min_version > self.max_version:
            yield "min_version", "greater than `max_version`: every probe of this module will fail"
        for key in self.references:
            yield key, NO_SECRET_MANAGER


def _directory(url: str) -> str:
    if url and not url.lower().startswith(("https://", "http://")):
        raise ValueError("not a URL; expected one like https://acme.example/directory")
    return url


class CertificateSettings(Settings):
    """The keys for a closer look at the certificates of a TLS connection; each makes metrics, all are off by default.

    Args:
        check_revoked: look each certificate of the chain up in the revocation list (CRL) that it names.
        fail_if_revoked: fail the probe if a certificate is revoked; needs ``check_revoked`` or ``ocsp``.
        ocsp: ``stapled`` requests the OCSP response that the server may send with its certificate; ``request`` also
            asks the responders that the certificates of the chain name, unless the server sends a usable response.
        certificate_details: report used lifetime, keys, signatures and certificate transparency logs.
        renewal_directory: the ACME directory of the authority, to report when it wants the certificate to be renewed.
    """

    check_revoked: bool = False
    fail_if_revoked: bool = False
    ocsp: Literal["", "stapled", "request"] = ""
    certificate_details: bool = False
    renewal_directory: Annotated[Text, AfterValidator(_directory)] = ""

    @cached_property  # the runner asks before each probe
    def examines_certificates(self) -> bool:
        """Whether one of the keys is set."""
        return bool(self.check_revoked or self.ocsp or self.certificate_details or self.renewal_directory)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.fail_if_revoked and not (self.check_revoked or self.ocsp):
            yield "fail_if_revoked", "nothing looks for revoked certificates: set `check_revoked` or `ocsp`"


class _Secure(Protocol):
    """A block that has a ``tls_config``."""

    @property
    def tls_config(self) -> TLSSettings: ...
    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


S = TypeVar("S", bound=_Secure)


def with_server_name(settings: S, hostname: str) -> S:
    """Return a block with the request's ``hostname`` as the name to verify, unless ``tls_config`` has one.

    For probers: ``Prober(…, with_hostname=with_server_name)``.
    """
    if settings.tls_config.server_name:
        return settings
    secure = settings.tls_config.model_copy(update={"server_name": hostname})
    return settings.model_copy(update={"tls_config": secure})
