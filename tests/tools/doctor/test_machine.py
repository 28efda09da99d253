"""Test the checks of the kernel's settings, in network namespaces where the kernel has to refuse something."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.tools.doctor import machine
from probe_exporter.tools.doctor.finding import Finding
from tests import namespaces
from tests.namespaces import Namespace, give_up_net_raw


@pytest.fixture(scope="module")
def near() -> Iterator[Namespace]:
    namespaces.require()
    with namespaces.network() as network:
        yield network.near


@pytest.mark.slow
def test_ping_names_what_permits_it_and_how_to_permit_it(near: Namespace) -> None:
    def without_capability() -> Finding:
        give_up_net_raw()
        return machine.ping()

    near.sysctl(ipv4__ping_group_range="1 0")
    assert near.call(machine.ping).message == "permitted by CAP_NET_RAW"
    refused = near.call(without_capability)
    assert (refused.verdict, refused.fix) == ("fail", 'sysctl -w net.ipv4.ping_group_range="0 2147483647"')
    near.run("sh", "-c", refused.fix)
    assert near.call(without_capability).message == "permitted by net.ipv4.ping_group_range"


@pytest.mark.slow
def test_ipv6_needs_loopback_and_route(near: Namespace) -> None:
    assert near.call(machine.ipv6).verdict == "pass"
    near.ip("-6", "route", "del", "default")
    refused = near.call(machine.ipv6)
    assert (refused.verdict, refused.message.partition(":")[0]) == ("warn", "no route")
    near.sysctl(ipv6__conf__lo__disable_ipv6=1)
    refused = near.call(machine.ipv6)
    assert refused.message.startswith("::1 can't be used")
    near.run("sh", "-c", refused.fix)
    near.run("ip", "-6", "address", "replace", "::1/128", "dev", "lo")
    assert near.call(lambda: machine.ipv6("::1")).verdict == "pass"


def test_open_files_must_suffice_for_concurrent_probes() -> None:
    assert machine.open_files(100, 464).verdict == "pass"
    assert machine.open_files(100, resource.RLIM_INFINITY).verdict == "pass"
    refused = machine.open_files(100, 463)
    assert refused.message == "up to 463: enough for 99 concurrent probes, not for 100 (--probe.max-concurrent)"
    assert refused.fix == "ulimit -n 464 (in a systemd unit: LimitNOFILE=464)"
    assert "enough for 1 concurrent" in machine.open_files(100, 3).message
    assert machine.open_files(1).verdict == "pass"


def settings(directory: Path, ports: str, reuse: str) -> Path:
    (directory / "ip_local_port_range").write_text(f"{ports}\n")
    (directory / "tcp_tw_reuse").write_text(f"{reuse}\n")
    return directory


def test_source_ports_must_suffice_for_concurrent_probes(tmp_path: Path) -> None:
    found = machine.source_ports(4096, settings(tmp_path, "32768\t60999", "2"))
    assert (found.verdict, found.fix) == ("pass", "")
    assert found.message == "28232 (tcp_tw_reuse=2), 470 new connections a second to one address and port"
    found = machine.source_ports(4096, settings(tmp_path, "60000\t60999", "1"))
    assert found.message == "1000 (tcp_tw_reuse=1): fewer than --probe.max-concurrent (4096)"
    assert found.fix == 'sysctl -w net.ipv4.ip_local_port_range="10240 65535"'
    found = machine.source_ports(4096, settings(tmp_path, "32768\t60999", "0"))
    assert (found.verdict, found.fix) == ("warn", "sysctl -w net.ipv4.tcp_tw_reuse=1")
    assert machine.source_ports(4096, tmp_path / "none").verdict == "skip"
