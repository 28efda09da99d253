"""Tests of network settings: their validation, and the resolver, source address and interface that probes use."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.addresses.guard import Guard
from probe_exporter.config import dump, loading
from probe_exporter.config.module import Config, ConfigError, Module
from probe_exporter.config.schema import json_schema
from probe_exporter.network import address_choice, opening
from probe_exporter.network.settings import SourceSettings
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.runner import run
from tests import namespaces
from tests.namespaces import Namespace, NamespaceNetwork
from tests.outcomes import why
from tests.targets.dns import DnsServer, Zone
from tests.targets.peer import a_probe
from tests.waiting import PATIENCE, until, wait_until

PROBERS = loader.load_probers([])


def load(tmp_path: Path, *texts: str, **options: Any) -> Config:
    """Load a configuration from some texts."""
    files = []
    for number, text in enumerate(texts):
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(text)
    return loading.load(files, PROBERS, **options)


def refusal(tmp_path: Path, *texts: str) -> list[str]:
    """Return the lines of the error for these files, without the directory."""
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, *texts)
    return str(refused.value).replace(f"{tmp_path}/", "").splitlines()


# --- settings ----------------------------------------------------------------------------------------------

WHOLE = """
targets:
  deny: [10.0.0.0/8, "*.secret.example"]
modules:
  m:
    prober: tcp
    resolver: {servers: [127.0.0.1, "[::1]:5353", "127.0.0.2:5353", "::1"], timeout: 2s}
    source_interface: eth1
    source_ip_address: 127.0.0.9
    targets:
      allow: ["*.example.org:443", "unix:/run/*", "fd00::/8"]
      deny: ["[fd00::1]:80"]
  other:
    prober: icmp
"""


def test_module_without_network_settings_has_default_network(tmp_path: Path) -> None:
    loaded = load(tmp_path, "modules: {m: {prober: tcp}}")
    assert loaded.modules["m"].network is None
    assert not loaded.guarded


def test_targets_of_file_and_module_are_combined(tmp_path: Path) -> None:
    loaded = load(tmp_path, WHOLE)
    of_all, own = loaded.modules["other"].network, loaded.modules["m"].network
    assert of_all is not None
    assert own is not None
    assert isinstance(of_all.guard, Guard)
    assert isinstance(own.guard, Guard)
    assert own.guard.blocks[:1] == of_all.guard.blocks
    assert [str(entry) for entry in own.guard.blocks[1].deny] == ["[fd00::1]:80"]
    assert loaded.guarded


def test_shown_network_settings_load_to_the_same(tmp_path: Path) -> None:
    loaded = load(tmp_path, WHOLE)
    text = dump.to_yaml(loaded)
    for line in ("- '*.secret.example'", "- '*.example.org:443'", "- unix:/run/*", "- '[::1]:53'", "timeout: 2s"):
        assert line in text
    assert text.startswith("targets:")
    assert dump.to_yaml(load(tmp_path, text)) == text
    assert "source_interface: eth1" in dump.module_to_yaml(loaded.modules["m"])
    assert "targets" not in dump.module_to_yaml(loaded.modules["other"])


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("targets: {allow: [10.0.0.1/8]}", "1:46: modules.m.targets.allow[0]: '10.0.0.1/8' is a range that begins at"),
        ("targets: {deny: [a, 127.1]}", "1:48: modules.m.targets.deny[1]: '127.1' is not how an address is written"),
        ("targets: {deny: [5]}", "1:45: modules.m.targets.deny[0]: '5' is not how an address is written here"),
        ("targets: {deny: x}", "1:38: modules.m.targets.deny: expected a list of targets"),
        ("targets: {permit: []}", "1:38: modules.m.targets.permit: unknown key `permit`"),
        ("targets: [a]", "1:28: modules.m.targets: expected a mapping of settings, found a list"),
        ("resolver: {}", "1:28: modules.m.resolver.servers: `servers` is required"),
        ("resolver: {servers: []}", "1:39: modules.m.resolver.servers: `servers` is required"),
        ("resolver: {servers: [a.test]}", "1:49: modules.m.resolver.servers[0]: 'a.test' is not the address of a name"),
        (
            "resolver: {servers: ['127.0.0.1:0']}",
            "1:49: modules.m.resolver.servers[0]: '127.0.0.1:0' is not the addres",
        ),
        ("resolver: {servers: ['127.0.0.1:']}", "1:49: modules.m.resolver.servers[0]: '127.0.0.1:' is not the addres"),
        ("resolver: {servers: ['::1'], timeout: 0s}", "1:57: modules.m.resolver.timeout: expected more than 0"),
        (
            "resolver: {servers: ['::1'], timeout: 5}",
            "1:57: modules.m.resolver.timeout: a duration needs a unit, as in 5s",
        ),
        ("source_interface: a/b", "1:28: modules.m.source_interface: 'a/b' can't be the name of an interface"),
        (
            "source_interface: sixteen_letters_",
            "1:28: modules.m.source_interface: 'sixteen_letters_' can't be the name",
        ),
        ("source_ip_address: localhost", "1:28: modules.m.source_ip_address: 'localhost' is not an IP address"),
    ],
)
def test_network_setting_error_names_its_place(tmp_path: Path, keys: str, problem: str) -> None:
    (line,) = refusal(tmp_path, f"modules: {{m: {{prober: tcp, {keys}}}}}")
    assert line.startswith(f"0.yml:{problem}")


def test_top_level_targets_are_refused_twice(tmp_path: Path) -> None:
    (line,) = refusal(tmp_path, "targets: {deny: [a.test]}\n", "targets: {deny: [b.test]}\n")
    assert re.fullmatch(r"1\.yml:1:1: targets: `targets` is defined twice; the first is at .*0\.yml:1:1", line)


def test_top_level_targets_apply_to_modules_of_all_files(tmp_path: Path) -> None:
    loaded = load(tmp_path, "modules: {m: {prober: tcp}}", "targets: {deny: [a.test]}")
    network = loaded.modules["m"].network
    assert network is not None
    assert network.guard is not None


def test_targets_that_allow_nothing_cause_warning(tmp_path: Path) -> None:
    for text, where in [
        ("targets: {allow: []}", "targets.allow"),
        ("modules: {m: {prober: tcp, targets: {allow: []}}}", "modules.m.targets.allow"),
    ]:
        (warning,) = load(tmp_path, text).warnings
        assert f"{where}: an empty list permits nothing" in str(warning)


def test_schema_has_network_settings() -> None:
    schema = json_schema(PROBERS)
    assert "targets" in schema["properties"]
    assert {"allow", "deny"} <= schema["$defs"]["TargetsSettings"]["properties"].keys()
    assert {"resolver", "source_interface", "source_ip_address", "targets"} <= schema["$defs"]["Module"][
        "properties"
    ].keys()
    assert json.dumps(schema)


async def test_parameters_are_refused_in_targets(tmp_path: Path) -> None:
    """The guard stays the same when parameters are filled in, and it accepts no parameters."""
    text = """
targets: {deny: [127.0.0.1]}
modules:
  m:
    prober: tcp
    params: {word: {pattern: "[a-z]*", default: ""}}
    tcp: {query_response: [{send: "${param:word}"}]}
"""
    module = load(tmp_path, text).modules["m"]
    for given in ({}, {"word": "a"}, {"word": "a", "targets": "*"}):
        result = await run(module.given(given), "127.0.0.1:9", 60.0)
        assert why(result) == (Reason.TARGET_DENIED, "connect")
    (line, *_) = refusal(tmp_path, text.replace("prober: tcp", 'prober: tcp\n    targets: {allow: ["${param:word}"]}'))
    assert "a parameter can only be used in the block of a prober" in line


# --- names -------------------------------------------------------------------------------------------------


BLOCKS: dict[str, dict[str, Any]] = {
    "dns": {"query_name": "a.test"},
    "udp": {"query_response": [{"send": "a"}, {"expect": "a"}]},
}
"""What some probers can't do without."""


async def test_every_prober_uses_module_resolver(tmp_path: Path) -> None:
    """No probe reaches a target; the test checks the queries."""
    zone = Zone({"*": [["127.0.0.1"]]})
    async with DnsServer(zone) as server:
        resolver = {"servers": [f"127.0.0.1:{server['port']}"]}
        for name in ("http", "tcp", "udp", "dns", "icmp", "grpc", "websocket"):
            host = f"{name}.test"
            text = json.dumps({"modules": {"m": {"prober": name, "resolver": resolver, name: BLOCKS.get(name, {})}}})
            target = {"icmp": host, "http": f"http://{host}:1/", "websocket": f"ws://{host}:1/"}.get(name, f"{host}:1")
            result = await run(load(tmp_path, text).modules["m"], target, 60.0)
            assert result.probe.samples.get(address_choice.IP_PROTOCOL) == 4, (name, result.failure)
            assert host in zone.asked


# --- from where --------------------------------------------------------------------------------------------


def comes_from(sock: socket.socket) -> str:
    """Return the address of the client that connects or sends a datagram."""
    if sock.type is not socket.SOCK_STREAM:
        return str(sock.recvfrom(1000)[1][0])
    connected, peer = sock.accept()
    connected.close()
    return str(peer[0])


@pytest.mark.parametrize(("own", "expected"), [("", "127.0.0.9"), ("127.0.0.8", "127.0.0.8")])
async def test_every_prober_uses_module_source_address(tmp_path: Path, own: str, expected: str) -> None:
    """The prober's own key takes precedence."""
    for name in ("tcp", "udp", "dns", "http", "websocket"):
        kind = socket.SOCK_DGRAM if name in ("udp", "dns") else socket.SOCK_STREAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(PATIENCE)
            if kind is socket.SOCK_STREAM:
                sock.listen()
            has_key = own and name != "http"
            block = BLOCKS.get(name, {}) | ({"source_ip_address": own} if has_key else {})
            text = json.dumps({"modules": {"m": {"prober": name, "source_ip_address": "127.0.0.9", name: block}}})
            scheme = {"http": "http://", "websocket": "ws://"}.get(name, "")
            target = f"{scheme}127.0.0.1:{sock.getsockname()[1]}"
            unanswered = asyncio.create_task(run(load(tmp_path, text).modules["m"], target, 120.0))
            came_from = await asyncio.to_thread(comes_from, sock)
            unanswered.cancel()
            await asyncio.gather(unanswered, return_exceptions=True)
            assert came_from == (expected if has_key else "127.0.0.9"), name


async def test_unusable_source_address_is_reported(tmp_path: Path) -> None:
    for name, target in [("tcp", "127.0.0.1:9"), ("icmp", "127.0.0.1"), ("http", "http://127.0.0.1:9/")]:
        text = json.dumps({"modules": {"m": {"prober": name, "source_ip_address": "::1"}}})
        result = await run(load(tmp_path, text).modules["m"], target, 60.0)
        assert result.failure is not None
        assert result.failure.reason is Reason.SETTINGS_UNUSABLE, name


# --- by which interface ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tcp", "icmp", "udp", "http"])
async def test_missing_interface_is_reported(tmp_path: Path, name: str) -> None:
    block = {"query_response": [{"send": "a"}, {"expect": "a"}]} if name == "udp" else {}
    text = json.dumps({"modules": {"m": {"prober": name, "source_interface": "nosuch0", name: block}}})
    target = {"icmp": "127.0.0.1", "http": "http://127.0.0.1:9/"}.get(name, "127.0.0.1:9")
    result = await run(load(tmp_path, text).modules["m"], target, 60.0)
    assert result.failure is not None
    assert result.failure.reason is Reason.SETTINGS_UNUSABLE
    assert "no interface 'nosuch0'" in result.failure.message


FAR, FAR_6 = "10.91.2.2", "fd91:2::2"
PORT = 4433


class FarListeners:
    """Listeners in the far host: a TCP port, and a UDP port that echoes and records its clients."""

    def __init__(self, host: Namespace) -> None:
        self.heard: list[str] = []
        self._stream = host.call(
            lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        self._datagrams = host.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._datagrams.bind(("::", PORT))
        self._threads = [threading.Thread(target=self._accept), threading.Thread(target=self._echo)]
        for thread in self._threads:
            thread.start()

    def _accept(self) -> None:
        while True:
            connected, peer = self._stream.accept()
            connected.close()
            if not self._note(peer[0]):
                return

    def _echo(self) -> None:
        while True:
            data, peer = self._datagrams.recvfrom(65536)
            if not self._note(peer[0]):
                return
            self._datagrams.sendto(data, peer)

    def _note(self, address: str) -> bool:
        self.heard.append(address.removeprefix("::ffff:"))
        return self.heard[-1] not in (FAR, FAR_6)  # itself: it is time to end

    def has_heard(self) -> set[str]:
        """Wait for the first client; return the addresses of all clients."""
        wait_until(lambda: self.heard)
        return set(self.heard)

    def end(self, host: Namespace) -> None:
        """Stop listening."""

        def knock() -> None:
            socket.create_connection((FAR, PORT), timeout=PATIENCE).close()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"", (FAR, PORT))

        host.call(knock)
        for thread in self._threads:
            thread.join()
        self._stream.close()
        self._datagrams.close()


@pytest.fixture(scope="module")
def laid() -> Iterator[tuple[NamespaceNetwork, FarListeners]]:
    """A network whose near host has a second way to the router, eth1 (10.91.3.1, fd91:3::1), worse than the first."""
    namespaces.require()
    with namespaces.network() as network:
        near, router, far = network.near, network.router, network.far
        near.ip("link", "add", "eth1", "type", "veth", "peer", "name", "host3", "netns", router.name)
        for host, device, last, last_6 in ((near, "eth1", "1", "1"), (router, "host3", "254", "fe")):
            host.ip("address", "add", f"10.91.3.{last}/24", "dev", device)
            host.ip("address", "add", f"fd91:3::{last_6}/64", "dev", device, "nodad")
            host.ip("link", "set", device, "up")
        near.ip("route", "add", "default", "via", "10.91.3.254", "dev", "eth1", "metric", "9999")
        near.ip("-6", "route", "add", "default", "via", "fd91:3::fe", "dev", "eth1", "metric", "9999")
        near.sysctl(ipv4__ping_group_range="0 2147483647")
        near.run("ping", "-c1", "-w5", "-I", "eth1", FAR_6)
        listening = FarListeners(far)
        try:
            yield network, listening
        finally:
            listening.end(far)


PROBES: dict[str, tuple[dict[str, Any], str]] = {
    "tcp": ({"prober": "tcp"}, "{host}:{port}"),
    "udp": ({"prober": "udp", "udp": {"query_response": [{"send": "hi"}, {"expect": "hi"}]}}, "{host}:{port}"),
    "icmp": ({"prober": "icmp"}, "{bare}"),
    "http3": (
        {"prober": "http", "http": {"enable_http3": True, "enable_http2": False}},
        "https://{host}:{port}/",
    ),
}


async def until_heard(far: FarListeners, module: Module, target: str) -> None:
    """Probe until the far host has received a packet."""
    probing = asyncio.create_task(run(module, target, 120.0))
    await until(lambda: far.heard)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_connections_from_one_source_address_to_different_targets_share_a_port(address: str) -> None:
    """There are two local ports for three targets."""
    namespaces.require()
    ports = (50001, 50002, 50003)

    async def connect_to_all() -> None:
        source = SourceSettings(source_ip_address=address)
        with contextlib.ExitStack() as listening:
            for port in ports:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                listening.enter_context(socket.create_server((address, port), family=family))
            for connection in [await opening.connect(a_probe(), address, port, source) for port in ports]:
                connection.close()

    with namespaces.host() as host:
        host.sysctl(ipv4__ip_local_port_range="40000 40001")
        host.wait_for(connect_to_all)


@pytest.mark.slow
@pytest.mark.parametrize("net_raw", [True, False], ids=["CAP_NET_RAW", "unprivileged"])
@pytest.mark.parametrize(
    ("target", "first", "second"), [(FAR, "10.91.1.1", "10.91.3.1"), (FAR_6, "fd91:1::1", "fd91:3::1")]
)
@pytest.mark.parametrize("name", PROBES)
def test_source_interface_selects_outgoing_interface(
    tmp_path: Path,
    laid: tuple[NamespaceNetwork, FarListeners],
    name: str,
    target: str,
    first: str,
    second: str,
    net_raw: bool,
) -> None:
    """The interface overrides the routes; the far host sees its address."""
    network, far = laid
    module, pattern = PROBES[name]
    host = f"[{target}]" if ":" in target else target
    for interface, expected in (("", first), ("eth0", first), ("eth1", second)):
        # The kernel of the far host answers echo requests and logs no source, so drop those from the other source.
        family = "icmpv6" if ":" in target else "icmp"
        address = "ip6" if ":" in target else "ip"
        other = second if expected == first else first
        network.far.nft(
            "table inet f {\n chain c {\n type filter hook input priority 0\n"
            f" {address} saddr {other} {family} type echo-request drop\n }}\n}}"
        )
        text = json.dumps({"modules": {"m": {**module, "source_interface": interface}}})
        loaded = load(tmp_path, text).modules["m"]
        far.heard.clear()
        asked = pattern.format(host=host, port=PORT, bare=target)
        if name == "http3":  # to which an echo is no answer
            network.near.wait_for(partial(until_heard, far, loaded, asked), net_raw=net_raw)
        else:
            result = network.near.wait_for(partial(run, loaded, asked, 60.0), net_raw=net_raw)
            assert why(result) is None, (interface, result.failure)
        if name != "icmp":
            assert far.has_heard() == {expected}, interface


def test_rebinding_interface_reports_missing_capability() -> None:
    """Before Linux 5.7, every such socket needs the capability."""

    def twice() -> str:
        namespaces.give_up_net_raw()
        with socket.socket() as sock:
            opening.bind_to_interface(sock, "lo")
            with pytest.raises(ProbeFailed) as failed:
                opening.bind_to_interface(sock, "lo")
        assert failed.value.reason is Reason.SETTINGS_UNUSABLE
        return failed.value.message

    messages: list[str] = []
    thread = threading.Thread(target=lambda: messages.append(twice()))
    thread.start()
    thread.join()
    assert "CAP_NET_RAW" in messages[0]
