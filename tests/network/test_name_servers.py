"""Name servers are asked in turn, and get as long as they are promised; a late answer counts; a forged one does not."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from probe_exporter.network import name_servers
from probe_exporter.network.dns_query import Question
from probe_exporter.network.name_servers import Plan, Server, ask
from probe_exporter.prober.failure import ProbeFailed, Reason
from tests.conftest import NewLoop
from tests.loops import LOOPS
from tests.targets.answers import Pause
from tests.targets.dns import DnsServer, Part, Says, Script, Zone, one_after_another, record, silence

ADDRESS = "192.0.2.1"
QUESTION = Question("a.test.", 4)
ANSWER = Zone({"a.test": [[ADDRESS, "2001:db8::1"]]})


@pytest.fixture(autouse=True)
def no_server_is_silent() -> Iterator[None]:
    yield
    name_servers._silent.clear()


class Counting:
    """A script that notes its queries, and chooses another script by their number."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.queries: list[bytes] = []

    def __call__(self, query: bytes) -> Sequence[Part]:
        self.queries.append(query)
        return self.scripts[min(len(self.queries), len(self.scripts)) - 1](query)


def after(seconds: float, script: Script = ANSWER) -> Script:
    return one_after_another(Pause(seconds), script)


def says(*answer: bytes, **changes: Any) -> Script:
    """Return a script that responds to `QUESTION`."""
    return Says(answer, question=QUESTION.encode(), **changes)


def code(number: int) -> Script:
    return says(flags=0x8180 | number)


def servers(*running: DnsServer) -> list[Server]:
    return [("127.0.0.1", one["port"]) for one in running]


async def failure(plan: Plan) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as failed:
        await ask(QUESTION, plan)
    return failed.value


# --- time --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("seconds", [0.8, 1.2, 1.5, 2.5, 4.5])
async def test_slow_answer_counts_after_many_quick_ones(seconds: float) -> None:
    """The time that a server gets does not depend on how quick it was (c-ares' did)."""
    script = Counting(*[ANSWER] * 20, after(seconds))
    async with DnsServer(script) as server:
        plan = Plan(servers(server), 5.0, 2)
        for _ in range(21):
            assert await ask(QUESTION, plan) == (ADDRESS,)
        assert len(script.queries) == 21


@pytest.mark.usefixtures("clock")
async def test_answer_to_an_earlier_try_counts() -> None:
    """Also while another server is asked. The message id stays the same."""
    first, second = Counting(after(7.0), silence), Counting(silence)
    loop = asyncio.get_running_loop()
    async with DnsServer(first) as one, DnsServer(second) as other:
        started = loop.time()
        assert await ask(QUESTION, Plan(servers(one, other), 5.0, 2)) == (ADDRESS,)
        assert 7 <= loop.time() - started < 10
        assert [len(first.queries), len(second.queries)] == [1, 1]
        assert first.queries[0][:2] == second.queries[0][:2]


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_lookup_ends_after_all_tries() -> None:
    script = Counting(silence)
    async with DnsServer(script) as server:
        failed = await failure(Plan(servers(server), 5.0, 2))
        assert failed.reason is Reason.DNS_TIMEOUT
        assert failed.message == f"no answer for a.test from 127.0.0.1:{server['port']} within 10 s"
        assert len(script.queries) == 2


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
async def test_silent_server_is_asked_last_until_it_answers() -> None:
    loop = asyncio.get_running_loop()
    first, second = Counting(silence, ANSWER), Counting(ANSWER)
    async with DnsServer(first) as one, DnsServer(second) as other:
        plan = Plan(servers(one, other), 5.0, 2)
        for asked in ([1, 1], [1, 2], [1, 3]):
            assert await ask(QUESTION, plan) == (ADDRESS,)
            assert [len(first.queries), len(second.queries)] == asked
        await asyncio.sleep(name_servers.SILENCE)
        before = loop.time()
        assert await ask(QUESTION, plan) == (ADDRESS,)
        assert [len(first.queries), len(second.queries)] == [2, 3]
        assert loop.time() - before < 5


async def test_unanswered_question_leaves_nothing_behind_when_cancelled() -> None:
    script = Counting(silence)
    async with DnsServer(script) as server:
        asking = asyncio.create_task(ask(QUESTION, Plan(servers(server), 60.0, 1)))
        while not script.queries:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    # A socket that is left open is a ResourceWarning, and warnings are errors.


# --- failures ----------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@LOOPS
def test_closed_port_ends_a_try_at_once(new_loop: NewLoop) -> None:
    async def scenario() -> None:
        async with DnsServer(ANSWER) as server:
            closed = ("127.0.0.1", closed_port())
            assert await ask(QUESTION, Plan([closed, *servers(server)], 60.0, 2)) == (ADDRESS,)
            failed = await failure(Plan([closed], 60.0, 3))
            assert failed.reason is Reason.DNS_RESOLUTION
            assert failed.message.endswith("can't be asked: Connection refused")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (code(2), "answered SERVFAIL"),
        (code(5), "answered REFUSED"),
        (code(9), "answered with code 9"),
        (says(flags=0x8100), "does not look up names for us"),
        (says(b"\0\0", counts=(1, 1, 0, 0)), "sent a malformed answer"),
    ],
)
async def test_failing_server_is_followed_by_the_next(script: Script, message: str) -> None:
    counting = Counting(script)
    async with DnsServer(counting) as broken, DnsServer(ANSWER) as server:
        assert await ask(QUESTION, Plan(servers(broken, server), 60.0, 2)) == (ADDRESS,)
        assert len(counting.queries) == 1
        failed = await failure(Plan(servers(broken), 60.0, 2))
        assert failed.reason is Reason.DNS_RESOLUTION
        assert failed.message == f"looking up a.test failed: 127.0.0.1:{broken['port']} {message}"
        assert len(counting.queries) == 3


@pytest.mark.parametrize(("script", "empty"), [(code(3), False), (says(), True)])
async def test_no_such_name_and_no_address_are_answers(script: Script, empty: bool) -> None:
    other = Counting(ANSWER)
    async with DnsServer(script) as first, DnsServer(other) as second:
        plan = Plan(servers(first, second), 60.0, 2)
        if empty:
            assert await ask(QUESTION, plan) == ()
        else:
            assert (await failure(plan)).reason is Reason.DNS_NAME_NOT_FOUND
        assert other.queries == []


async def test_server_that_knows_no_edns_is_asked_without() -> None:
    script = Counting(code(1), ANSWER)
    async with DnsServer(script) as server:
        assert await ask(QUESTION, Plan(servers(server), 60.0, 2)) == (ADDRESS,)
        assert [query[11] for query in script.queries] == [1, 0]  # records of the additional section


# --- forged and truncated ----------------------------------------------------------------------------------

OTHER = record("a.test", "A", "192.0.2.66")


@pytest.mark.parametrize(
    "forged",
    [
        says(OTHER, number=1),
        Says([OTHER], question=b"\1b\4test\0\0\1\0\1"),
        Says([OTHER], question=b"\1a\4test\0\0\x1c\0\1"),
        Says([OTHER], question=b""),
        says(OTHER, flags=0x0180),
        lambda query: [b"", b"\0", query[:11], query],
    ],
)
async def test_forged_answer_is_ignored(forged: Script) -> None:
    async with DnsServer(one_after_another(forged, ANSWER)) as server:
        assert await ask(QUESTION, Plan(servers(server), 60.0, 1)) == (ADDRESS,)


async def test_message_ids_are_random() -> None:
    script = Counting(ANSWER)
    async with DnsServer(script) as server:
        for _ in range(50):
            await ask(QUESTION, Plan(servers(server), 60.0, 1))
    assert len({query[:2] for query in script.queries}) > 40


def truncated_over_udp(full: Script) -> Script:
    return Counting(says(flags=0x8380), full)


@LOOPS
def test_truncated_answer_is_fetched_over_tcp(new_loop: NewLoop) -> None:
    many = says(*[record("a.test", "A", f"192.0.2.{number}") for number in range(1, 101)])

    async def scenario() -> None:
        async with DnsServer(truncated_over_udp(many)) as server:
            addresses = await ask(QUESTION, Plan(servers(server), 60.0, 1))
        assert len(addresses) == 100

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


async def test_option_tcp_uses_no_udp() -> None:
    """Nothing listens on UDP; the response comes in pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        (response,) = ANSWER(query)
        assert isinstance(response, bytes)
        for byte in len(response).to_bytes(2, "big") + response:
            writer.write(bytes((byte,)))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert await ask(QUESTION, Plan([("127.0.0.1", port)], 60.0, 1, tcp=True)) == (ADDRESS,)


async def test_answer_that_is_truncated_over_tcp_too_is_a_failure() -> None:
    async with DnsServer(says(flags=0x8380)) as server:
        failed = await failure(Plan(servers(server), 60.0, 1))
    assert failed.message.endswith("sent no whole answer over TCP")


async def test_aliases_are_followed_by_the_server() -> None:
    """Whose address it is does not matter, as for the original."""
    answer = says(record("a.test", "CNAME", "b.test."), record("b.test", "A", ADDRESS))
    async with DnsServer(answer) as server:
        assert await ask(QUESTION, Plan(servers(server), 60.0, 1)) == (ADDRESS,)


def padded(count: int) -> Callable[[bytes], bytes]:
    pointer = struct.pack(">HHHIH", 0xC00C, 16, 1, 0, 0)
    return lambda query: query[:2] + struct.pack(">5H", 0x8180, 1, count, 0, 0) + query[12 : 12 + 12] + pointer * count


async def test_answer_with_very_many_records_is_cut() -> None:
    async with DnsServer(lambda query: [padded(5000)(query)]) as server:
        assert await ask(QUESTION, Plan(servers(server), 60.0, 1)) == ()
