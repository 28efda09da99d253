"""Several runs in one probe: every address of a name, repeated attempts, and both; what each run measured stays."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Gauge

from probe_exporter import runner
from probe_exporter.config.module import Module
from probe_exporter.exposition.encoding import encode
from probe_exporter.network import lookup
from probe_exporter.network.address_choice import resolve
from probe_exporter.network.opening import connect
from probe_exporter.network.settings import ConnectSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import OwnReason, ProbeFailed
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import MAX_SPANS, Probe
from probe_exporter.runner import Result
from probe_exporter.runs import several
from probe_exporter.tls.evidence import TLSEvidence
from tests.clocks import Clock
from tests.config.test_loading import load
from tests.outcomes import why
from tests.peers.golden import hold
from tests.targets import Pki
from tests.targets.dns import DnsServer, Says, Zone, record
from tests.targets.nodes import Node, Play, flapping, greet, hang, hang_up, nodes, page, pem_context, udp_nodes
from tests.targets.proxy import ProxyServer, SocksProxy
from tests.waiting import until

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"

SECONDS = 60.0
"""A timeout that never strikes."""

EXPECT = "tcp: {query_response: [{expect: hello}]}"

WAITED = Metric("probe_waiter_waits", "Number of waits.")
ODD = OwnReason("waiter_odd", "The server is odd.")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hosts file of the test: ``many.test`` has three addresses."""
    path = tmp_path / "hosts"
    path.write_text("127.0.0.4 many.test\n127.0.0.2 many.test one.test\n127.0.0.3 many.test\n::1 both.test\n")
    with path.open("a") as file:
        file.write("127.0.0.2 both.test\n")
    monkeypatch.setattr(lookup, "HOSTS", path)
    return path


def a_module(directory: Path, keys: str, prober: str = "tcp") -> Module:
    return load(directory, f"modules: {{m: {{prober: {prober}, {keys}}}}}\n").modules["m"]


def series(result: Result, name: str) -> dict[tuple[str, ...], float]:
    """Return the series of a metric by label values."""
    found = {metric.name: samples for metric, samples in result.probe.samples.families.items()}
    return dict(found.get(name, {}))


def passed(result: Result) -> dict[str, float]:
    """Return which addresses passed."""
    return {labels[0]: value for labels, value in series(result, "probe_address_success").items()}


def failures(result: Result) -> set[tuple[str, ...]]:
    return set(series(result, "probe_address_failure_info"))


def three(first: Node, second: Node, third: Node) -> Mapping[str, Node]:
    return {"127.0.0.2": first, "127.0.0.3": second, "127.0.0.4": third}


# --- addresses: which, and who decides -----------------------------------------------------------------------


async def test_every_address_is_probed_and_the_first_one_decides(tmp_path: Path, hosts: Path) -> None:
    servers = three(Node(greet), Node(greet), Node(greet))
    async with nodes(servers) as port:
        result = await runner.run(a_module(tmp_path, f"addresses: all, {EXPECT}"), f"many.test:{port}", SECONDS)
    assert result.success
    assert [node.clients for node in servers.values()] == [1, 1, 1]
    assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 1, "127.0.0.4": 1}
    assert series(result, "probe_addresses") == {(): 3}
    assert [(run.address, run.decides) for run in result.runs] == [
        ("127.0.0.2", True),
        ("127.0.0.3", False),
        ("127.0.0.4", False),
    ]
    phases = {phase for _, phase in series(result, "probe_address_duration_seconds")}
    assert phases == {"resolve", "connect", "dialogue"}
    assert set(series(result, "probe_tcp_duration_seconds")) == {("resolve",), ("connect",), ("dialogue",)}


async def test_module_without_the_key_probes_one_address(tmp_path: Path, hosts: Path) -> None:
    servers = three(Node(greet), Node(greet), Node(greet))
    async with nodes(servers) as port:
        result = await runner.run(a_module(tmp_path, EXPECT), f"many.test:{port}", SECONDS)
    assert sum(node.clients for node in servers.values()) == 1
    assert result.runs == ()
    assert series(result, "probe_addresses") == {}


@pytest.mark.parametrize(
    ("policy", "refusing", "success"),
    [
        ("all", 0, True),
        ("all", 1, False),
        ("any", 2, True),
        ("any", 3, False),
        ("quorum", 1, True),
        ("quorum", 2, False),
    ],
)
async def test_policy_says_how_many_must_pass(
    tmp_path: Path, hosts: Path, policy: str, refusing: int, success: bool
) -> None:
    servers = three(*[Node(None if index < refusing else greet) for index in range(3)])
    module = a_module(tmp_path, f"addresses: {{policy: {policy}}}, {EXPECT}")
    async with nodes(servers) as port:
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert result.success == success
    assert sum(passed(result).values()) == 3 - refusing
    decides = next(run for run in result.runs if run.decides)
    assert (not decides.reason) == success
    assert decides.address == f"127.0.0.{2 + (refusing if success else 0)}"


async def test_quorum_of_two_is_both(tmp_path: Path, hosts: Path) -> None:
    module = a_module(tmp_path, f"addresses: {{policy: quorum}}, {EXPECT}")
    async with nodes({"127.0.0.2": Node(greet), "::1": Node()}) as port:
        result = await runner.run(module, f"both.test:{port}", SECONDS)
    assert not result.success


async def test_failure_has_the_first_reason_and_names_the_addresses(tmp_path: Path, hosts: Path) -> None:
    async with nodes(three(Node(greet), Node(), Node(hang_up))) as port:
        result = await runner.run(a_module(tmp_path, f"addresses: all, {EXPECT}"), f"many.test:{port}", SECONDS)
    assert why(result) == ("connect_refused", "connect")
    assert result.failure is not None
    assert result.failure.message == (
        "2 of 3 addresses failed (policy all): 127.0.0.3 (connect_refused), 127.0.0.4 (dialogue_closed); "
        f"the first: connecting to 127.0.0.3:{port} failed: Connection refused"
    )
    assert failures(result) == {
        ("127.0.0.3", "connect_refused", "connect"),
        ("127.0.0.4", "dialogue_closed", "dialogue"),
    }
    assert set(series(result, "probe_failure_info")) == {("connect_refused", "connect")}


@pytest.mark.parametrize(("preferred", "addresses"), [("ip4", ["127.0.0.2", "::1"]), ("ip6", ["::1", "127.0.0.2"])])
async def test_preferred_version_is_first(tmp_path: Path, hosts: Path, preferred: str, addresses: list[str]) -> None:
    servers = {"127.0.0.2": Node(greet), "::1": Node(greet)}
    keys = f"addresses: all, tcp: {{preferred_ip_protocol: {preferred}}}"
    async with nodes(servers) as port:
        result = await runner.run(a_module(tmp_path, keys), f"both.test:{port}", SECONDS)
    assert [run.address for run in result.runs] == addresses
    assert series(result, "probe_ip_protocol") == {(): int(preferred[-1])}
    assert set(series(result, "probe_address_success")) == {("127.0.0.2", "4"), ("::1", "6")}


async def test_without_fallback_only_the_preferred_version_is_probed(tmp_path: Path, hosts: Path) -> None:
    servers = {"127.0.0.2": Node(greet), "::1": Node(greet)}
    keys = "addresses: all, tcp: {preferred_ip_protocol: ip4, ip_protocol_fallback: false}"
    async with nodes(servers) as port:
        result = await runner.run(a_module(tmp_path, keys), f"both.test:{port}", SECONDS)
    assert passed(result) == {"127.0.0.2": 1}
    assert servers["::1"].clients == 0


async def test_more_addresses_than_max_are_counted_and_the_same_ones_probed(tmp_path: Path, hosts: Path) -> None:
    module = a_module(tmp_path, "addresses: {max: 2}, tcp: {}")
    servers = three(Node(greet), Node(greet), Node(greet))
    async with nodes(servers) as port:
        for rotated in ((4, 2, 3), (3, 4, 2)):
            hosts.write_text("".join(f"127.0.0.{last} many.test\n" for last in rotated))
            result = await runner.run(module, f"many.test:{port}", SECONDS)
            assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 1}
            assert series(result, "probe_addresses") == {(): 3}
    assert servers["127.0.0.4"].clients == 0


async def test_name_is_looked_up_once_by_the_module_s_resolver(tmp_path: Path) -> None:
    """The scripted server rotates its answers, as real ones do; a second lookup would see other addresses."""
    zone = Zone({"many.test": [["127.0.0.3", "127.0.0.2", "::1"], ["127.0.0.9"]]})
    servers = {"127.0.0.2": Node(greet), "127.0.0.3": Node(greet), "::1": Node(greet)}
    async with DnsServer(zone) as server, nodes(servers) as port:
        resolver = f"resolver: {{servers: ['127.0.0.1:{server['port']}'], timeout: 60s}}"
        result = await runner.run(
            a_module(tmp_path, f"addresses: all, {resolver}, {EXPECT}"), f"many.test:{port}", SECONDS
        )
    assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 1, "::1": 1}
    assert zone.asked == ["many.test", "many.test"], "A and AAAA"


async def test_lookup_time_is_that_of_the_first_run_also_if_another_decides(tmp_path: Path, hosts: Path) -> None:
    module = a_module(tmp_path, f"addresses: {{policy: any}}, {EXPECT}")
    async with nodes(three(Node(), Node(greet), Node(greet))) as port:
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert [run.decides for run in result.runs] == [False, True, False]
    looked_up = series(result, "probe_dns_lookup_time_seconds")[()]
    assert looked_up >= series(result, "probe_address_duration_seconds")["127.0.0.2", "resolve"]


async def test_name_that_does_not_resolve_has_no_addresses(tmp_path: Path) -> None:
    async with DnsServer(Zone({})) as server:
        resolver = f"resolver: {{servers: ['127.0.0.1:{server['port']}'], timeout: 60s}}"
        result = await runner.run(a_module(tmp_path, f"addresses: all, {resolver}"), "none.test:1", SECONDS)
    assert why(result) == ("dns_name_not_found", "resolve")
    assert series(result, "probe_addresses") == {(): 0}
    assert passed(result) == {}
    assert [(run.address, run.reason, run.decides) for run in result.runs] == [("", "dns_name_not_found", True)]


@pytest.mark.parametrize(("target", "protocol"), [("127.0.0.2", "4"), ("[::1]", "6")])
async def test_target_that_is_an_address_has_one(tmp_path: Path, target: str, protocol: str) -> None:
    address = target.strip("[]")
    async with nodes({address: Node(greet)}) as port:
        result = await runner.run(a_module(tmp_path, f"addresses: all, {EXPECT}"), f"{target}:{port}", SECONDS)
    assert result.success
    assert series(result, "probe_address_success") == {(address, protocol): 1}
    assert series(result, "probe_addresses") == {(): 1}


async def test_socket_in_the_file_system_is_one_address(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = await asyncio.start_unix_server(Node(greet).serve, path)
    async with server:
        result = await runner.run(a_module(tmp_path, "addresses: all", "unix"), str(path), SECONDS)
    assert result.success
    assert series(result, "probe_address_success") == {(str(path), "0"): 1}
    missing = await runner.run(a_module(tmp_path, "addresses: all", "unix"), f"{path}.no", SECONDS)
    assert series(missing, "probe_address_success") == {(f"{path}.no", "0"): 0}


# --- addresses: time -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_after_another", [False, True])
async def test_address_that_hangs_fails_alone(
    tmp_path: Path, hosts: Path, clock: Clock, one_after_another: bool
) -> None:
    keys = f"addresses: {{policy: any, one_after_another: {str(one_after_another).lower()}}}, {EXPECT}"
    servers = three(Node(hang), Node(greet), Node(greet))
    async with nodes(servers) as port:
        result = await runner.run(a_module(tmp_path, keys), f"many.test:{port}", SECONDS)
    assert result.success
    assert passed(result) == {"127.0.0.2": 0, "127.0.0.3": 1, "127.0.0.4": 1}
    assert failures(result) == {("127.0.0.2", "timeout_dialogue", "dialogue")}


async def test_addresses_in_turn_share_the_time(tmp_path: Path, hosts: Path, clock: Clock) -> None:
    module = a_module(tmp_path, f"addresses: {{one_after_another: yes}}, {EXPECT}")
    servers = three(Node(hang), Node(hang), Node(hang))
    async with nodes(servers) as port:
        result = await runner.run(module, f"many.test:{port}", 90.0)
    assert why(result) == ("timeout_dialogue", "dialogue")
    assert [node.clients for node in servers.values()] == [1, 1, 1]
    assert failures(result) == {(address, "timeout_dialogue", "dialogue") for address in servers}
    starts = [run.start for run in result.runs]
    assert [round(start / 10) for start in starts] == [0, 3, 6]


async def test_addresses_in_turn_are_probed_one_at_a_time(tmp_path: Path, hosts: Path) -> None:
    open_now: list[int] = []
    most: list[int] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_now.append(1)
        most.append(len(open_now))
        writer.write(b"hello\n")
        await reader.read()
        open_now.pop()

    keys = f"addresses: {{one_after_another: yes}}, {EXPECT}"
    async with nodes(three(Node(count), Node(count), Node(count))) as port:
        result = await runner.run(a_module(tmp_path, keys), f"many.test:{port}", SECONDS)
    assert result.success
    ends = [run.start + run.seconds for run in result.runs]
    assert [run.start for run in result.runs[1:]] >= ends[:-1]
    assert len(most) == 3


async def test_address_that_the_time_does_not_reach_fails(tmp_path: Path, hosts: Path, clock: Clock) -> None:
    """Nothing is sent to it."""
    tried: list[str] = []

    async def run_one(probe: Probe) -> None:
        tried.append(await resolve(probe, "many.test"))
        await asyncio.sleep(100.0)  # longer than its share, and than the deadline of all
        probe.fail(ProbeFailed(ODD, "odd"))

    module = a_module(tmp_path, "addresses: {one_after_another: yes}")
    assert module.several is not None
    now = asyncio.get_running_loop().time
    probe = Probe("many.test", now() + SECONDS, now)
    runs = await module.several.perform(None, probe, run_one)
    assert [(run.address, run.reason) for run in runs] == [
        ("127.0.0.2", "timeout_probe"),
        ("127.0.0.3", "waiter_odd"),
        ("127.0.0.4", "timeout_probe"),
    ]
    assert tried == ["127.0.0.2", "127.0.0.3"]


async def test_all_runs_end_when_the_client_disconnects(tmp_path: Path, hosts: Path) -> None:
    servers = three(Node(hang), Node(hang), Node(hang))
    async with nodes(servers) as port:
        module = a_module(tmp_path, f"addresses: all, {EXPECT}")
        others = asyncio.all_tasks()
        probing = asyncio.create_task(runner.run(module, f"many.test:{port}", SECONDS))
        await until(lambda: all(node.clients for node in servers.values()))
        during = asyncio.all_tasks()
        probing.cancel()
        await asyncio.wait([probing])
        assert probing.cancelled()
        assert asyncio.all_tasks() & during <= others


# --- addresses: network policy -------------------------------------------------------------------------------


async def test_guard_checks_each_address(tmp_path: Path, hosts: Path) -> None:
    servers = three(Node(greet), Node(greet), Node(greet))
    module = a_module(tmp_path, f"addresses: {{policy: any}}, targets: {{deny: [127.0.0.3]}}, {EXPECT}")
    async with nodes(servers) as port:
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert result.success
    assert servers["127.0.0.3"].clients == 0
    assert failures(result) == {("127.0.0.3", "target_denied", "connect")}


async def test_guard_knows_the_name_of_each_address(tmp_path: Path, hosts: Path) -> None:
    """The name is denied with one port, which is known only when a run connects."""
    servers = three(Node(greet), Node(greet), Node(greet))
    async with nodes(servers) as port:
        module = a_module(tmp_path, f"addresses: all, targets: {{deny: ['many.test:{port}']}}, {EXPECT}")
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert failures(result) == {(address, "target_denied", "connect") for address in servers}
    assert sum(node.clients for node in servers.values()) == 0


async def test_proxy_that_looks_the_name_up_itself_is_refused(tmp_path: Path, hosts: Path) -> None:
    proxy = Node(hang_up)
    async with nodes({"127.0.0.1": proxy}) as port:
        keys = f"addresses: all, http: {{proxy_url: 'http://127.0.0.1:{port}'}}"
        result = await runner.run(a_module(tmp_path, keys, "http"), "http://many.test/", SECONDS)
    assert why(result) == ("settings_unusable", "proxy")
    assert proxy.clients == 0


async def test_socks5_proxy_gets_each_address(tmp_path: Path, hosts: Path) -> None:
    async with ProxyServer(behaviour=SocksProxy()) as proxy, nodes({"127.0.0.1": Node(page())}) as port:
        keys = f"addresses: all, http: {{proxy_url: 'socks5://127.0.0.1:{proxy['port']}'}}"
        result = await runner.run(a_module(tmp_path, keys, "http"), f"http://many.test:{port}/", SECONDS)
    assert result.success
    assert {one.line for one in proxy.requests if "connect" in one.line} == {
        f"SOCKS connect to address {address} port {port}" for address in passed(result)
    }
    assert len(passed(result)) == 3


async def test_name_that_is_left_to_a_proxy_has_no_addresses(tmp_path: Path) -> None:
    async with ProxyServer(behaviour=SocksProxy()) as proxy, nodes({"127.0.0.1": Node(page())}) as port:
        url = f"socks5h://127.0.0.1:{proxy['port']}"
        keys = f"addresses: all, http: {{proxy_url: '{url}', skip_resolve_phase_with_proxy: true}}"
        result = await runner.run(a_module(tmp_path, keys, "http"), f"http://nowhere.invalid:{port}/", SECONDS)
    assert result.success
    assert series(result, "probe_addresses") == {(): 0}
    assert [run.address for run in result.runs] == [""]


# --- addresses: every prober ---------------------------------------------------------------------------------

PROBES = {
    "tcp": ("tcp: {}", "{host}:{port}", "connect_refused"),
    "http": ("http: {}", "http://{host}:{port}/", "connect_refused"),
    "https": ("http: {}", "https://{host}:{port}/", "connect_refused"),
    "http3": ("http: {enable_http3: true, enable_http2: false}", "https://{host}:{port}/", "connect_refused"),
    "websocket": ("websocket: {}", "ws://{host}:{port}/", "connect_refused"),
    "grpc": ("grpc: {}", "http://{host}:{port}", "connect_refused"),
    "dns": ("dns: {query_name: example.test}", "{host}:{port}", "connect_refused"),
    "dns over tcp": ("dns: {query_name: example.test, transport_protocol: tcp}", "{host}:{port}", "connect_refused"),
    "udp": ("udp: {query_response: [{send: x}, {expect: y}]}", "{host}:{port}", "udp_port_unreachable"),
    "exporter": ("exporter: {}", "http://{host}:{port}/", "connect_refused"),
}


@pytest.mark.parametrize("case", PROBES)
async def test_every_prober_that_connects_probes_each_address(tmp_path: Path, hosts: Path, case: str) -> None:
    keys, target, reason = PROBES[case]
    module = a_module(tmp_path, f"addresses: all, {keys}", keys.partition(":")[0])
    async with nodes(three(Node(), Node(), Node())) as port:
        result = await runner.run(module, target.format(host="many.test", port=port), SECONDS)
    addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert [run.address for run in result.runs] == addresses
    assert {run.reason for run in result.runs} == {reason}
    if reason == "connect_refused":
        assert all(run.address in run.message for run in result.runs)


async def test_ping_to_a_denied_address_fails_alone(tmp_path: Path, hosts: Path) -> None:
    module = a_module(tmp_path, "addresses: {policy: quorum}, targets: {deny: [127.0.0.3]}", "icmp")
    result = await runner.run(module, "many.test", SECONDS)
    assert result.success
    assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 0, "127.0.0.4": 1}
    assert {(address, reason) for address, reason, _ in failures(result)} == {("127.0.0.3", "target_denied")}
    phases = {phase for address, phase in series(result, "probe_address_duration_seconds") if address == "127.0.0.4"}
    assert phases == {"resolve", "setup", "rtt"}


async def test_ping_that_no_address_takes_names_all_of_them(tmp_path: Path, hosts: Path) -> None:
    module = a_module(tmp_path, "addresses: {policy: any}, icmp: {payload_size: 100000}", "icmp")
    result = await runner.run(module, "many.test", SECONDS)
    assert why(result) == ("icmp_packet_too_big", "rtt")
    assert result.failure is not None
    named = ", ".join(f"127.0.0.{last} (icmp_packet_too_big)" for last in (2, 3, 4))
    assert result.failure.message.startswith(f"3 of 3 addresses failed (policy any): {named}; the first: ")


async def test_ping_goes_to_each_address(tmp_path: Path, hosts: Path) -> None:
    result = await runner.run(a_module(tmp_path, "addresses: all", "icmp"), "many.test", SECONDS)
    assert result.success
    assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 1, "127.0.0.4": 1}


@pytest.mark.parametrize(("policy", "success"), [("any", True), ("quorum", False), ("all", False)])
async def test_udp_prober_probes_each_address(tmp_path: Path, hosts: Path, policy: str, success: bool) -> None:
    keys = f"addresses: {{policy: {policy}}}, udp: {{query_response: [{{send: ping}}, {{expect: '^pong'}}]}}"
    async with udp_nodes({"127.0.0.2": None, "127.0.0.3": lambda _: b"pong", "127.0.0.4": None}) as port:
        result = await runner.run(a_module(tmp_path, keys, "udp"), f"many.test:{port}", SECONDS)
    assert result.success == success
    assert passed(result) == {"127.0.0.2": 0, "127.0.0.3": 1, "127.0.0.4": 0}
    assert {reason for _, reason, _ in failures(result)} == {"udp_port_unreachable"}
    assert [run.address for run in result.runs if run.decides] == ["127.0.0.3" if success else "127.0.0.2"]


async def test_dns_over_tls_probes_each_address(tmp_path: Path, hosts: Path, pki: Pki) -> None:
    """One server answers, one has an old certificate, and one refuses the query."""

    def answers(flags: int) -> Play:
        script = Says(() if flags & 0xF else (record("example.test", "A", "192.0.2.1"),), flags=flags)

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            size = int.from_bytes(await reader.readexactly(2), "big")
            for part in script(await reader.readexactly(size)):
                assert isinstance(part, bytes)
                writer.write(len(part).to_bytes(2, "big") + part)
            await reader.read()

        return play

    leaf, expired = (pem_context(pki.directory, name) for name in ("leaf", "expired"))
    servers = three(Node(answers(0x8183), leaf), Node(answers(0x8180), expired), Node(answers(0x8180), leaf))
    tls = f"tls_config: {{ca_file: '{pki.directory}/root.pem', server_name: localhost}}"
    dns = f"dns: {{query_name: example.test, query_type: A, transport_protocol: tcp, dns_over_tls: true, {tls}}}"
    async with nodes(servers) as port:
        result = await runner.run(
            a_module(tmp_path, f"addresses: {{policy: any}}, {dns}", "dns"), f"many.test:{port}", SECONDS
        )
    assert result.success
    assert [(run.reason, run.phase) for run in result.runs] == [
        ("dns_rcode", "validation"),
        ("certificate_expired", "tls"),
        ("", ""),
    ]
    assert senders(result) == [(address, address, 0) for address in servers]
    assert len({run.fingerprint_sha256 for run in result.runs}) == 2
    assert series(result, "probe_dns_answer_rrs") == {(): 1}


async def test_redirect_to_another_name_leaves_the_address(tmp_path: Path, hosts: Path) -> None:
    """Each address of the first hop's name is probed; the second hop is an ordinary one."""
    async with nodes({"127.0.0.2": Node(page())}) as after:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: http://one.test:{after}/\r\n".encode()
        servers = {"127.0.0.3": Node(page(redirect)), "127.0.0.4": Node(page(redirect))}
        hosts.write_text("127.0.0.3 many.test\n127.0.0.4 many.test\n127.0.0.2 one.test\n")
        async with nodes(servers) as port:
            result = await runner.run(
                a_module(tmp_path, "addresses: all", "http"), f"http://many.test:{port}/", SECONDS
            )
    assert result.success
    assert passed(result) == {"127.0.0.3": 1, "127.0.0.4": 1}
    assert [node.clients for node in servers.values()] == [1, 1]


async def test_certificate_of_each_address_is_told(tmp_path: Path, hosts: Path, pki: Pki) -> None:
    """One node still has another certificate; a query finds it."""
    servers = three(
        Node(page(), pem_context(pki.directory, "leaf")),
        Node(page(), pem_context(pki.directory, "leaf")),
        Node(page(), pem_context(pki.directory, "expired")),
    )
    tls = f"tls_config: {{ca_file: '{pki.directory}/root.pem', server_name: localhost}}"
    module = a_module(tmp_path, f"addresses: {{policy: quorum}}, http: {{{tls}}}", "http")
    async with nodes(servers) as port:
        result = await runner.run(module, f"https://many.test:{port}/", SECONDS)
    assert result.success
    assert failures(result) == {("127.0.0.4", "certificate_expired", "tls")}
    fingerprints = {labels[0]: labels[1] for labels in series(result, "probe_address_ssl_cert_info")}
    assert fingerprints["127.0.0.2"] == fingerprints["127.0.0.3"] != fingerprints["127.0.0.4"]
    expiry = {address: value for (address,), value in series(result, "probe_address_ssl_earliest_cert_expiry").items()}
    assert expiry["127.0.0.2"] == expiry["127.0.0.3"] > expiry["127.0.0.4"]
    [decides] = [run for run in result.runs if run.decides]
    assert decides.fingerprint_sha256 == fingerprints[decides.address]
    assert series(result, "probe_ssl_earliest_cert_expiry") == {(): expiry["127.0.0.2"]}


async def test_certificates_are_kept_with_their_sender(tmp_path: Path, hosts: Path, pki: Pki) -> None:
    """After a redirect another address sends some; behind a proxy only the run is known."""
    leaf = pem_context(pki.directory, "leaf")
    tls = "tls_config: {insecure_skip_verify: true}"
    async with nodes({"127.0.0.2": Node(page(), leaf)}) as after:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: https://one.test:{after}/\r\n".encode()
        servers = {"127.0.0.3": Node(page(redirect), leaf), "127.0.0.4": Node(page(), leaf)}
        hosts.write_text("127.0.0.3 many.test\n127.0.0.4 many.test\n127.0.0.2 one.test\n")
        async with nodes(servers) as port:
            module = a_module(tmp_path, f"addresses: all, attempts: {{}}, http: {{{tls}}}", "http")
            direct = await runner.run(module, f"https://many.test:{port}/", SECONDS)
    assert direct.success
    assert senders(direct) == [("127.0.0.3", "127.0.0.3", 1), ("127.0.0.2", "127.0.0.3", 1), ("127.0.0.4",) * 2 + (1,)]
    async with ProxyServer(behaviour=SocksProxy()) as proxy, nodes({"127.0.0.1": Node(page(), leaf)}) as port:
        keys = f"addresses: all, http: {{proxy_url: 'socks5://127.0.0.1:{proxy['port']}', {tls}}}"
        proxied = await runner.run(a_module(tmp_path, keys, "http"), f"https://many.test:{port}/", SECONDS)
    assert proxied.success
    assert senders(proxied) == [("", "127.0.0.3", 0), ("", "127.0.0.4", 0)]


def senders(result: Result) -> list[tuple[str, str, int]]:
    """Return of each handshake the address, the run and the attempt."""
    shown = [one for one in result.probe.evidence if isinstance(one, TLSEvidence)]
    assert len(shown) == len(result.probe.evidence)
    return [(one.address, one.run, one.attempt) for one in shown]


# --- a user's prober -----------------------------------------------------------------------------------------


def own_module(directory: Path, probe: Callable[[Probe, ConnectSettings], Awaitable[None]], keys: str) -> Module:
    """Return a module of a prober that a user wrote."""
    prober = Prober("waiter", ConnectSettings, probe, reasons=(ODD,))
    return replace(a_module(directory, keys), prober=prober, settings=ConnectSettings())


async def test_prober_of_a_user_has_it_for_free(tmp_path: Path, hosts: Path) -> None:
    async def probe_wait(probe: Probe, settings: ConnectSettings) -> None:
        host, _, port = probe.target.rpartition(":")
        connection = await connect(probe, host, int(port), settings)
        probe.add(WAITED, 1)
        Gauge("probe_waiter_gauge", "A gauge of prometheus_client.", registry=probe.registry).set(3)
        connection.close()

    module = own_module(tmp_path, probe_wait, "addresses: {policy: any}, attempts: {}")
    async with nodes(three(Node(), Node(greet), Node(greet))) as port:
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert result.success
    assert series(result, "probe_waiter_waits") == {(): 1}, "of the deciding run alone"
    assert passed(result) == {"127.0.0.2": 0, "127.0.0.3": 1, "127.0.0.4": 1}
    assert b"probe_waiter_gauge 3" in encode(result.probe.samples)


async def test_bug_and_undeclared_reason_of_a_run_are_internal_errors(tmp_path: Path, hosts: Path) -> None:
    async def probe_badly(probe: Probe, settings: ConnectSettings) -> None:
        address = await resolve(probe, probe.target)
        if address == "127.0.0.2":
            raise ProbeFailed(OwnReason("other_reason", "Another prober's."), "no")
        if address == "127.0.0.3":
            raise KeyError(address)
        raise ProbeFailed(ODD, "odd")

    module = own_module(tmp_path, probe_badly, "addresses: all")
    result = await runner.run(module, "many.test", SECONDS)
    assert failures(result) == {
        ("127.0.0.2", "internal_error", ""),
        ("127.0.0.3", "internal_error", ""),
        ("127.0.0.4", "waiter_odd", ""),
    }


# --- attempts ------------------------------------------------------------------------------------------------


def attempts_of(result: Result) -> tuple[float, float, set[tuple[str, ...]]]:
    """Return the number of attempts, whether the first one succeeded, and why others failed."""
    return (
        series(result, "probe_attempts")[()],
        series(result, "probe_first_attempt_success")[()],
        set(series(result, "probe_attempt_failure_info")),
    )


async def test_failed_run_is_repeated_and_nothing_is_hidden(tmp_path: Path) -> None:
    server = Node(flapping(2))
    async with nodes({"127.0.0.1": server}) as port:
        result = await runner.run(a_module(tmp_path, f"attempts: {{max: 3}}, {EXPECT}"), f"127.0.0.1:{port}", SECONDS)
    assert result.success
    assert server.clients == 3
    closed = ("dialogue_closed", "dialogue")
    assert attempts_of(result) == (3, 0, {("1", *closed), ("2", *closed)})
    assert series(result, "probe_failure_info") == {}
    assert series(result, "probe_timeout_seconds") == {(): SECONDS}
    assert [(run.attempt, run.reason, run.decides) for run in result.runs] == [
        (1, "dialogue_closed", False),
        (2, "dialogue_closed", False),
        (3, "", True),
    ]


async def test_ping_is_repeated(tmp_path: Path) -> None:
    """A packet that is too large fails at once, each time."""
    module = a_module(tmp_path, "attempts: {max: 3}, icmp: {payload_size: 100000}", "icmp")
    result = await runner.run(module, "127.0.0.1", SECONDS)
    assert why(result) == ("icmp_packet_too_big", "rtt")
    assert attempts_of(result) == (3, 0, {(number, "icmp_packet_too_big", "rtt") for number in "123"})
    other = a_module(tmp_path, "attempts: {max: 3, only: [icmp_unreachable]}, icmp: {payload_size: 100000}", "icmp")
    assert attempts_of(await runner.run(other, "127.0.0.1", SECONDS))[0] == 1


async def test_ping_passes_at_the_second_attempt(tmp_path: Path) -> None:
    """The name has no address yet when it is looked up first."""
    async with DnsServer(Zone({"new.test": [[], ["127.0.0.1"]]})) as server:
        resolver = f"resolver: {{servers: ['127.0.0.1:{server['port']}'], timeout: 60s}}"
        result = await runner.run(a_module(tmp_path, f"attempts: {{}}, {resolver}", "icmp"), "new.test", SECONDS)
    assert result.success
    assert attempts_of(result) == (2, 0, {("1", "dns_no_address", "resolve")})
    assert {"resolve", "setup", "rtt"} <= {phase for (phase,) in series(result, "probe_icmp_duration_seconds")}


async def test_success_at_once_is_one_attempt(tmp_path: Path) -> None:
    server = Node(greet)
    async with nodes({"127.0.0.1": server}) as port:
        result = await runner.run(a_module(tmp_path, f"attempts: {{}}, {EXPECT}"), f"127.0.0.1:{port}", SECONDS)
    assert server.clients == 1
    assert attempts_of(result) == (1, 1, set())


async def test_last_attempt_that_fails_is_the_failure(tmp_path: Path) -> None:
    server = Node(hang_up)
    async with nodes({"127.0.0.1": server}) as port:
        result = await runner.run(a_module(tmp_path, f"attempts: {{max: 2}}, {EXPECT}"), f"127.0.0.1:{port}", SECONDS)
    assert why(result) == ("dialogue_closed", "dialogue")
    assert server.clients == 2
    assert attempts_of(result)[0] == 2


@pytest.mark.parametrize(("only", "clients"), [("[dialogue_closed]", 3), ("[connect_refused, tls_handshake]", 1)])
async def test_only_listed_reasons_are_repeated(tmp_path: Path, only: str, clients: int) -> None:
    server = Node(hang_up)
    async with nodes({"127.0.0.1": server}) as port:
        await runner.run(a_module(tmp_path, f"attempts: {{only: {only}}}, {EXPECT}"), f"127.0.0.1:{port}", SECONDS)
    assert server.clients == clients


@pytest.mark.parametrize(("only", "attempts"), [("[]", 1), ("[target_invalid]", 3)])
async def test_failure_that_a_repetition_does_not_change_is_not_repeated(
    tmp_path: Path, only: str, attempts: int
) -> None:
    result = await runner.run(a_module(tmp_path, f"attempts: {{only: {only}}}"), "no-port", SECONDS)
    assert why(result) is not None
    assert attempts_of(result)[0] == attempts


async def test_target_that_hangs_leaves_time_for_the_other_attempts(tmp_path: Path, clock: Clock) -> None:
    server = Node(hang)
    module = a_module(tmp_path, f"attempts: {{max: 3, only: [timeout_dialogue]}}, {EXPECT}")
    async with nodes({"127.0.0.1": server}) as port:
        result = await runner.run(module, f"127.0.0.1:{port}", 90.0)
    assert why(result) == ("timeout_dialogue", "dialogue")
    assert server.clients == 3
    assert [round(run.start / 10) for run in result.runs] == [0, 3, 6]


async def test_attempts_wait_for_the_delay(tmp_path: Path, clock: Clock) -> None:
    server = Node(flapping(1))
    module = a_module(tmp_path, f"attempts: {{max: 2, delay: 20s}}, {EXPECT}")
    async with nodes({"127.0.0.1": server}) as port:
        result = await runner.run(module, f"127.0.0.1:{port}", SECONDS)
    assert result.success
    assert [round(run.start / 10) for run in result.runs] == [0, 2]


async def test_no_attempt_begins_that_the_deadline_does_not_allow(tmp_path: Path, clock: Clock) -> None:
    """The delay is longer than the probe's timeout: it is not even waited for."""
    server = Node(hang_up)
    async with nodes({"127.0.0.1": server}) as port:
        module = a_module(tmp_path, f"attempts: {{delay: 70s}}, {EXPECT}")
        result = await runner.run(module, f"127.0.0.1:{port}", SECONDS)
    assert why(result) == ("dialogue_closed", "dialogue")
    assert server.clients == 1
    assert attempts_of(result)[0] == 1
    assert "No time for another attempt" in [event.message for event in result.probe.events]


async def test_phases_of_all_runs_are_kept_within_limits(tmp_path: Path, hosts: Path) -> None:
    async def talk(probe: Probe, settings: ConnectSettings) -> None:
        await resolve(probe, probe.target)
        for _ in range(MAX_SPANS):
            with probe.phase("word"):
                pass
        raise ProbeFailed(ODD, "odd")

    two = await runner.run(own_module(tmp_path, talk, "attempts: {max: 2}"), "many.test", SECONDS)
    assert [len(run.spans) for run in two.runs] == [MAX_SPANS] * 2
    many = await runner.run(own_module(tmp_path, talk, "addresses: all, attempts: {max: 10}"), "many.test", SECONDS)
    assert len(many.runs) == 30
    assert {len(run.spans) for run in many.runs} == {several.MAX_ALL_SPANS // 30}
    assert {run.spans[0][0] for run in many.runs} == {"resolve"}


# --- both ----------------------------------------------------------------------------------------------------


async def test_attempts_stand_around_addresses(tmp_path: Path, hosts: Path) -> None:
    """If the policy fails, every address is probed again; the series of addresses are those of the last attempt."""
    servers = three(Node(greet), Node(flapping(1)), Node(greet))
    async with nodes(servers) as port:
        module = a_module(tmp_path, f"addresses: all, attempts: {{max: 2}}, {EXPECT}")
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    assert result.success
    assert [node.clients for node in servers.values()] == [2, 2, 2]
    assert passed(result) == {"127.0.0.2": 1, "127.0.0.3": 1, "127.0.0.4": 1}
    assert attempts_of(result) == (2, 0, {("1", "dialogue_closed", "dialogue")})
    assert [(run.attempt, run.address, run.decides) for run in result.runs] == [
        *[(1, address, False) for address in servers],
        *[(2, address, address == "127.0.0.2") for address in servers],
    ]


async def test_log_has_the_lines_of_all_runs(tmp_path: Path, hosts: Path) -> None:
    servers = three(Node(greet), Node(flapping(1)), Node(greet))
    async with nodes(servers) as port:
        module = a_module(tmp_path, f"addresses: all, attempts: {{max: 2}}, {EXPECT}")
        result = await runner.run(module, f"many.test:{port}", SECONDS)
    of_runs = [event for event in result.probe.events if "address" in event.fields]
    assert {(event.fields["attempt"], event.fields["address"]) for event in of_runs} == {
        (attempt, address) for attempt in (1, 2) for address in servers
    }
    ended = [(event.message, event.fields["address"]) for event in of_runs if event.message.startswith("Run ")]
    assert ended.count(("Run failed", "127.0.0.3")) == 1
    assert len(ended) == 6
    messages = [event.message for event in result.probe.events]
    assert (messages[0], messages[-1]) == ("Beginning probe", "Probe succeeded")


async def test_filter_drops_series_of_runs(tmp_path: Path, hosts: Path) -> None:
    keys = f"addresses: all, drop: ['probe_address_duration_seconds'], {EXPECT}"
    async with nodes(three(Node(greet), Node(greet), Node(greet))) as port:
        result = await runner.run(a_module(tmp_path, keys), f"many.test:{port}", SECONDS)
    assert series(result, "probe_address_duration_seconds") == {}
    assert len(passed(result)) == 3


# --- golden --------------------------------------------------------------------------------------------------


def shown(result: Result, port: int) -> str:
    """Return the exposition with durations, hashes and the port blanked."""
    text = encode(result.probe.samples).decode().replace(str(port), "{port}")
    text = re.sub(r"(?m)^(probe_\w*(?:_seconds|_hash)\b(?:\{.*\})?) (?!60$).*$", r"\1 <number>", text)
    return re.sub(r"(?m)^(# HELP .*|# TYPE .*)\n", "", text)


async def test_metrics_match_golden_files(tmp_path: Path, hosts: Path) -> None:
    """UPDATE_GOLDEN=1 rewrites the files."""
    GOLDEN.mkdir(exist_ok=True)
    cases = {
        "addresses": ("addresses: all", three(Node(greet), Node(), Node(hang_up))),
        "any_address": ("addresses: {policy: any}", three(Node(), Node(greet), Node(greet))),
        "attempts": ("attempts: {max: 3}", three(Node(flapping(2)), Node(), Node())),
        "both": ("addresses: all, attempts: {max: 2}", three(Node(greet), Node(flapping(1)), Node(greet))),
    }
    for name, (keys, servers) in cases.items():
        target = "one.test" if name == "attempts" else "many.test"
        async with nodes(servers) as port:
            result = await runner.run(a_module(tmp_path, f"{keys}, {EXPECT}"), f"{target}:{port}", SECONDS)
        hold(GOLDEN / f"{name}.txt", shown(result, port))
