"""`check_revoked` against a TLS server on loopback, and an authority that publishes good and bad revocation lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history.debug_page import debug_page
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.network.settings import NetworkSettings
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.http import HttpSettings
from probe_exporter.probers.http import prober as http_prober
from probe_exporter.probers.tcp import TcpSettings, prober
from probe_exporter.probers.websocket import WebsocketSettings
from probe_exporter.protocols.http.settings import HttpClientSettings
from probe_exporter.protocols.pki import crl_check, revocation_lists
from probe_exporter.protocols.pki.fetching import DIRECT, client_of, fetch
from probe_exporter.protocols.pki.revocation_lists import lists
from probe_exporter.runner import Result, run
from tests.cost import short_turns
from tests.targets import Site
from tests.targets.authority import PEM, Authority, tls_server
from tests.targets.http3 import Quic
from tests.targets.http3 import reply as reply3
from tests.waiting import until

GENEROUS_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _nothing_is_kept() -> Iterator[None]:
    lists.forget()
    yield
    lists.forget()


def a_module(authority: Authority, policy: NetworkSettings | None = None, **keys: Any) -> Module:
    written = {"tls": True, "tls_config": {"ca_file": str(authority.ca_file)}, "check_revoked": True} | keys
    network = None if policy is None else policy.policy()
    return Module("m", prober, TcpSettings.model_validate(written), 0.0, Place("test.yml", 1), network=network)


async def probe(authority: Authority, timeout: float = GENEROUS_SECONDS, **keys: Any) -> Result:
    async with tls_server(authority.directory) as port:
        return await run(a_module(authority, **keys), f"127.0.0.1:{port}", timeout)


def of_leaf(result: Result) -> dict[str, object]:
    """Return what is known of the peer's own certificate: by metric, and its ``crl_url``."""
    found: dict[str, object] = {}
    for metric in (crl_check.AVAILABLE, crl_check.REVOKED, crl_check.STALE, crl_check.NEXT_UPDATE):
        for labels, value in result.probe.samples.labelled.get(metric, {}).items():
            if labels[5] == "0":
                found[metric.name.removeprefix("probe_ssl_crl_")] = value
                found["url"] = labels[6]
    return found


def faults(result: Result) -> set[tuple[str, str]]:
    """Return what the report says is wrong with certificates: subject and fault."""
    shown: list[Any] = [one.data(str) for one in result.probe.evidence]
    return {(one["subject"], error) for peer in shown for one in peer["certificates"] for error in one["errors"]}


GONE = {"available": 0, "revoked": 0, "stale": 0}


@pytest.mark.parametrize("encoding", [None, PEM], ids=["der", "pem"])
async def test_certificate_that_is_on_no_list_is_good(tmp_path: Path, encoding: Any) -> None:
    async with Authority(tmp_path) as authority:
        leaf = authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl(1, 2, 3, **({"encoding": encoding} if encoding else {}))
        result = await probe(authority)
    assert result.failure is None
    shown = of_leaf(result)
    assert shown.pop("next_update_timestamp_seconds") == pytest.approx(result.started + 86400, abs=60)
    assert shown == {"available": 1, "revoked": 0, "stale": 0, "url": authority.url("/list")}
    labels = next(iter(result.probe.samples.labelled[crl_check.AVAILABLE]))
    assert labels[1:4] == ("CN=leaf", "CN=root", "localhost")
    assert int(labels[4], 16) == leaf.serial_number


async def test_root_is_its_own_issuer_and_has_no_list(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl()
        result = await probe(authority)
    root = [labels for labels in result.probe.samples.labelled[crl_check.AVAILABLE] if labels[5] == "1"]
    assert [(labels[1], labels[6]) for labels in root] == [("CN=root", "")]
    assert result.probe.samples.labelled[crl_check.AVAILABLE][root[0]] == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_revoked_certificate_fails_the_probe_only_on_demand(tmp_path: Path, *, fails: bool) -> None:
    async with Authority(tmp_path) as authority:
        leaf = authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl(7, leaf.serial_number, 9)
        result = await probe(authority, fail_if_revoked=fails)
    assert of_leaf(result)["revoked"] == 1
    assert faults(result) == {("CN=leaf", "revoked_by_crl")}
    if not fails:
        assert result.failure is None
        return
    assert result.failure is not None
    assert result.failure.reason is Reason.CERTIFICATE_REVOKED
    assert f"{leaf.serial_number:x}" in result.failure.message
    assert result.phase == "certificates"


@pytest.mark.parametrize("fails", [False, True])
async def test_certificate_of_http3_is_looked_up(tmp_path: Path, *, fails: bool) -> None:
    async with Authority(tmp_path) as authority:
        leaf = authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl(leaf.serial_number)
        tls = {"ca_file": str(authority.ca_file)}
        keys = {"enable_http3": True, "enable_http2": False, "preferred_ip_protocol": "ip4", "tls_config": tls}
        settings = HttpSettings.model_validate({**keys, "check_revoked": True, "fail_if_revoked": fails})
        module = Module("m", http_prober, settings, 0.0, Place("test.yml", 1))
        async with Site({"/": reply3(200, b"ok")}, pki=tmp_path, quic=Quic()) as site:
            result = await run(module, site.fill("https://localhost:{quic_port}/"), GENEROUS_SECONDS)
    assert of_leaf(result)["revoked"] == 1
    assert faults(result) == {("CN=leaf", "revoked_by_crl")}
    [shown] = [one.data(str) for one in result.probe.evidence]
    assert shown["address"] == "127.0.0.1"
    assert (result.failure is not None) == fails
    assert result.failure is None or result.failure.reason is Reason.CERTIFICATE_REVOKED


async def test_stale_list_is_used_and_said_to_be_stale(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl(begins=-3, ends=-1)
        result = await probe(authority)
        assert of_leaf(result) | {"next_update_timestamp_seconds": 0, "url": ""} == {
            "available": 1, "revoked": 0, "stale": 1, "next_update_timestamp_seconds": 0, "url": "",
        }  # fmt: skip
        assert faults(result) == {("CN=leaf", "stale_crl")}
        page = debug_page(result, ProbeLog(logging.DEBUG, "logfmt"))
        [line] = [line for line in page.splitlines() if "The revocation list is past its next update" in line]
        assert "level=WARN" in line
        assert f"url={authority.url('/list')} next_update=" in line
        await probe(authority)
    assert authority.requests == ["/list"] * 2, "a stale list is not kept"


@pytest.mark.parametrize(
    ("paths", "usable"),
    [([], True), (["/list"], True), (["/other"], False), (["/other", "/list"], True), (["/alias"], True)],
)
async def test_list_for_other_distribution_points_is_not_used(
    tmp_path: Path, paths: list[str], *, usable: bool
) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"), authority.url("/alias"))
        names = [x509.UniformResourceIdentifier(authority.url(path)) for path in paths]
        point = x509.IssuingDistributionPoint(names or None, None, not names, False, None, False, False)
        authority.pages["/list"] = authority.crl(extensions=[point])
        results = [await probe(authority) for _ in range(2)]
    assert [of_leaf(one)["available"] for one in results] == [1 if usable else 0] * 2, "fetched, and kept"
    messages = [event.message for event in results[1].probe.events]
    assert ("Skipping a list for other distribution points" in messages) is not usable


def _bad_pages(authority: Authority) -> dict[str, Any]:
    base = x509.DeltaCRLIndicator(1)
    return {
        "signed by a stranger": authority.crl(key=ec.generate_private_key(ec.SECP256R1())),
        "not yet valid": authority.crl(begins=1, ends=2),
        "no list": b"<html>not found</html>",
        "empty": b"",
        "a delta": authority.crl(extensions=[base]),
        "too large": b"\0" * (revocation_lists.MAX_LIST_BYTES + 1),
    }


@pytest.mark.parametrize(
    "kind", ["signed by a stranger", "not yet valid", "no list", "empty", "a delta", "too large", "missing"]
)
async def test_unusable_list_counts_as_none_and_the_next_point_is_tried(tmp_path: Path, kind: str) -> None:
    async with Authority(tmp_path) as authority:
        leaf = authority.issue(authority.url("/bad"), authority.url("/good"))
        if kind != "missing":
            authority.pages["/bad"] = _bad_pages(authority)[kind]
        result = await probe(authority)
        assert result.failure is None
        assert of_leaf(result) == GONE | {"url": authority.url("/good")}, "the last point tried"
        authority.pages["/good"] = authority.crl(leaf.serial_number)
        again = await probe(authority)
    assert of_leaf(again)["revoked"] == 1
    assert of_leaf(again)["url"] == authority.url("/good")


@pytest.mark.slow
async def test_large_list_is_read_in_a_helper_process(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        leaf = authority.issue(authority.url("/list"))
        authority.pages["/list"] = large = authority.crl(*range(1 << 70, (1 << 70) + 30000), leaf.serial_number)
        assert len(large) > revocation_lists.MAX_INLINE_BYTES
        with short_turns():
            result = await probe(authority)
    assert of_leaf(result)["revoked"] == 1


@pytest.mark.parametrize("size", [revocation_lists.MAX_INLINE_BYTES, revocation_lists.MAX_LIST_BYTES])
async def test_junk_of_any_size_is_fetched_in_short_turns(tmp_path: Path, size: int) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = b"0" * size
        with short_turns():
            result = await probe(authority)
    assert of_leaf(result) == GONE | {"url": authority.url("/list")}
    assert any("the list can't be read" in str(event.fields.get("err")) for event in result.probe.events)


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_slow_list_does_not_fail_the_probe(tmp_path: Path) -> None:
    """The server never answers; the examination ends before the probe's deadline, and the probe succeeds."""
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/slow"), authority.url("/slow"))
        authority.pages["/slow"] = None
        result = await probe(authority)
    assert of_leaf(result) == GONE | {"url": authority.url("/slow")}
    assert result.probe.samples.get(crl_check.FETCH_TIME) > 0
    assert result.failure is None


async def test_redirect_to_a_denied_host_is_not_followed(tmp_path: Path) -> None:
    policy = NetworkSettings.model_validate({"targets": {"deny": ["127.0.0.2"]}})
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = f"http://127.0.0.2:{authority.port}/secret"
        result = await probe(authority, policy=policy)
    assert result.failure is None
    assert of_leaf(result) == GONE | {"url": authority.url("/list")}
    assert authority.requests == ["/list"]
    assert any("127.0.0.2" in str(event.fields.get("err")) for event in result.probe.events)


async def test_points_of_other_schemes_are_skipped_and_logged(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue("ldap://127.0.0.1/cn=list", "file:///etc/passwd", authority.url("/list"))
        authority.pages["/list"] = authority.crl()
        result = await probe(authority)
    assert of_leaf(result)["available"] == 1
    skipped = [event.fields["scheme"] for event in result.probe.events if "Skipping a distribution" in event.message]
    assert skipped == ["ldap", "file"]


async def test_kept_list_is_fetched_once_for_many_probes(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl()
        async with tls_server(tmp_path) as port:
            module = a_module(authority)
            together = await asyncio.gather(*[run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS) for _ in range(8)])
            later = await run(module, f"127.0.0.1:{port}", GENEROUS_SECONDS)
    assert authority.requests == ["/list"]
    assert [of_leaf(one)["available"] for one in [*together, later]] == [1] * 9
    assert later.probe.samples.get(crl_check.FETCH_TIME) == 0


async def test_cancelled_probe_does_not_end_the_request_of_another(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl()
        async with tls_server(tmp_path) as port:
            tasks = [
                asyncio.create_task(run(a_module(authority), f"127.0.0.1:{port}", GENEROUS_SECONDS)) for _ in range(2)
            ]
            await until(lambda: [one for one in lists._fetches.values() if one.waiting == len(tasks)])
            tasks[0].cancel()
            second = await tasks[1]
            await asyncio.gather(*tasks, return_exceptions=True)
    assert of_leaf(second)["available"] == 1
    assert not lists._fetches


async def test_module_without_the_key_requests_nothing(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        result = await probe(authority, check_revoked=False)
    assert result.failure is None
    assert authority.requests == []
    assert not any(metric.name.startswith("probe_ssl_crl") for metric in result.probe.samples.families)


async def test_certificate_that_does_not_verify_is_not_looked_up(tmp_path: Path) -> None:
    """Otherwise any peer could choose the URLs that the exporter requests."""
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"), begins=-90.0, lasts=60.0)
        result = await probe(authority)
    assert result.failure is not None
    assert result.failure.reason is Reason.CERTIFICATE_EXPIRED
    assert authority.requests == []


async def test_unverified_chain_is_looked_up_as_it_was_sent(tmp_path: Path) -> None:
    async with Authority(tmp_path) as authority:
        authority.issue(authority.url("/list"))
        authority.pages["/list"] = authority.crl()
        result = await probe(authority, tls_config={"insecure_skip_verify": True})
    # The server sends no root, so the leaf counts as its own issuer, which did not sign the list.
    assert of_leaf(result) == GONE | {"url": authority.url("/list")}


async def test_lists_are_fetched_through_the_proxy_of_the_module(tmp_path: Path) -> None:
    """The authority's own server plays the proxy: it gets the whole URL in the request line."""
    async with Authority(tmp_path) as authority:
        url = "http://lists.invalid/list"
        authority.pages[url] = b"a list"
        block = HttpClientSettings.model_validate({"proxy_url": authority.url("")})
        data, _ = await fetch(url, client_of(block), None, 100)
    assert data == b"a list"
    assert authority.requests == [url]
    assert client_of(TcpSettings()) is DIRECT
    websocket = WebsocketSettings.model_validate({"http_config": {"proxy_url": "http://127.0.0.1:1"}})
    assert client_of(websocket).proxy_url == "http://127.0.0.1:1"
