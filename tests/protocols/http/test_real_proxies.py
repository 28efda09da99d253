"""Probe through real proxies: tinyproxy, squid and microsocks, as Debian ships them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import http
from probe_exporter.probers.http import HttpSettings, prober
from probe_exporter.runner import Result, run
from tests.outcomes import reason_of
from tests.targets import Pki, Site, Tls, http2, redirect, reply

pytestmark = pytest.mark.slow

PLAIN = "http://localhost:{port}/"
OVER_TLS = "https://localhost:{tls_port}/"


async def probe(site: Site, target: str, proxy_url: str, **settings: Any) -> Result:
    """Probe a target through a proxy, trusting the test's authority."""
    assert site.pki is not None
    settings = {
        "preferred_ip_protocol": "ip4", "proxy_url": proxy_url, "tls_config": {"ca_file": str(site.pki / "root.pem")},
        **settings,
    }  # fmt: skip
    return await run(Module("m", prober, HttpSettings.model_validate(settings), 0.0, Place("t")), site.fill(target), 60)


def site(pki: Pki, alpn: tuple[str, ...] = ()) -> Site:
    pages = {
        "/": reply(200, b"0123456789" * 100_000), "/away": redirect(302, "https://localhost:{tls_port}/"),
        "/missing": reply(404, b"not here"),
    }  # fmt: skip
    return Site(pages if not alpn else {"/": http2.reply(200, b"ok")}, Tls(alpn=alpn), pki.directory)


@pytest.mark.parametrize("target", [PLAIN, OVER_TLS, PLAIN + "away"])
async def test_tinyproxy_passes_requests(target: str, pki: Pki, tinyproxy: int) -> None:
    async with site(pki) as there:
        result = await probe(there, target, f"http://user:hunter2@127.0.0.1:{tinyproxy}")
        assert reason_of(result) is None
        assert result.probe.samples.get(http.BODY_LENGTH) == 1_000_000
        assert there.requests[0].all("Host") == [there.fill(target).split("/")[2]]


async def test_tinyproxy_forwards_a_body(pki: Pki, tinyproxy: int, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"x" * 300_000)
    async with site(pki) as there:
        for target in (PLAIN, OVER_TLS):
            result = await probe(
                there, target, f"http://user:hunter2@127.0.0.1:{tinyproxy}", method="POST",
                body_file=str(tmp_path / "body"),
            )  # fmt: skip
            assert reason_of(result) is None
            assert len(there.requests[-1].body) == 300_000


@pytest.mark.parametrize(
    ("user", "target", "reason"),
    [
        ("", PLAIN, Reason.PROXY_REFUSED),
        ("", OVER_TLS, Reason.PROXY_REFUSED),
        ("user:wrong@", PLAIN, Reason.HTTP_STATUS),  # tinyproxy sends 401, the status of a target
        ("user:wrong@", OVER_TLS, Reason.PROXY_REFUSED),
    ],
)
async def test_tinyproxy_refuses_unauthenticated_clients(
    user: str, target: str, reason: Reason, pki: Pki, tinyproxy: int
) -> None:
    async with site(pki) as there:
        result = await probe(there, target, f"http://{user}127.0.0.1:{tinyproxy}")
        assert reason_of(result) is reason
        assert there.requests == []


async def test_tinyproxy_tunnels_http2(pki: Pki, tinyproxy: int) -> None:
    async with site(pki, ("h2",)) as there:
        result = await probe(there, OVER_TLS, f"http://user:hunter2@127.0.0.1:{tinyproxy}")
        assert reason_of(result) is None
        assert result.probe.samples.get(http.VERSION) == 2


@pytest.mark.parametrize("target", [PLAIN, OVER_TLS, PLAIN + "away"])
async def test_squid_passes_requests_by_name(target: str, pki: Pki, squid: int) -> None:
    """The original sends the address unless it skips resolving; this squid does not allow addresses."""
    async with site(pki) as there:
        for skip in (False, True):
            result = await probe(there, target, f"http://127.0.0.1:{squid}", skip_resolve_phase_with_proxy=skip)
            assert reason_of(result) is None
            assert result.probe.samples.get(http.BODY_LENGTH) == 1_000_000


async def test_squid_refusals_and_errors_have_their_reasons(pki: Pki, squid: int) -> None:
    async with site(pki) as there:
        url = f"http://127.0.0.1:{squid}"
        assert reason_of(await probe(there, "https://127.0.0.1:{tls_port}/", url)) is Reason.PROXY_REFUSED
        assert reason_of(await probe(there, "https://localhost:{dead}/", url)) is Reason.PROXY_REFUSED
        assert reason_of(await probe(there, PLAIN + "missing", url)) is Reason.HTTP_STATUS
        result = await probe(there, "http://localhost:{dead}/", url)
        assert (reason_of(result), result.probe.samples.get(http.STATUS_CODE)) == (Reason.HTTP_STATUS, 503)


@pytest.mark.parametrize("target", [PLAIN, OVER_TLS, PLAIN + "away"])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_microsocks_passes_requests(scheme: str, target: str, pki: Pki, microsocks: int) -> None:
    async with site(pki) as there:
        result = await probe(there, target, f"{scheme}://user:hunter2@127.0.0.1:{microsocks}")
        assert reason_of(result) is None
        assert result.probe.samples.get(http.BODY_LENGTH) == 1_000_000


async def test_microsocks_refusals_have_their_reason(pki: Pki, microsocks: int) -> None:
    async with site(pki) as there:
        for user in ("", "user:wrong@"):
            assert (
                reason_of(await probe(there, PLAIN, f"socks5://{user}127.0.0.1:{microsocks}")) is Reason.PROXY_REFUSED
            )
        url = f"socks5://user:hunter2@127.0.0.1:{microsocks}"
        result = await probe(there, "http://127.0.0.1:{dead}/", url)
        assert reason_of(result) is Reason.PROXY_REFUSED
        assert result.failure is not None
        assert "the connection was refused" in result.failure.message
