"""A port for each kind of certificate and each version of TLS: the reason of each failure, and that the certificate is
shown whether it verifies or not."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.outcomes import why
from tests.targets import Pki
from tests.targets.scripted_server import ScriptedServer, Secure, then_silence

ROOT = {"ca_file": "root.pem"}
CLIENT = {"cert_file": "client.pem", "key_file": "client.key"}
STRANGER = {"cert_file": "foreign_client.pem", "key_file": "foreign_client.key"}
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


@dataclass(frozen=True)
class Kind:
    """One animal: how the server speaks TLS, what the module says of it, and what comes of it.

    Attributes:
        errors: the values of ``probe_ssl_verify_error_info``.
    """

    server: Secure
    reason: Reason | None
    errors: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=lambda: ROOT)
    target: str = "127.0.0.1:{port}"
    version: str = "TLS 1.3"


ZOO = {
    "good": Kind(Secure(), None),
    "good by its name": Kind(Secure("localhost_only"), None, target="localhost:{port}"),
    "good by a wildcard": Kind(Secure("wildcard"), None, config={**ROOT, "server_name": "a.example.test"}),
    "good with RSA": Kind(Secure("rsa"), None),
    "expired": Kind(Secure("expired"), Reason.CERTIFICATE_EXPIRED, {"expired"}),
    "not yet valid": Kind(Secure("not_yet_valid"), Reason.CERTIFICATE_NOT_YET_VALID, {"not_yet_valid"}),
    "wrong name": Kind(Secure("wrong_name"), Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
    "wrong address": Kind(Secure("localhost_only"), Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}),
    "name in the subject alone": Kind(
        Secure("common_name_only"), Reason.CERTIFICATE_WRONG_NAME, {"wrong_name"}, target="localhost:{port}"
    ),
    "self-signed": Kind(Secure("self_signed"), Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    "self-signed and trusted": Kind(Secure("self_signed"), None, config={"ca_file": "self_signed.pem"}),
    "unknown root": Kind(Secure("unknown_root"), Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}),
    "expired intermediate": Kind(Secure("by_old_intermediate"), Reason.CERTIFICATE_EXPIRED, {"expired"}),
    "signed by a certificate that is no authority": Kind(
        Secure("by_pretender"), Reason.CERTIFICATE_INVALID, {"not_an_authority", "wrong_purpose"}
    ),
    "for clients only": Kind(Secure("for_clients"), Reason.CERTIFICATE_INVALID, {"wrong_purpose"}),
    "intermediate missing": Kind(
        Secure("no_intermediate"), Reason.CERTIFICATE_UNKNOWN_AUTHORITY, {"unknown_authority"}
    ),
    "intermediate as ca_file": Kind(Secure("no_intermediate"), None, config={"ca_file": "intermediate.pem"}),
    "expired and not verified": Kind(Secure("expired"), None, config={"insecure_skip_verify": True}),
    "client certificate required": Kind(Secure(client_ca="root"), None, config={**ROOT, **CLIENT}),
    "client certificate required over TLS 1.2": Kind(
        Secure(client_ca="root", maximum=TLS_1_2), None, config={**ROOT, **CLIENT}, version="TLS 1.2"
    ),
    "1.2 only": Kind(Secure(maximum=TLS_1_2), None, version="TLS 1.2"),
    "1.3 only": Kind(Secure(minimum=TLS_1_3), None),
    "1.2 only, expired": Kind(
        Secure("expired", maximum=TLS_1_2), Reason.CERTIFICATE_EXPIRED, {"expired"}, version="TLS 1.2"
    ),
}

REFUSED = {
    "no client certificate over TLS 1.2": Kind(Secure(client_ca="root", maximum=TLS_1_2), Reason.TLS_HANDSHAKE),
    "unknown client certificate over TLS 1.2": Kind(
        Secure(client_ca="root", maximum=TLS_1_2), Reason.TLS_HANDSHAKE, config={**ROOT, **STRANGER}
    ),
    "1.2 only, and 1.3 required": Kind(
        Secure(maximum=TLS_1_2), Reason.TLS_HANDSHAKE, config={**ROOT, "min_version": "TLS13"}
    ),
    "1.3 only, and 1.2 required": Kind(
        Secure(minimum=TLS_1_3), Reason.TLS_HANDSHAKE, config={**ROOT, "max_version": "TLS12"}
    ),
}
"""Kinds whose handshake fails."""


async def probe(kind: Kind, pki: Pki, **settings: Any) -> Result:
    """Probe a server of this kind."""
    config = {key: str(pki.directory / value) if key.endswith("_file") else value for key, value in kind.config.items()}
    block = TcpSettings.model_validate({"tls": True, "tls_config": config, "preferred_ip_protocol": "ip4", **settings})
    async with ScriptedServer(then_silence(kind.server, b"220 ready\r\n"), pki.directory) as scripted:
        return await run(Module("m", prober, block, 0.0, Place("t")), scripted.fill(kind.target), 20.0)


@pytest.mark.parametrize("name", ZOO)
async def test_certificate_is_verified_and_reported(name: str, pki: Pki) -> None:
    kind = ZOO[name]
    result = await probe(kind, pki)
    assert why(result) == (None if kind.reason is None else (kind.reason, "tls"))
    labelled = result.probe.samples.labelled
    sent = x509.load_pem_x509_certificates((pki.directory / f"{kind.server.certificate}.pem").read_bytes())
    ((fingerprint, *_),) = labelled[metrics.CERTIFICATE_INFO]
    assert fingerprint == sent[0].fingerprint(hashes.SHA256()).hex()
    earliest = min(one.not_valid_after_utc for one in sent).timestamp()
    assert result.probe.samples.get(metrics.EARLIEST_EXPIRY) == earliest
    assert list(labelled[metrics.VERSION_INFO]) == [(kind.version,)]
    assert {error for (error,) in labelled.get(metrics.VERIFY_ERROR_INFO, {})} == kind.errors


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_handshake_has_its_reason(name: str, pki: Pki) -> None:
    result = await probe(REFUSED[name], pki)
    assert why(result) == (REFUSED[name].reason, "tls")


@pytest.mark.parametrize("config", [ROOT, {**ROOT, **STRANGER}])
async def test_client_refused_over_tls_1_3_learns_it_when_reading(config: dict[str, str], pki: Pki) -> None:
    """The server verifies the client's certificate after the client has finished the handshake (RFC 8446, 2)."""
    kind = Kind(Secure(client_ca="root"), None, config=config)
    assert why(await probe(kind, pki)) is None
    result = await probe(kind, pki, query_response=[{"expect": "^220 "}])
    assert why(result) == (Reason.TLS_HANDSHAKE, "dialogue")
