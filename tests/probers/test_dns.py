"""The dns prober against scripted servers: reasons, phases, durations and metrics.

Side by side with the original stand the values (tests/peers); here stands what only ours has, and why it happens.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any, cast

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import dns
from probe_exporter.probers.dns import DnsSettings, prober
from probe_exporter.protocols.dns.wire import name_to_wire
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.cost import short_turns
from tests.deadlines import in_phase, run_until
from tests.outcomes import seconds_of_phases, why
from tests.targets import Pause, Pki, Tls
from tests.targets.dns import (
    DnsServer,
    Says,
    Script,
    echo,
    garbage,
    name,
    one_after_another,
    opt,
    record,
    silence,
)
from tests.targets.scripted_server import ScriptedServer, Secure, then_silence

A = record("www.example.test", "A", "192.0.2.1")
OK = Says([A])
TCP: dict[str, Any] = {"transport_protocol": "tcp"}


def module(**settings: Any) -> Module:
    block = {"query_name": "www.example.test", "query_type": "A", **settings}
    return Module("m", prober, DnsSettings.model_validate(block), 0.0, Place("test.yml"))


async def probe(server: DnsServer, target: str = "127.0.0.1:{port}", timeout: float = 20.0, **settings: Any) -> Result:
    """Probe a server that is running."""
    return await run(module(**settings), server.fill(target), timeout)


async def one(script: Script, timeout: float = 20.0, **settings: Any) -> Result:
    """Probe a server of its own."""
    async with DnsServer(script) as server:
        return await probe(server, timeout=timeout, **settings)


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, dns.DURATION)


def counted(result: Result) -> tuple[float, ...]:
    """Return the number of records in the three sections, and whether the query succeeded."""
    metrics = (dns.ANSWER_RRS, dns.AUTHORITY_RRS, dns.ADDITIONAL_RRS, dns.QUERY_SUCCEEDED)
    return tuple(result.probe.samples.get(metric) for metric in metrics)


# --- success -----------------------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("transport", ["udp", "tcp"])


@BOTH
async def test_valid_response_passes(transport: str) -> None:
    result = await one(Says([A, A], [A], [A, opt()]), transport_protocol=transport)
    assert why(result) is None
    assert counted(result) == (2, 1, 2, 1)
    assert all(value >= 0 for value in seconds(result).values())
    assert seconds(result)["connect"] > 0
    assert seconds(result)["request"] > 0


async def test_dns_over_tls_passes_and_reports_the_certificate(pki: Pki) -> None:
    async with DnsServer(OK, Tls(), pki.directory) as server:
        settings: dict[str, Any] = {
            **TCP,
            "dns_over_tls": True,
            "tls_config": {"ca_file": str(pki.directory / "root.pem")},
        }
        result = await probe(server, "localhost:{tls_port}", preferred_ip_protocol="ip4", **settings)
    assert why(result) is None
    assert server.requests[0].server_name == "localhost"
    assert metrics.CERTIFICATE_INFO in result.probe.samples.labelled
    assert metrics.VERSION_INFO in result.probe.samples.labelled


async def test_unverified_certificate_is_reported(pki: Pki) -> None:
    async with DnsServer(OK, Tls(), pki.directory) as server:
        result = await probe(server, "localhost:{tls_port}", dns_over_tls=True, **TCP)
    assert why(result) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")
    assert metrics.CERTIFICATE_INFO in result.probe.samples.labelled
    assert seconds(result)["connect"] > 0
    assert seconds(result)["request"] == 0


@pytest.mark.usefixtures("clock")
async def test_durations_count_the_server_s_delay_in_its_phase() -> None:
    result = await one(one_after_another(Pause(10), OK))
    assert 9.9 < seconds(result)["request"] < 15
    assert seconds(result)["connect"] < 5


async def test_queries_have_random_ids_and_no_edns() -> None:
    asked = []

    def script(query: bytes) -> list[bytes]:
        asked.append(query)
        return list(OK(query))  # type: ignore[arg-type]

    async with DnsServer(script) as server:
        for _ in range(8):
            await probe(server)
    assert len({query[:2] for query in asked}) > 4
    assert {query[2:] for query in asked} == {b"\1\0\0\1\0\0\0\0\0\0" + name("www.example.test") + b"\0\1\0\1"}


@pytest.mark.parametrize("size", [20, 1000])
async def test_large_datagram_is_read_whole(size: int) -> None:
    result = await one(Says([A] * size))
    assert why(result) is None
    assert counted(result)[0] == size


async def test_truncated_response_is_accepted_without_retry_over_tcp() -> None:
    async with DnsServer(Says([A], flags=0x8380)) as server:
        assert why(await probe(server)) is None
        assert len(server.requests) == 1


# --- failures, each with its reason and its phase ----------------------------------------------------------

QUESTION = name("other.example.test") + b"\0\1\0\1"
AT_ONCE: dict[str, tuple[Script, Reason]] = {
    "wrong name in the question": (Says([A], question=QUESTION), Reason.DNS_RESPONSE_WRONG_QUESTION),
    "wrong type in the question": (
        Says([A], question=name("www.example.test") + b"\0\2\0\1"),
        Reason.DNS_RESPONSE_WRONG_QUESTION,
    ),
    "no response flag": (Says([A], flags=0x0180), Reason.DNS_RESPONSE_NO_FLAG),
    "query sent back": (echo, Reason.DNS_RESPONSE_NO_FLAG),
    "garbage": (garbage(b"\xff" * 40), Reason.DNS_RESPONSE_MALFORMED),
    "too short for a header": (garbage(b"\xff" * 5), Reason.DNS_RESPONSE_MALFORMED),
    "truncated record": (Says([A], cut=1), Reason.DNS_RESPONSE_MALFORMED),
    "address of three bytes": (Says([record("a", "A", b"abc")]), Reason.DNS_RESPONSE_MALFORMED),
    "refused": (Says(flags=0x8185), Reason.DNS_RCODE),
    "extended response code": (Says(additional=[opt(ttl=0x01000000)]), Reason.DNS_RCODE),
}


@BOTH
@pytest.mark.parametrize(("script", "reason"), AT_ONCE.values(), ids=AT_ONCE)
async def test_invalid_response_fails_with_its_reason(script: Script, reason: Reason, transport: str) -> None:
    result = await one(script, transport_protocol=transport)
    assert why(result) == (reason, "validation" if reason is Reason.DNS_RCODE else "request")
    assert result.duration < 20  # the default timeout: the probe does not wait for it
    assert counted(result)[3] == (reason is Reason.DNS_RCODE)
    assert seconds(result)["request"] > 0


@BOTH
@pytest.mark.usefixtures("clock")
async def test_silent_server_times_out_in_the_request_phase(transport: str) -> None:
    result = await one(silence, 8.0, transport_protocol=transport)
    assert why(result) == (Reason.DNS_QUERY_TIMEOUT, "request")
    assert counted(result) == (0, 0, 0, 0)
    assert 4 < seconds(result)["request"] <= result.duration < 12


async def test_datagram_with_another_id_is_ignored() -> None:
    result = await one(one_after_another(Says([A, A], number=1), Says([A, A], number=3, cut=1), OK))
    assert why(result) is None
    assert counted(result)[0] == 1


@pytest.mark.usefixtures("clock")
async def test_datagrams_with_another_id_alone_fail_at_the_deadline() -> None:
    result = await one(Says([A], number=1), 8.0)
    assert why(result) == (Reason.DNS_RESPONSE_WRONG_ID, "request")
    assert result.duration > 4  # the probe may begin some time after its deadline was set


async def test_response_with_another_id_over_tcp_fails_at_once() -> None:
    result = await one(Says([A], number=1), **TCP)
    assert why(result) == (Reason.DNS_RESPONSE_WRONG_ID, "request")
    assert result.duration < 20  # the default timeout: the probe does not wait for it


@pytest.mark.usefixtures("clock")
async def test_datagram_from_another_port_is_ignored() -> None:
    """The answer is spoofed: valid, but from another port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.socket(type=socket.SOCK_DGRAM) as other:
        server.bind(("127.0.0.1", 0))
        asking = asyncio.create_task(run(module(), f"127.0.0.1:{server.getsockname()[1]}", 8.0))
        query, address = await asyncio.to_thread(server.recvfrom, 512)
        for message in OK(query):
            assert isinstance(message, bytes)
            other.sendto(message, address)
        assert why(await asking) == (Reason.DNS_QUERY_TIMEOUT, "request")


@pytest.mark.parametrize(("transport", "phase"), [("udp", "request"), ("tcp", "connect")])
async def test_closed_port_is_refused(transport: str, phase: str) -> None:
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as closed:
        stream.bind(("127.0.0.1", 0))
        closed.bind(("127.0.0.1", 0))
        port = (closed if transport == "udp" else stream).getsockname()[1]
        closed.close()
        result = await run(module(transport_protocol=transport), f"127.0.0.1:{port}", 20.0)
    assert why(result) == (Reason.CONNECT_REFUSED, phase)


async def test_connection_closed_without_response_fails() -> None:
    async with DnsServer(silence, hang_up=True) as server:
        assert why(await probe(server, **TCP)) == (Reason.CONNECT_CLOSED, "request")


async def test_response_in_pieces_is_assembled() -> None:
    def pieces(query: bytes) -> list[bytes | Pause]:
        message = OK(query)[0]
        assert isinstance(message, bytes)
        whole = len(message).to_bytes(2, "big") + message
        return [part for byte in whole[:9] for part in (bytes([byte]), Pause(0.01))] + [whole[9:]]

    async with DnsServer(pieces, raw=True) as server:
        assert why(await probe(server, **TCP)) is None


async def test_handshake_and_query_share_one_deadline(pki: Pki) -> None:
    """The original gives each of them the whole timeout; here the deadline of the probe ends the query."""
    trust = {"ca_file": str(pki.directory / "root.pem")}
    async with ScriptedServer(then_silence(Pause(0.4), Secure()), pki.directory) as scripted:
        asking = module(dns_over_tls=True, tls_config=trust, **TCP)
        result = await run_until(in_phase("request"), asking, scripted.fill("127.0.0.1:{port}"))
    assert why(result) == (Reason.DNS_QUERY_TIMEOUT, "request")
    assert 0.35 < seconds(result)["connect"] < result.duration


@pytest.mark.usefixtures("clock")
async def test_unfinished_tls_handshake_times_out_in_the_tls_phase(pki: Pki) -> None:
    """The handshake has no timeout of its own."""
    async with DnsServer(silence) as server:
        result = await probe(server, timeout=8.0, dns_over_tls=True, **TCP)
    assert why(result) == (Reason.TLS_TIMEOUT, "tls")


# --- settings and targets ----------------------------------------------------------------------------------

UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "unknown transport": ({"transport_protocol": "sctp"}, ""),
    "TLS over UDP": ({"dns_over_tls": True}, ""),
    "source that is no address": ({"source_ip_address": "eth0"}, ""),
    "invalid query name": ({"query_name": "a..b"}, ""),
    "unknown response code": ({"valid_rcodes": ["NOERROR", "OK"]}, "validation"),
    "invalid regexp": ({"validate_answer_rrs": {"fail_if_matches_regexp": ["("]}}, "validation"),
}


@pytest.mark.parametrize(("settings", "phase"), UNUSABLE.values(), ids=UNUSABLE)
async def test_unusable_settings_fail_the_probe(settings: dict[str, Any], phase: str) -> None:
    assert why(await one(OK, **settings)) == (Reason.SETTINGS_UNUSABLE, phase)


async def test_source_address_is_used() -> None:
    assert why(await one(OK, source_ip_address="127.0.0.1")) is None
    assert why(await one(OK, source_ip_address="192.0.2.1")) == (Reason.CONNECT_FAILED, "connect")


async def test_badvers_and_badsig_name_the_same_rcode() -> None:
    badvers = Says(additional=[opt(ttl=0x01000000)])
    assert why(await one(badvers, valid_rcodes=["BADVERS"])) is None
    assert why(await one(badvers, valid_rcodes=["BADSIG"])) is None


SECTIONS = {"answer": Reason.DNS_ANSWER_MISMATCH, "authority": Reason.DNS_AUTHORITY_MISMATCH}


@pytest.mark.parametrize(("section", "reason"), [*SECTIONS.items(), ("additional", Reason.DNS_ADDITIONAL_MISMATCH)])
async def test_section_validator_decides_the_reason(section: str, reason: Reason) -> None:
    says = Says(**{section: [A]})  # type: ignore[arg-type]
    forbidding: dict[str, Any] = {f"validate_{section}_rrs": {"fail_if_matches_regexp": ["192"]}}
    demanding: dict[str, Any] = {f"validate_{section}_rrs": {"fail_if_not_matches_regexp": ["192"]}}
    assert why(await one(says, **forbidding)) == (reason, "validation")
    assert why(await one(says, **demanding)) is None


async def test_known_response_is_checked_for_each_module_and_keeps_none_in_memory() -> None:
    """The cache of responses counts the bytes of records, and not those of regular expressions."""
    async with DnsServer(OK) as server:
        demanding = module(validate_answer_rrs={"fail_if_not_matches_regexp": ["192"]})
        forbidding = module(validate_answer_rrs={"fail_if_matches_regexp": ["192"]})
        target = server.fill("127.0.0.1:{port}")
        for _ in range(2):
            assert why(await run(demanding, target, 20.0)) is None
            assert why(await run(forbidding, target, 20.0)) == (Reason.DNS_ANSWER_MISMATCH, "validation")
            assert why(await run(demanding, target, 20.0)) is None
    validator = weakref.ref(cast("DnsSettings", demanding.settings).validate_answer_rrs)
    del demanding
    gc.collect()
    assert validator() is None


@pytest.mark.parametrize("target", ["a:", "a:0", "a:65536", "a:b", "[::1]:", "a:-1", ":53"])
async def test_target_without_valid_host_and_port_is_invalid(target: str) -> None:
    assert why(await run(module(), target, 20.0)) == (Reason.TARGET_INVALID, "")


async def test_default_port_depends_on_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on these ports; the error message names the port."""
    result = await run(module(dns_over_tls=True, **TCP), "127.0.0.254", 20.0)
    assert result.failure is not None
    assert "127.0.0.254:853" in result.failure.message
    result = await run(module(**TCP), "127.0.0.254", 20.0)
    assert result.failure is not None
    assert "127.0.0.254:53" in result.failure.message


WRITTEN = {
    b"a.test": b"\1a\4test\0",
    b"a.test.": b"\1a\4test\0",
    b".": b"\0",
    rb"a\.b.test": b"\3a.b\4test\0",
    rb"\065\032\255": b"\3A \xff\0",
    b"a" * 63: b"\x3f" + b"a" * 63 + b"\0",
    "grün.test".encode(): b"\5gr\xc3\xbcn\4test\0",
}


@pytest.mark.parametrize(("written", "wire"), WRITTEN.items())
def test_query_name_is_encoded(written: bytes, wire: bytes) -> None:
    assert name_to_wire(written) == wire


@pytest.mark.parametrize("written", [b"a..b", b".a", b"..", b"a" * 64, b"a\\", b"\\256", b".".join([b"a" * 63] * 4)])
def test_query_name_that_is_invalid_is_refused(written: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        name_to_wire(written)


# --- what a mismatch says ----------------------------------------------------------------------------------

B = record("www.example.test", "A", "192.0.2.2")


@pytest.mark.parametrize(
    ("checks", "what", "fields"),
    [
        (
            {"fail_if_matches_regexp": ["never", r"\.2$"]},
            "a record matches an expression of `fail_if_matches_regexp`",
            {"record": "www.example.test.\t300\tIN\tA\t192.0.2.2", "regexp": r"\.2$"},
        ),
        (
            {"fail_if_not_matches_regexp": [r"\.1$"]},
            "a record does not match an expression of `fail_if_not_matches_regexp`",
            {"record": "www.example.test.\t300\tIN\tA\t192.0.2.2", "regexp": r"\.1$"},
        ),
        (
            {"fail_if_all_match_regexp": [r"\.1$"]},
            "a record does not match an expression of `fail_if_all_match_regexp`",
            {"record": "www.example.test.\t300\tIN\tA\t192.0.2.2", "regexp": r"\.1$"},
        ),
        (
            {"fail_if_none_matches_regexp": ["CNAME"]},
            "no record matches any expression of `fail_if_none_matches_regexp`",
            {},
        ),
    ],
)
async def test_mismatch_names_record_and_regular_expression(
    checks: dict[str, Any], what: str, fields: dict[str, str]
) -> None:
    result = await one(Says([A, B]), validate_answer_rrs=checks)
    assert result.failure is not None
    assert result.failure.message == f"the answer section: {what}"
    assert result.failure.fields == fields


TRUNCATED_UDP = "; the response is truncated (flag TC), `transport_protocol: tcp` gets all records"


@pytest.mark.parametrize(
    ("transport", "hint"), [("udp", TRUNCATED_UDP), ("tcp", "; the response is truncated (flag TC)")]
)
async def test_truncated_response_says_so(transport: str, hint: str) -> None:
    wanted: dict[str, Any] = {"validate_answer_rrs": {"fail_if_none_matches_regexp": [r"\.9$"]}}
    cut = await one(Says([A], flags=0x8380), transport_protocol=transport, **wanted)
    whole = await one(Says([A]), transport_protocol=transport, **wanted)
    assert cut.failure is not None
    assert cut.failure.message.endswith(hint)
    assert whole.failure is not None
    assert "truncated" not in whole.failure.message
    assert (cut.probe.samples.get(dns.TRUNCATED), whole.probe.samples.get(dns.TRUNCATED)) == (1, 0)


# --- hostile servers ---------------------------------------------------------------------------------------

CHAIN = record(b"\0", 65280, b"".join((0xC000 | at).to_bytes(2, "big") for at in [12, *range(45, 240, 2)]))
HOSTILE_ANSWERS = {
    "pointers to a chain of pointers": [CHAIN] + [record(b"\xc0\xe3", "A", b"")] * 5000,
    "many small records": [record(b"\xc0\x0c", "A", "192.0.2.1")] * 4000,
    "prefixes": [record(b"\0", "APL", b"\0\1\0\0" * 15000)],
    "empty strings": [record(b"\0", "TXT", bytes(60000))],
    "bitmaps of types": [
        record(b"\0", "NSEC", b"\0" + b"".join(bytes([window, 32]) + b"\xff" * 32 for window in range(256)))
    ]
    * 7,
}


@pytest.mark.parametrize("answer", HOSTILE_ANSWERS.values(), ids=HOSTILE_ANSWERS)
async def test_large_response_is_read_in_short_turns(answer: list[bytes]) -> None:
    script = Says(answer)
    async with DnsServer(script) as server:
        with short_turns():
            await probe(server, **TCP, validate_answer_rrs={"fail_if_matches_regexp": ["x$", "[a-z]+y$"]})


async def test_flood_of_stray_datagrams_is_read_in_short_turns_and_logged_briefly() -> None:
    """The server sends responses with another id without end; the deadline ends the probe."""
    stray = Says([A], number=1)

    class Flood(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast("asyncio.DatagramTransport", transport)

        def datagram_received(self, data: bytes, address: tuple[str | object, int]) -> None:
            self.flood(cast("bytes", stray(data)[0]), address)

        def flood(self, message: bytes, address: tuple[str | object, int]) -> None:
            for _ in range(200):
                self.transport.sendto(message, address)
            asyncio.get_running_loop().call_soon(self.flood, message, address)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Flood, local_addr=("127.0.0.1", 0))
    target = "127.0.0.1:{}".format(transport.get_extra_info("sockname")[1])
    with short_turns() as taken:
        result = await run_until(lambda _: len(taken) > 50, module(), target)
    transport.abort()
    assert why(result) == (Reason.DNS_RESPONSE_WRONG_ID, "request")
    assert len(result.probe.events) < 30
