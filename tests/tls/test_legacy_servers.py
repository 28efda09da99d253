"""Handshakes with servers of old devices, which OpenSSL refuses by default and Go, so the original, accepts."""

from __future__ import annotations

import pytest

from probe_exporter.network.connection import Secure
from probe_exporter.network.opening import dial
from probe_exporter.tls.context import ClientContext
from probe_exporter.tls.settings import TLSSettings
from tests.targets import Pki
from tests.targets.peer import a_probe, everything


@pytest.mark.slow
@pytest.mark.parametrize("verified", [True, False])
async def test_server_without_secure_renegotiation_is_accepted(
    pki: Pki, gnutls_without_renegotiation: int, verified: bool
) -> None:
    settings = TLSSettings(ca_file=str(pki.directory / "root.pem"), insecure_skip_verify=not verified)
    secure = Secure(ClientContext(settings, ()), "localhost")
    with await dial(a_probe(), ["127.0.0.1"], gnutls_without_renegotiation, secure=secure) as connection:
        assert connection.handshake is not None
        assert connection.handshake.version == "TLS 1.2"
        assert (connection.handshake.verified is not None) is verified
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await everything(connection)).startswith(b"HTTP/1.0 200")
