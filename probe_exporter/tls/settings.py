"""The ``tls_config`` block of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from probe_exporter.fields import FilePath, Secret, Text
from probe_exporter.prober import Settings
from probe_exporter.rules import NO_SECRET_MANAGER, exclusive, needs

TLSVersion = Literal["TLS10", "TLS11", "TLS12", "TLS13"]

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
