"""SSL_CERT_FILE and SSL_CERT_DIR make both exporters trust the same authorities."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import exporters
from tests.exporters import Start
from tests.targets import Pki, Site, Tls, reply

pytestmark = pytest.mark.slow

MODULES = """
modules:
  http: {prober: http, timeout: 60s, http: {preferred_ip_protocol: ip4}}
  tcp: {prober: tcp, timeout: 60s, tcp: {tls: true, preferred_ip_protocol: ip4}}
"""
VERDICTS: Mapping[str, tuple[Mapping[str, str], bool]] = {
    "the system's own": ({}, False),
    "a file": ({"SSL_CERT_FILE": "pki/root.pem"}, True),
    "a file with an intermediate certificate": ({"SSL_CERT_FILE": "pki/intermediate.pem"}, True),
    "a file of another": ({"SSL_CERT_FILE": "pki/self_signed.pem"}, False),
    "a file without certificates": ({"SSL_CERT_FILE": "modules.yml"}, False),
    "a directory without links": ({"SSL_CERT_DIR": "mounted"}, True),
    "a directory with a file that has another hash for a name": ({"SSL_CERT_DIR": "hashed"}, True),
    "several directories": ({"SSL_CERT_DIR": "nowhere:empty:mounted"}, True),
    "an empty directory": ({"SSL_CERT_DIR": "empty"}, False),
    "a directory and a file": ({"SSL_CERT_FILE": "pki/self_signed.pem", "SSL_CERT_DIR": "mounted"}, True),
}
"""Environment variables, and whether a certificate of our authority verifies."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working directory of both, with certificates."""
    directory = tmp_path_factory.mktemp("authorities")
    for name in ("pki", "empty", "mounted", "hashed"):
        (directory / name).mkdir()
    pki = Pki(directory / "pki").directory
    shutil.copy(pki / "root.pem", directory / "mounted" / "my-ca.crt")
    shutil.copy(pki / "root.pem", directory / "hashed" / "0123abcd.0")
    shutil.copy(pki / "self_signed.pem", directory / "hashed" / "latin1-\udcff.pem")
    (directory / "modules.yml").write_text(MODULES)
    return directory


def verdicts(start: Start, directory: Path, environment: Mapping[str, str]) -> tuple[bool, ...]:
    """Return whether a probe by each module succeeds."""

    async def ask() -> tuple[bool, ...]:
        async with Site({"/": reply(200, b"ok")}, Tls(), directory / "pki") as site:
            targets = {"http": site.fill("https://localhost:{tls_port}/"), "tcp": site.fill("localhost:{tls_port}")}
            pages = [await running.probe(module, target) for module, target in targets.items()]
        return tuple(["\nprobe_success 1\n" in page.text for page in pages])

    with start(directory, "--config.file=modules.yml", **environment) as running:
        return asyncio.run(ask())


@pytest.mark.parametrize("name", VERDICTS)
def test_certificate_gets_the_same_verdict(directory: Path, name: str) -> None:
    environment, expected = VERDICTS[name]
    assert verdicts(exporters.original, directory, environment) == (expected, expected)
    assert verdicts(exporters.ours, directory, environment) == (expected, expected)
