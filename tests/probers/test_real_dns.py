"""The dns prober against BIND 9: every record type, signed and unsigned zones, refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import dns
from probe_exporter.probers.dns import DnsSettings, prober
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.outcomes import reason_of
from tests.servers.bind import DATA, DELEGATION, LARGE, PLAIN, SERIAL, SIGNED, Bind, owner
from tests.targets import Pki

pytestmark = pytest.mark.slow

TRANSPORTS: dict[str, dict[str, Any]] = {
    "udp": {},
    "tcp": {"transport_protocol": "tcp"},
    "tls": {"transport_protocol": "tcp", "dns_over_tls": True},
}
ALL = pytest.mark.parametrize("transport", TRANSPORTS)


async def ask(bind: Bind, pki: Pki, name: str, type_: str, transport: str = "udp", **settings: Any) -> Result:
    """Send one query to the server. Its certificate is trusted."""
    block: dict[str, Any] = {
        "query_name": name, "query_type": type_, **TRANSPORTS[transport],
        "tls_config": {"ca_file": str(pki.directory / "root.pem")}, **settings,
    }  # fmt: skip
    port = bind.tls_port if transport == "tls" else bind.port
    return await run(Module("m", prober, DnsSettings.model_validate(block), 0.0, Place("t")), f"127.0.0.1:{port}", 20.0)


def counted(result: Result) -> tuple[float, ...]:
    """Return the number of records in the answer, authority and additional section."""
    return tuple(result.probe.samples.get(one) for one in (dns.ANSWER_RRS, dns.AUTHORITY_RRS, dns.ADDITIONAL_RRS))


def only(*texts: str) -> dict[str, list[str]]:
    """Return a validator: every record must be one of these texts."""
    one_of = "|".join(re.escape(text).replace(r"\	", r"\t") for text in texts)
    return {"fail_if_not_matches_regexp": [f"^(?:{one_of})$"]}


@pytest.mark.parametrize("type_", DATA)
async def test_record_of_every_type_is_read_as_written(type_: str, bind: Bind, pki: Pki) -> None:
    texts = [f"{owner(type_)}\t300\tIN\t{type_}\t{data}" for data in DATA[type_]]
    result = await ask(bind, pki, owner(type_), type_, "tcp", validate_answer_rrs=only(*texts))
    assert reason_of(result) is None, result.failure
    assert counted(result)[0] == len(texts)


@ALL
async def test_soa_serial_is_reported(transport: str, bind: Bind, pki: Pki) -> None:
    result = await ask(bind, pki, PLAIN, "SOA", transport)
    assert reason_of(result) is None
    assert result.probe.samples.get(dns.SERIAL) == SERIAL
    assert (metrics.CERTIFICATE_INFO in result.probe.samples.labelled) == (transport == "tls")


@ALL
async def test_missing_name_is_nxdomain(transport: str, bind: Bind, pki: Pki) -> None:
    result = await ask(bind, pki, f"nobody.{PLAIN}", "A", transport)
    assert (reason_of(result), counted(result)) == (Reason.DNS_RCODE, (0, 1, 0))
    assert result.probe.samples.get(dns.QUERY_SUCCEEDED) == 1
    soa = {"fail_if_not_matches_regexp": [rf"^{PLAIN}\.\t300\tIN\tSOA\tns\.{PLAIN}\. host\.{PLAIN}\. {SERIAL} "]}
    expected = {"valid_rcodes": ["NXDOMAIN"], "validate_authority_rrs": soa}
    assert reason_of(await ask(bind, pki, f"nobody.{PLAIN}", "A", transport, **expected)) is None


async def test_missing_type_is_an_empty_answer(bind: Bind, pki: Pki) -> None:
    result = await ask(bind, pki, f"a.{PLAIN}", "MX")
    assert (reason_of(result), counted(result)) == (None, (0, 1, 0))
    result = await ask(bind, pki, f"a.{PLAIN}", "MX", validate_answer_rrs={"fail_if_none_matches_regexp": ["."]})
    assert reason_of(result) is Reason.DNS_ANSWER_MISMATCH


async def test_any_query_returns_all_records(bind: Bind, pki: Pki) -> None:
    """ANY is the default of `query_type`."""
    result = await ask(bind, pki, f"mx.{PLAIN}", "ANY", "tcp", validate_answer_rrs=only(
        *(f"mx.{PLAIN}.\t300\tIN\tMX\t{data}" for data in DATA["MX"])))  # fmt: skip
    assert (reason_of(result), counted(result)[0]) == (None, 2)


@pytest.mark.parametrize("type_", ["AXFR", "IXFR"])
async def test_zone_transfer_is_refused(type_: str, bind: Bind, pki: Pki) -> None:
    assert reason_of(await ask(bind, pki, PLAIN, type_, "tcp")) is Reason.DNS_RCODE
    assert reason_of(await ask(bind, pki, PLAIN, type_, "tcp", valid_rcodes=["REFUSED"])) is None


@ALL
async def test_foreign_zone_is_refused(transport: str, bind: Bind, pki: Pki) -> None:
    result = await ask(bind, pki, "www.elsewhere.test", "A", transport)
    assert result.failure is not None
    assert result.failure.reason is Reason.DNS_RCODE
    assert "REFUSED" in result.failure.message


async def test_delegation_is_in_authority_and_additional_sections(bind: Bind, pki: Pki) -> None:
    servers, addresses = (line.replace("cut\t", f"cut.{PLAIN}.\t") for line in DELEGATION)
    result = await ask(
        bind, pki, f"www.cut.{PLAIN}", "A", recursion_desired=False,
        validate_authority_rrs=only(f"{servers}.{PLAIN}."), validate_additional_rrs=only(addresses),
    )  # fmt: skip
    assert (reason_of(result), counted(result)) == (None, (0, 1, 1))


@ALL
async def test_large_answer_is_truncated_over_udp_alone(transport: str, bind: Bind, pki: Pki) -> None:
    """The query has no EDNS size, and the prober does not retry over TCP, as the original doesn't."""
    result = await ask(bind, pki, f"large.{PLAIN}", "TXT", transport)
    assert reason_of(result) is None
    assert (counted(result)[0] == len(LARGE)) == (transport != "udp")


@pytest.mark.parametrize(
    ("name", "type_", "demanded"),
    [
        (SIGNED, "DNSKEY", [r"\tDNSKEY\t257 3 13 [\w+/]{86}==$", r"\tDNSKEY\t256 3 13 "]),
        (f"a.{SIGNED}", "RRSIG", [r"\tRRSIG\tA 13 3 300 \d{14} \d{14} \d+ signed\.test\. [\w+/]{86}==$"]),
        (f"mx.{SIGNED}", "NSEC", [rf"^mx\.{SIGNED}\.\t300\tIN\tNSEC\tns\.{SIGNED}\. MX RRSIG NSEC$"]),
    ],
)
async def test_signed_zone_has_keys_and_signatures(
    name: str, type_: str, demanded: list[str], bind: Bind, pki: Pki
) -> None:
    for regexp in demanded:
        validator = {"fail_if_none_matches_regexp": [regexp]}
        result = await ask(bind, pki, name, type_, "tcp", validate_answer_rrs=validator)
        assert reason_of(result) is None, result.failure
    result = await ask(bind, pki, name.replace(SIGNED, PLAIN), type_, "tcp")
    assert (reason_of(result), counted(result)[0]) == (None, 0)


async def test_server_version_is_read_in_class_chaos(bind: Bind, pki: Pki) -> None:
    validator = {"fail_if_not_matches_regexp": [r'^version\.bind\.\t0\tCH\tTXT\t"9\.']}
    result = await ask(bind, pki, "version.bind", "TXT", query_class="CH", validate_answer_rrs=validator)
    assert reason_of(result) is None


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tls_config": {}}, Reason.CERTIFICATE_UNKNOWN_AUTHORITY),
        ({"tls_config": {"insecure_skip_verify": True}}, None),
        ({"dns_over_tls": False}, Reason.CONNECT_CLOSED),
    ],
)
async def test_dns_over_tls_certificate_is_verified(
    settings: dict[str, Any], reason: Reason | None, bind: Bind, pki: Pki
) -> None:
    assert reason_of(await ask(bind, pki, PLAIN, "SOA", "tls", **settings)) is reason
