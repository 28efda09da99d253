"""`certificate_details` and `renewal_directory` against a TLS server and an ACME directory on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.config.series import metrics_of
from probe_exporter.network.settings import NetworkSettings
from probe_exporter.prober.metrics import Metric
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.protocols.pki import renewal
from probe_exporter.runner import Result, run
from probe_exporter.tls import certificate_details
from tests.cost import short_turns
from tests.targets.authority import Authority, timestamps, tls_server

GENEROUS_SECONDS = 60.0
START, END = "2025-01-02T04:00:00Z", "2025-01-03T04:00:00+00:00"


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    renewal.forget()
    yield
    renewal.forget()


def a_module(authority: Authority, **keys: Any) -> Module:
    written = {"tls": True, "tls_config": {"ca_file": str(authority.ca_file)}} | keys
    return Module("m", prober, TcpSettings.model_validate(written), 0.0, Place("test.yml", 1))


async def probe(authority: Authority, **keys: Any) -> Result:
    async with tls_server(authority.directory) as port:
        result = await run(a_module(authority, **keys), f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    return result


def value(result: Result, metric: Metric) -> float | None:
    return result.probe.samples.plain.get(metric)


async def test_used_part_of_the_lifetime_is_reported(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue(begins=-10.0, lasts=40.0)
    result = await probe(authority, certificate_details=True)
    assert value(result, certificate_details.LIFETIME) == 40 * 86400
    assert value(result, certificate_details.LIFETIME_USED) == pytest.approx(0.25, abs=0.001)
    assert value(result, certificate_details.SHORTEST_LIFETIME_USED) == value(result, certificate_details.LIFETIME_USED)
    assert set(result.probe.samples.labelled[certificate_details.KEY_INFO]) == {
        ("0", "ECDSA secp256r1", "sha256"),
        ("1", "ECDSA secp256r1", "sha256"),
    }
    assert value(result, certificate_details.HAS_ALTERNATIVE_NAMES) == 1
    assert value(result, certificate_details.SCTS) == 0


@pytest.mark.parametrize(
    ("logs", "count", "shown"),
    [
        ([], 0, []),
        ([b"\1" * 32], 1, [b"\1" * 32]),
        ([b"\1" * 32, b"\xff" * 32, b"\1" * 32], 3, [b"\1" * 32, b"\xff" * 32]),
        ([bytes([number]) * 32 for number in range(100)], 100, [bytes([number]) * 32 for number in range(16)]),
    ],
    ids=["none", "one", "two of one log", "more than are reported"],
)
async def test_timestamps_of_transparency_logs_are_counted(
    tmp_path: Path, logs: list[bytes], count: float, shown: list[bytes]
) -> None:
    authority = Authority(tmp_path)
    authority.issue(extensions=[timestamps(*logs)] if logs else [])
    result = await probe(authority, certificate_details=True)
    assert value(result, certificate_details.SCTS) == count
    found = result.probe.samples.labelled.get(certificate_details.SCT_INFO, {})
    assert [labels[0] for labels in found] == [base64.b64encode(log_id).decode() for log_id in shown]


@pytest.mark.parametrize("list_", ["", "0400", "0402 0000", "0403 0001 00", "0404 0002 0001", "0500", "0481ff 00"])
async def test_unreadable_timestamps_count_as_none(tmp_path: Path, list_: str) -> None:
    authority = Authority(tmp_path)
    oid = x509.PrecertificateSignedCertificateTimestamps.oid
    authority.issue(extensions=[x509.UnrecognizedExtension(oid, bytes.fromhex(list_))])
    result = await probe(authority, certificate_details=True, tls_config={"insecure_skip_verify": True})
    assert value(result, certificate_details.SCTS) == 0
    assert certificate_details.SCT_INFO not in result.probe.samples.labelled


async def test_shortest_lifetime_may_be_that_of_the_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)  # its root has used 30 days of 90
    authority.issue(begins=-10.0, lasts=400.0)
    result = await probe(authority, certificate_details=True)
    assert value(result, certificate_details.LIFETIME_USED) == pytest.approx(0.025, abs=0.001)
    assert value(result, certificate_details.SHORTEST_LIFETIME_USED) == pytest.approx(1 / 3, abs=0.001)


async def test_module_without_the_keys_has_none_of_the_metrics(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue()
    result = await probe(authority)
    names = {metric.name for metric in result.probe.samples.families}
    assert names.isdisjoint(metric.name for metric in (*certificate_details.METRICS, *renewal.METRICS))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"check_revoked": True},
        {"ocsp": "stapled"},
        {"certificate_details": True, "renewal_directory": "http://127.0.0.1/"},
    ],
)
def test_declared_metrics_are_those_of_the_keys(tmp_path: Path, keys: dict[str, Any]) -> None:
    authority = Authority(tmp_path)
    names = {metric.name for metric in metrics_of(a_module(authority, **keys))}
    assert ("probe_ssl_crl_revoked" in names) is ("check_revoked" in keys)
    assert ("probe_ssl_ocsp_stapled" in names) is ("ocsp" in keys)
    assert ("probe_ssl_cert_scts" in names) is ("certificate_details" in keys)
    assert (renewal.START.name in names) is ("renewal_directory" in keys)


def _publish(authority: Authority, leaf: x509.Certificate, window: object) -> str:
    """Publish an ACME directory and the renewal information of a certificate; return the path of the latter."""
    path = f"/renewal-info/{renewal.identifier(leaf)}"
    authority.pages["/directory"] = json.dumps({"renewalInfo": authority.url("/renewal-info")}).encode()
    authority.pages[path] = json.dumps({"suggestedWindow": window}).encode()
    return path


async def test_renewal_window_is_asked_once_and_kept(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        path = _publish(authority, authority.issue(), {"start": START, "end": END})
        results = [await probe(authority, renewal_directory=authority.url("/directory")) for _ in range(2)]
    assert [(value(one, renewal.START), value(one, renewal.END)) for one in results] == [(1735790400, 1735876800)] * 2
    assert authority.requests == ["/directory", path]


@pytest.mark.parametrize(
    "window",
    [
        None,
        {},
        {"start": START},
        {"start": START, "end": "tomorrow"},
        {"start": 1, "end": 2},
        {"start": "2025-01-02T00:00", "end": END},
        {"start": END, "end": START},
        {"start": START, "end": START},
        {"start": START, "end": "9" * 100},
        {"start": ["2025"], "end": END},
        [START, END],
    ],
)
async def test_unusable_renewal_information_is_logged(tmp_path: Path, window: object) -> None:
    async with Authority(tmp_path) as authority:
        _publish(authority, authority.issue(), window)
        result = await probe(authority, renewal_directory=authority.url("/directory"))
    assert value(result, renewal.START) is None
    assert [event.message for event in result.probe.events].count("No renewal information") == 1


async def test_authority_without_renewal_information_is_logged(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue()
        authority.pages["/directory"] = b"{}"
        result = await probe(authority, renewal_directory=authority.url("/directory"))
    [event] = [event for event in result.probe.events if event.message == "No renewal information"]
    assert event.fields["err"] == "the directory has no renewalInfo"


HOSTILE: dict[str, bytes | str] = {
    "not found": "/missing",
    "a redirect without end": "/directory",
    "a redirect to a denied host": "http://127.0.0.2/directory",
    "a redirect to another scheme": "file:///etc/passwd",
    "too large": b" " * (renewal.MAX_DOCUMENT_BYTES + 1),
    "nested": b"[" * renewal.MAX_DOCUMENT_BYTES,
    "objects": b'{"a":' * 10_000,
    "a long number": b"9" * renewal.MAX_DOCUMENT_BYTES,
    "many keys": b"{" + b",".join(b'"%d":0' % number for number in range(6_000)) + b"}",
    "not UTF-8": b'{"renewalInfo": "\xff"}',
    "no object": b"null",
    "a list": b'{"renewalInfo": ["http://127.0.0.1/"]}',
    "no URL": b'{"renewalInfo": "renewal"}',
    "another scheme": b'{"renewalInfo": "file:///etc"}',
    "a denied host": b'{"renewalInfo": "http://127.0.0.2/"}',
    "a long URL": b'{"renewalInfo": "http://127.0.0.1/' + b"a" * 60_000 + b'"}',
    "a URL with a line break": b'{"renewalInfo": "http://127.0.0.1/\\r\\nX: y"}',
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.slow
async def test_hostile_directory_is_logged_in_short_turns(tmp_path: Path, kind: str) -> None:
    policy = NetworkSettings.model_validate({"targets": {"deny": ["127.0.0.2"]}}).policy()
    async with Authority(tmp_path) as authority:
        authority.issue()
        authority.pages["/directory"] = HOSTILE[kind]
        module = replace(a_module(authority, renewal_directory=authority.url("/directory")), network=policy)
        async with tls_server(tmp_path) as port:
            with short_turns():
                result = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert result.failure is None
    assert value(result, renewal.START) is None
    [event] = [event for event in result.probe.events if event.message == "No renewal information"]
    assert 0 < len(str(event.fields["err"])) < 500


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("silent", ["directory", "window"])
@pytest.mark.slow
async def test_silent_authority_does_not_fail_the_probe(tmp_path: Path, silent: str) -> None:
    async with Authority(tmp_path) as authority:
        path = _publish(authority, authority.issue(), {"start": START, "end": END})
        authority.pages["/directory" if silent == "directory" else path] = None
        result = await probe(authority, renewal_directory=authority.url("/directory"))
    assert value(result, renewal.START) is None
    assert [event.message for event in result.probe.events].count("No renewal information") == 1


def test_identifier_is_that_of_the_example_in_the_rfc() -> None:
    """RFC 9773, section 4.1 has a certificate whose serial number begins with a bit that needs a zero before it."""
    key_id = bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")
    authority_key = x509.AuthorityKeyIdentifier(key_id, None, None)

    class Shown:
        serial_number = 0x87654321

        class extensions:  # noqa: N801  # the name is that of the library
            @staticmethod
            def get_extension_for_class(_: object) -> Any:
                return x509.Extension(authority_key.oid, False, authority_key)

    certificate: Any = Shown()
    assert renewal.identifier(certificate) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


def test_directory_that_is_no_url_is_refused_at_load() -> None:
    with pytest.raises(ValueError, match="expected one like https://"):
        TcpSettings.model_validate({"renewal_directory": "acme.example/directory"})


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 21600), ("21600", 21600), ("1", 60), ("9999999", 86400), ("Fri, 31 Dec 1999 23:59:59 GMT", 21600)],
)
def test_window_is_kept_within_limits(header: str | None, seconds: float) -> None:
    assert renewal._kept_seconds(header) == seconds
