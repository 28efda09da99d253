"""The exposition of a probe with every key of `CertificateSettings`, pinned; and that the keys reach every prober."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import AuthorityInformationAccessOID

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.exposition.encoding import encode
from probe_exporter.probers.http import HttpSettings
from probe_exporter.probers.http import prober as http
from probe_exporter.protocols.pki import renewal
from probe_exporter.protocols.pki.responders import answers
from probe_exporter.protocols.pki.revocation_lists import lists
from probe_exporter.runner import run
from probe_exporter.tls.settings import CertificateSettings, TLSSettings
from tests.modules.library import PROBERS
from tests.peers.golden import hold
from tests.targets.authority import Authority, timestamps, tls_server

GOLDEN = Path(__file__).parents[2] / "golden" / "pki" / "examined.txt"


async def test_exposition_with_every_key(tmp_path: Path) -> None:
    lists.forget()
    answers.forget()
    renewal.forget()
    async with Authority(tmp_path) as authority:
        where = x509.UniformResourceIdentifier(authority.url("/ocsp"))
        access = x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, where)])
        stamps = timestamps(b"\1" * 32, b"\2" * 32, b"\2" * 32)
        leaf = authority.issue(authority.url("/list"), extensions=[access, stamps])
        authority.pages |= {
            "/list": authority.crl(leaf.serial_number),
            "/ocsp": authority.status(leaf, revoked=True),
            "/directory": json.dumps({"renewalInfo": authority.url("/renew")}).encode(),
            f"/renew/{renewal.identifier(leaf)}": json.dumps(
                {"suggestedWindow": {"start": "2025-01-02T04:00:00Z", "end": "2025-01-03T04:00:00Z"}}
            ).encode(),
        }
        keys = {
            "tls_config": {"ca_file": str(authority.ca_file)},
            "check_revoked": True,
            "fail_if_revoked": True,
            "ocsp": "request",
            "certificate_details": True,
            "renewal_directory": authority.url("/directory"),
        }
        module = Module("m", http, HttpSettings.model_validate(keys), 0.0, Place("test.yml", 1))
        async with tls_server(tmp_path, answer=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as port:
            result = await run(module, f"https://127.0.0.1:{port}/", 60.0)
    text = encode(result.probe.samples).decode()
    lines = [line for line in text.splitlines() if re.search(r"probe_(ssl|success|failure)", line)]
    hold(GOLDEN, _without_what_changes("\n".join(lines), authority, leaf) + "\n")


def _without_what_changes(text: str, authority: Authority, leaf: x509.Certificate) -> str:
    for name, one in {"leaf": leaf, "root": authority.root}.items():
        text = text.replace(one.fingerprint(hashes.SHA256()).hex(), f"<sha256 of {name}>")
        text = re.sub(rf'"0*{one.serial_number:x}"', f'"<serial number of {name}>"', text)
    text = text.replace(str(authority.port), "<port>")
    return re.sub(r"^(\S*(?:_seconds|_expiry|_ratio)\b(?:\{.*\})?) \S+$", r"\1 <number>", text, flags=re.MULTILINE)


@pytest.mark.parametrize("name", sorted(PROBERS))
def test_prober_with_tls_takes_the_keys(name: str) -> None:
    """The block of websocket has its TLS settings one level deeper, in `http_config`."""
    settings = PROBERS[name].settings
    has_tls = any(field.annotation is TLSSettings for field in settings.model_fields.values())
    takes = issubclass(settings, CertificateSettings)
    assert takes is (has_tls or name in ("websocket", "certificate_file"))
