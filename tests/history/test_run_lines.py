"""Test the runs of a probe on the debug page: a line for each run, and for each certificate with its sender."""

from __future__ import annotations

from pathlib import Path

import pytest

from probe_exporter import runner
from probe_exporter.history.debug_page import debug_page
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.network import lookup
from probe_exporter.runner import Result
from tests.config.test_loading import load
from tests.targets import Pki
from tests.targets.nodes import Node, flapping, greet, hang_up, nodes, page, pem_context

SECONDS = 60.0
SECRET = "hello-sesame"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("127.0.0.2 many.test\n127.0.0.3 many.test\n")
    monkeypatch.setattr(lookup, "HOSTS", tmp_path / "hosts")


async def probed(directory: Path, keys: str, target: str, prober: str = "tcp") -> Result:
    module = load(directory, f"modules: {{m: {{prober: {prober}, {keys}}}}}\n").modules["m"]
    return await runner.run(module, target, SECONDS)


def lines(result: Result, heading: str) -> list[dict[str, str]]:
    """Return the lines below a heading, each as its fields without a blank in their values."""
    document = debug_page(result, ProbeLog())
    assert document.startswith("Logs for the probe:\n")
    section = document.partition(f"\n\n\n{heading}:\n")[2].partition("\n\n\n")[0]
    words = [[word.replace('"', "") for word in line.split(" ")] for line in section.splitlines()]
    return [dict(word.split("=", 1) for word in line if "=" in word) for line in words]


def shown(result: Result, *keys: str) -> list[tuple[str, ...]]:
    return [tuple(line.get(key, "") for key in keys) for line in lines(result, "Runs of the probe")]


@pytest.mark.usefixtures("hosts")
async def test_each_run_has_a_line(tmp_path: Path) -> None:
    expect = "tcp: {query_response: [{expect: hello}]}"
    async with nodes({"127.0.0.2": Node(greet), "127.0.0.3": Node(flapping(1))}) as port:
        result = await probed(tmp_path, f"addresses: all, attempts: {{max: 2}}, {expect}", f"many.test:{port}")
    assert shown(result, "address", "attempt", "result", "decides", "reason", "phase") == [
        ("127.0.0.2", "1", "success", "false", "", ""),
        ("127.0.0.3", "1", "failure", "false", "dialogue_closed", "dialogue"),
        ("127.0.0.2", "2", "success", "true", "", ""),
        ("127.0.0.3", "2", "success", "false", "", ""),
    ]
    for line in lines(result, "Runs of the probe"):
        assert {"start_seconds", "duration_seconds", "connect_seconds", "dialogue_seconds"} <= line.keys()
    assert lines(result, "Certificates of the runs") == []


async def test_attempts_without_addresses_have_lines(tmp_path: Path) -> None:
    async with nodes({"127.0.0.1": Node(hang_up)}) as port:
        keys = "attempts: {max: 2}, tcp: {query_response: [{expect: hello}]}"
        result = await probed(tmp_path, keys, f"127.0.0.1:{port}")
    assert shown(result, "address", "attempt", "decides") == [("", "1", "false"), ("", "2", "true")]


async def test_probe_with_one_run_has_no_section(tmp_path: Path) -> None:
    async with nodes({"127.0.0.1": Node(greet)}) as port:
        result = await probed(tmp_path, "tcp: {}", f"127.0.0.1:{port}")
    assert "Runs of the probe" not in debug_page(result, ProbeLog())


@pytest.mark.usefixtures("hosts")
async def test_certificates_name_their_sender(tmp_path: Path, pki: Pki) -> None:
    servers = {
        "127.0.0.2": Node(page(), pem_context(pki.directory, "leaf")),
        "127.0.0.3": Node(page(), pem_context(pki.directory, "expired")),
    }
    tls = f"tls_config: {{ca_file: '{pki.directory}/root.pem', server_name: localhost}}"
    async with nodes(servers) as port:
        keys = f"addresses: all, http: {{{tls}}}"
        result = await probed(tmp_path, keys, f"https://many.test:{port}/", "http")
    found = lines(result, "Certificates of the runs")
    first = [one for one in found if one["chain_pos"] == "0"]
    assert [(one["address"], one["subject"], one.get("errors", "")) for one in first] == [
        ("127.0.0.2", "CN=leaf", ""),
        ("127.0.0.3", "CN=expired", "expired"),
    ]
    assert {len(one["fingerprint_sha256"]) for one in found} == {64}
    assert all(one["expires"].endswith("Z") for one in found)


async def test_secrets_are_masked(tmp_path: Path) -> None:
    async with nodes({"127.0.0.1": Node(hang_up)}) as port:
        keys = f"attempts: {{max: 2}}, tcp: {{query_response: [{{send: '{SECRET}'}}, {{expect: x}}]}}"
        result = await probed(tmp_path, keys, f"127.0.0.1:{port}")
    told = [run._replace(message=f"at https://user:{SECRET}@host/ ") for run in result.runs]
    document = debug_page(result._replace(runs=tuple(told)), ProbeLog())
    section = document.partition("Runs of the probe:\n")[2].partition("\n\n\n")[0]
    assert section.count("xxxxx") == 2
    assert SECRET not in section
