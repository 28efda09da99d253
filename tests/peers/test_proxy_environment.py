"""``proxy_from_environment``: cases have the outcome of the original if the environment names the proxies."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests import exporters
from tests.exporters import Start
from tests.peers import cases
from tests.peers.cases import Case, Outcome
from tests.peers.differences import compare
from tests.peers.http_cases import IP4, at
from tests.peers.ports import Ports
from tests.targets import Pki, Tls, grpc, redirect, reply
from tests.targets.proxy import HttpProxy

pytestmark = pytest.mark.slow

FROM_ENVIRONMENT = {**IP4, "proxy_from_environment": True, "tls_config": {"insecure_skip_verify": True}}
SKIP = {"skip_resolve_phase_with_proxy": True}
ENVIRONMENT = {
    "http_proxy": "http://user:pass@127.0.0.1:{proxy}",
    "HTTP_PROXY": "http://nobody.invalid:1",
    "https_proxy": "",
    "HTTPS_PROXY": "127.0.0.1:{proxy}",
    "ALL_PROXY": "http://nobody.invalid:1",
    "NO_PROXY": "direct.invalid, ::, .below.invalid:1",
}
PLACES = {
    "any address": "http://0.0.0.0:{port}/",
    "any address over https": "https://0.0.0.0:{tls_port}/",
    "an exempt address": "http://[::]:{port}/",
    "loopback": "http://127.0.0.1:{port}/",
    "loopback over https": "https://127.0.0.1:{tls_port}/",
    "IPv6 loopback": "http://[::1]:{port}/",
    "localhost": "http://localhost:{port}/",
}
NAMES = {
    "a name": "http://nowhere.invalid:{port}/",
    "a name over https": "https://nowhere.invalid:{tls_port}/",
    "an exempt name": "http://direct.invalid:{port}/",
    "a name below an exempt one": "http://x.direct.invalid:{port}/",
    "a name exempt at another port": "http://x.below.invalid:{port}/",
}


def case(name: str, target: str, asked: Mapping[str, object] | None = None) -> Case:
    settings = {**FROM_ENVIRONMENT, **(asked or {})}
    return Case(f"environment {name}", settings, target, at(reply(200, b"ok")), Tls(), proxy=HttpProxy())


def call(name: str, target: str, tls: Tls | None = None) -> Case:
    """Return a case of a gRPC health check, which always uses the environment's proxy for https."""
    settings = {"tls": True, "tls_config": {"insecure_skip_verify": True}} if tls else {}
    pages = grpc.at(grpc.healthy())
    return Case(f"environment gRPC {name}", settings, target, pages, tls, proxy=HttpProxy(), prober="grpc")


HEADER = {"proxy_connect_header": {"X-A": ["1"]}}
LAST = {"/next": reply(200, b"arrived")}
CASES = (
    *(case(f"for {name}", target) for name, target in PLACES.items()),
    *(case(f"for {name} with skipped resolving", target, SKIP) for name, target in {**PLACES, **NAMES}.items()),
    case("with a header for CONNECT", "https://0.0.0.0:{tls_port}/", HEADER),
    case("not asked for", "http://0.0.0.0:{port}/", {"proxy_from_environment": False}),
    replace(case("and a redirect to loopback", "http://0.0.0.0:{port}/"),
            pages={"/": redirect(302, "http://127.0.0.1:{port}/next"), **LAST}),
    replace(case("and a redirect from loopback", "http://127.0.0.1:{port}/"),
            pages={"/": redirect(302, "http://0.0.0.0:{port}/next"), **LAST}),
    call("for any address", "0.0.0.0:{port}"),
    call("for loopback", "127.0.0.1:{port}"),
    call("for localhost", "localhost:{port}"),
    call("over TLS for any address", "0.0.0.0:{tls_port}", Tls(alpn=("h2",))),
)  # fmt: skip


async def one_by_one(
    selected: Sequence[Case], exporter: exporters.Server, pki: Path, ports: Mapping[str, int]
) -> dict[str, Outcome]:
    """Run cases one after another, because they share one proxy."""
    return {case.name: await cases.run(case, exporter, pki, ports) for case in selected}


@pytest.fixture(scope="module")
def outcomes(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """Return the outcomes of the original and of ours, with the same environment."""
    directory = tmp_path_factory.mktemp("environment")
    with closing(Ports({"environment": ENVIRONMENT})) as ports:
        (directory / "blackbox.yml").write_text(cases.configuration(CASES, directory, ports))
        environment = ports.fill("environment", ENVIRONMENT)

        def run(start: Start) -> dict[str, Outcome]:
            with start(directory, "--config.file=blackbox.yml", **environment) as exporter:
                return asyncio.run(one_by_one(CASES, exporter, pki.directory, ports.of("environment")))

        return run(exporters.original), run(exporters.ours)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case_has_the_outcome_of_the_original(
    case: Case, outcomes: tuple[dict[str, Outcome], dict[str, Outcome]]
) -> None:
    original, ours = outcomes
    comparison = compare(case, original[case.name], ours[case.name])
    assert not str(comparison), f"{case.target}\n{comparison}"


def test_proxy_receives_the_expected_requests(outcomes: tuple[dict[str, Outcome], dict[str, Outcome]]) -> None:
    """Check the comparison above: it would also pass if no exporter used a proxy."""
    _, ours = outcomes
    asked = {name for name, outcome in ours.items() if any(line.startswith("proxy") for line in outcome.lines)}
    assert asked == {
        f"environment {name}"
        for name in (
            "for any address", "for any address over https", "for any address with skipped resolving",
            "for any address over https with skipped resolving", "for a name with skipped resolving",
            "for a name over https with skipped resolving", "for a name exempt at another port with skipped resolving",
            "with a header for CONNECT", "and a redirect to loopback", "and a redirect from loopback",
            "gRPC for any address", "gRPC over TLS for any address",
        )
    }  # fmt: skip
