"""The ntp prober against chronyd and scripted servers with wrong clocks or responses."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from probe_exporter.prober.failure import Reason
from probe_exporter.runner import Result
from tests import clocks
from tests.modules.library import OURS, measured, of_every_address, phases, probe, shipped
from tests.outcomes import why
from tests.servers.chrony import STRATUM
from tests.targets.dns import DnsServer, Zone
from tests.targets.nodes import udp_nodes

YEAR = 365.25 * 86400
TO_1970 = 2_208_988_800


# --- real servers ------------------------------------------------------------------------------------------


def assert_offset(values: dict[str, dict[tuple[str, ...], float]], expected: float) -> None:
    """Assert that an offset is within half the delay of the true one (RFC 5905, section 11.1)."""
    offset, delay = (values[f"probe_ntp_{name}_seconds"][()] for name in ("offset", "delay"))
    assert abs(offset - expected) <= delay / 2 + 0.001  # the precision of the clocks


@pytest.mark.parametrize("name", ["ntp", "ntp_close"])
async def test_chrony_offset_is_within_half_the_delay(chrony: int, name: str) -> None:
    """The server and the prober use the same clock."""
    result = await probe(shipped("ntp", name, max_stratum=STRATUM), f"127.0.0.1:{chrony}")
    assert why(result) is None
    values = measured(result)
    assert_offset(values, 0)
    assert 0 <= values["probe_ntp_delay_seconds"][()] < result.duration
    assert values["probe_ntp_stratum"] == {(): STRATUM}
    assert values["probe_ntp_leap"] == {(): 0}
    assert 0 < values["probe_ntp_precision_seconds"][()] < 0.001
    assert 0 <= values["probe_ntp_root_delay_seconds"][()] < 0.01
    assert 0 <= values["probe_ntp_root_dispersion_seconds"][()] < 0.01
    assert abs(values["probe_ntp_reference_age_seconds"][()]) < 100
    assert values["probe_ntp_reference_info"] == {("127.127.1.1",): 1}
    assert phases(result) == {"resolve", "query"}


async def test_chrony_beyond_max_stratum_is_too_far(chrony: int) -> None:
    result = await probe(shipped("ntp", "ntp_close"), f"127.0.0.1:{chrony}")
    assert why(result) == ("ntp_too_far", "")
    assert measured(result)["probe_ntp_stratum"] == {(): STRATUM}


async def test_chrony_without_source_is_unsynchronized(chrony_lost: int) -> None:
    """The response is no kiss of death, although its stratum looks like one."""
    result = await probe(shipped("ntp"), f"127.0.0.1:{chrony_lost}")
    assert why(result) == ("ntp_unsynchronized", "")
    values = measured(result)
    assert values["probe_ntp_stratum"] == {(): 16}
    assert values["probe_ntp_leap"] == {(): 3}
    assert "probe_ntp_reference_info" not in values
    assert "probe_ntp_reference_age_seconds" not in values


# --- scripted peers ----------------------------------------------------------------------------------------


def stamp(seconds: float) -> int:
    """Return Unix time as an NTP timestamp, in any era."""
    return int((seconds + TO_1970) * 2**32) % 2**64


def answer(
    question: bytes,
    *,
    ahead: float = 0.0,
    took: float = 0.0,
    leap: int = 0,
    version: int = 4,
    mode: int = 4,
    stratum: int = 2,
    reference: bytes = b"\x0a\0\0\1",
    origin: bytes = b"",
    has_time: bool = True,
) -> bytes:
    """Return a response: `ahead` is the server's clock error, `took` its processing time, in seconds."""
    now = time.time() + ahead
    times = (stamp(now - 60), stamp(now - took), stamp(now)) if has_time else (0, 0, 0)
    return (
        struct.pack("!BBbbII4s", leap << 6 | version << 3 | mode, stratum, 6, -20, 0x8000, 0x4000, reference)
        + struct.pack("!Q", times[0]) + (origin or question[40:48]) + struct.pack("!QQ", *times[1:])
    )  # fmt: skip


Answers = Callable[[int, bytes], Awaitable[list[bytes]]]
"""Returns the responses to the n-th query; may wait before."""


class Clock(asyncio.DatagramProtocol):
    """A scripted server that records the queries."""

    def __init__(self, sock: socket.socket, answers: Answers) -> None:
        self.heard: list[bytes] = []
        self._sock = sock
        self._answers = answers
        self._tasks: set[asyncio.Task[None]] = set()

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self.heard.append(data)
        self._tasks.add(asyncio.create_task(self._answer(len(self.heard), data, sender)))

    async def _answer(self, number: int, question: bytes, sender: tuple[str, int]) -> None:
        for datagram in await self._answers(number, question):
            self._sock.sendto(datagram, sender)  # the transport does not send empty datagrams


@asynccontextmanager
async def clock(answers: Answers) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Run a server; yield its address and the queries it receives."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Clock(sock, answers), sock=sock)
    try:
        yield f"127.0.0.1:{sock.getsockname()[1]}", server.heard
    finally:
        transport.close()


def always(**fields: Any) -> Answers:
    """Return `Answers` that are the same for each query."""

    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question, **fields)]

    return answers


def silent(*numbers: int) -> Answers:
    """Return `Answers` that leave out these queries."""

    async def answers(number: int, question: bytes) -> list[bytes]:
        return [] if number in numbers else [answer(question)]

    return answers


async def ask(answers: Answers, timeout: float = 20.0, **settings: Any) -> tuple[Result, list[bytes]]:
    """Probe a scripted server. Return the result and the queries it received."""
    async with clock(answers) as (target, heard):
        result = await probe(shipped("ntp", **settings), target, timeout)
    assert result.failure is None or result.failure.reason not in OURS, result.failure.message
    return result, heard


async def test_request_carries_a_random_number_and_no_time() -> None:
    """Queries carry neither our time nor the same number twice."""
    _, heard = await ask(always(), samples=3)
    assert [question[:40] for question in heard] == [b"\x23" + bytes(39)] * 3
    assert len({question[40:] for question in heard}) == 3
    assert all(len(question) == 48 for question in heard)


async def test_every_address_of_a_name_is_probed() -> None:
    """One server is synchronised, one is not, and one is switched off."""
    servers = {
        "127.0.0.2": lambda question: answer(question, leap=3),
        "127.0.0.3": None,
        "127.0.0.4": answer,
    }
    async with DnsServer(Zone({"many.test": [[*servers]]})) as dns, udp_nodes(servers) as port:
        result = await probe(of_every_address(shipped("ntp"), dns), f"many.test:{port}", 60.0)
    assert why(result) is None
    assert [(run.address, run.reason, run.decides) for run in result.runs] == [
        ("127.0.0.2", "ntp_unsynchronized", False),
        ("127.0.0.3", "connect_refused", False),
        ("127.0.0.4", "", True),
    ]
    assert measured(result)["probe_ntp_leap"] == {(): 0}


async def test_response_fields_are_reported() -> None:
    result, _ = await ask(always(leap=1))
    assert why(result) is None
    values = measured(result)
    assert values["probe_ntp_leap"] == {(): 1}
    assert values["probe_ntp_stratum"] == {(): 2}
    assert values["probe_ntp_precision_seconds"] == {(): 2**-20}
    assert values["probe_ntp_root_delay_seconds"] == {(): 0.5}
    assert values["probe_ntp_root_dispersion_seconds"] == {(): 0.25}
    assert values["probe_ntp_reference_info"] == {("10.0.0.1",): 1}
    assert values["probe_ntp_reference_age_seconds"][()] == pytest.approx(60, abs=1e-5)


@pytest.mark.parametrize(
    ("stratum", "reference", "label"),
    [(1, b"GPS\0", "GPS"), (1, b"\xffPS\0", "\N{REPLACEMENT CHARACTER}PS"), (2, b"GPS\0", "71.80.83.0")],
)
async def test_reference_id_is_a_label(stratum: int, reference: bytes, label: str) -> None:
    result, _ = await ask(always(stratum=stratum, reference=reference))
    assert measured(result)["probe_ntp_reference_info"] == {(label,): 1}


@pytest.mark.parametrize("ahead", [0.0, 1.5, -1.5, 100.0, 14 * YEAR, 60 * YEAR, -26 * YEAR, -50 * YEAR])
async def test_offset_is_the_difference_of_the_clocks(ahead: float) -> None:
    """This holds across NTP eras (the next begins in 2036) and before 1970."""
    result, _ = await ask(always(ahead=ahead))
    assert why(result) is None
    values = measured(result)
    assert_offset(values, ahead)
    assert values["probe_ntp_reference_age_seconds"][()] == pytest.approx(60, abs=1e-5)


@pytest.fixture
def time_of_day(clock: clocks.Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `time.time` follow the test's clock."""
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + clock.ahead)


@pytest.mark.usefixtures("time_of_day")
async def test_server_s_processing_time_is_no_delay() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        await asyncio.sleep(8)
        return [answer(question, took=8)]

    result, _ = await ask(answers, samples=1)
    values = measured(result)
    assert 0 <= values["probe_ntp_delay_seconds"][()] < 4
    assert_offset(values, 0)


@pytest.mark.usefixtures("time_of_day")
async def test_one_way_delay_looks_like_half_an_offset() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        await asyncio.sleep(8)
        return [answer(question)]

    result, _ = await ask(answers, samples=1)
    values = measured(result)
    assert values["probe_ntp_delay_seconds"][()] == pytest.approx(8, abs=2)
    assert values["probe_ntp_offset_seconds"][()] == pytest.approx(4, abs=1)


@pytest.mark.usefixtures("time_of_day")
async def test_fastest_response_counts() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        await asyncio.sleep({1: 4, 2: 0, 3: 2}[number])
        return [answer(question, ahead=100 * number)]

    result, heard = await ask(answers, samples=3)
    assert len(heard) == 3
    assert_offset(measured(result), 200)


# --- refusals and silence ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [b"RATE", b"DENY", b"RSTR"])
async def test_kiss_of_death_ends_the_queries(code: bytes) -> None:
    result, heard = await ask(always(stratum=0, reference=code, leap=3, has_time=False))
    assert why(result) == ("ntp_kiss_of_death", "query")
    assert result.failure is not None
    assert code.decode() in result.failure.message
    assert len(heard) == 1


async def test_kiss_of_death_after_a_response_does_not_fail() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question) if number == 1 else answer(question, stratum=0, reference=b"RATE")]

    result, heard = await ask(answers)
    assert why(result) is None
    assert len(heard) == 2


async def test_invalid_response_after_a_valid_one_does_not_fail() -> None:
    """No setting asks for more than one sample; a firewall that answers the next request does not matter either."""

    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question) if number == 1 else b"too short"]

    result, heard = await ask(answers)
    assert why(result) is None
    assert len(heard) == 2


@pytest.mark.usefixtures("clock")
async def test_silence_after_a_response_does_not_fail() -> None:
    result, heard = await ask(silent(2, 3, 4))
    assert why(result) is None
    assert len(heard) == 2
    assert result.duration < 10


@pytest.mark.usefixtures("clock")
async def test_lost_query_is_repeated() -> None:
    result, heard = await ask(silent(1, 2), samples=3)
    assert why(result) is None
    assert len(heard) == 3


@pytest.mark.usefixtures("clock")
async def test_silent_server_has_its_own_reason() -> None:
    result, heard = await ask(silent(1, 2, 3, 4))
    assert why(result) == ("ntp_no_answer", "query")
    assert len(heard) == 4


async def test_closed_port_is_refused() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    result = await probe(shipped("ntp"), f"127.0.0.1:{port}")
    assert why(result) == (Reason.CONNECT_REFUSED, "query")


# --- unsynchronized servers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "labels"),
    [
        ({"leap": 3}, {("10.0.0.1",): 1}),
        ({"stratum": 16, "reference": b"STEP"}, {("STEP",): 1}),
        ({"stratum": 0, "reference": b"INIT", "leap": 3}, {("INIT",): 1}),
        ({"stratum": 0, "reference": bytes(4)}, None),
        ({"stratum": 255, "reference": b"\x0a\0\0\1"}, {("10.0.0.1",): 1}),
    ],
)
async def test_unsynchronized_server_has_its_own_reason(
    fields: dict[str, Any], labels: dict[tuple[str, ...], float] | None
) -> None:
    result, _ = await ask(always(**fields))
    assert why(result) == ("ntp_unsynchronized", "")
    assert measured(result).get("probe_ntp_reference_info") == labels


@pytest.mark.parametrize(
    ("fields", "settings", "verdict"),
    [
        ({"ahead": 0.5}, {"max_offset": "600ms"}, None),
        ({"ahead": 0.5}, {"max_offset": "400ms"}, ("ntp_too_far", "")),
        ({"ahead": -0.5}, {"max_offset": "400ms"}, ("ntp_too_far", "")),
        ({"stratum": 3}, {"max_stratum": 3}, None),
        ({"stratum": 4}, {"max_stratum": 3}, ("ntp_too_far", "")),
        ({}, {"max_root_distance": "700ms"}, None),  # half of 0.5 s, and 0.25 s
        ({}, {"max_root_distance": "499ms"}, ("ntp_too_far", "")),
    ],
)
async def test_limits_decide_the_verdict_and_all_is_reported(
    fields: dict[str, Any], settings: dict[str, Any], verdict: tuple[str, str] | None
) -> None:
    """The measurements are reported with any verdict."""
    result, _ = await ask(always(**fields), **settings)
    assert why(result) == verdict
    assert "probe_ntp_offset_seconds" in measured(result)


# --- invalid responses -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"mode": 3}, {"mode": 5}, {"mode": 0}, {"version": 0}, {"version": 5}, {"has_time": False}],
    ids=str,
)
async def test_invalid_response_is_a_protocol_error(fields: dict[str, Any]) -> None:
    result, _ = await ask(always(**fields))
    assert why(result) == (Reason.PROTOCOL_ERROR, "query")
    assert measured(result) == {}


@pytest.mark.parametrize("size", range(48))
async def test_short_response_is_a_protocol_error(size: int) -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question)[:size]]

    result, _ = await ask(answers)
    assert why(result) == (Reason.PROTOCOL_ERROR, "query")


async def test_bytes_after_a_response_are_ignored() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question) + bytes(20)]

    result, _ = await ask(answers)
    assert why(result) is None


@pytest.mark.parametrize("origin", [bytes(8), b"\xff" * 8])
@pytest.mark.usefixtures("clock")
async def test_response_to_another_query_is_ignored(origin: bytes) -> None:
    """The right response may come later."""

    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question, origin=origin, ahead=99), answer(question, origin=origin, stratum=0), answer(question)]

    result, _ = await ask(answers)
    assert why(result) is None
    assert_offset(measured(result), 0)
    result, _ = await ask(always(origin=origin))
    assert why(result) == ("ntp_no_answer", "query")


@pytest.mark.usefixtures("time_of_day")
async def test_late_response_is_ignored() -> None:
    late: list[bytes] = []

    async def answers(number: int, question: bytes) -> list[bytes]:
        late.append(answer(question, ahead=99))
        return [] if number == 1 else [late[0], answer(question)]

    result, _ = await ask(answers, samples=2)
    assert why(result) is None
    assert_offset(measured(result), 0)


async def test_flood_of_stray_responses_fails_the_probe() -> None:
    async def answers(number: int, question: bytes) -> list[bytes]:
        return [answer(question, origin=b"\xff" * 8)] * 1000

    result, _ = await ask(answers)
    assert why(result) == (Reason.PROTOCOL_ERROR, "query")
    assert len(result.probe.events) < 200
