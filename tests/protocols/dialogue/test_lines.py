"""Tests of line dialogues over a byte stream, with the data split at every place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest

from probe_exporter import testing
from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network.opening import connect
from probe_exporter.prober.deadline import TICK, Late, within
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.lines import MAX_LINE_BYTES, MAX_LOGGED_LINES, QUIET, Lines, Received, converse
from probe_exporter.protocols.dialogue.steps import DialogueSettings, Step, walk
from probe_exporter.settings.block import Settings
from probe_exporter.settings.regexps import Match, Regexp
from probe_exporter.testing import Server, expect, serve, start_tls
from probe_exporter.tls.settings import TLSSettings
from tests.clocks import SimulatedLoop, simulated
from tests.conftest import NewLoop
from tests.cost import cpu_seconds, expect_cheaper
from tests.deadlines import run_until

pytestmark = pytest.mark.usefixtures("new_loop")

ROUNDING = 1e-6  # seconds


@pytest.fixture
def new_loop() -> NewLoop:
    """Return a loop with a simulated clock; it still waits for real sockets."""
    return SimulatedLoop


# --- lines and bytes, without I/O --------------------------------------------------------------------------


def lines_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Return the lines of `data` fed in pieces, and the rest."""
    received, lines = Received(), []
    for start, end in pairwise([0, *cuts, len(data)]):
        received.feed(data[start:end])
        while (line := received.line()) is not None:
            lines.append(line)
    return [*lines, received.rest]


def test_lines_are_the_same_wherever_data_is_split() -> None:
    data = b"one\r\n\ntwo\rtwo\r\r\n\r\nrest\r"
    whole = [b"one", b"", b"two\rtwo\r", b"", b"rest"]
    assert lines_of(data, []) == whole
    assert lines_of(data, range(1, len(data))) == whole
    for first, second in combinations(range(1, len(data)), 2):
        assert lines_of(data, [first, second]) == whole


@pytest.mark.parametrize(("size", "end"), [(65535, b"\n"), (65534, b"\r\n")])
@pytest.mark.parametrize("cut", [1, 65534, 65535])
def test_lines_have_at_most_65535_bytes(size: int, end: bytes, cut: int) -> None:
    assert lines_of(b"x" * size + end, [cut]) == [b"x" * size, b""]
    for longer in (b"x" * (size + 1) + end, b"x" * 65536):
        with pytest.raises(ProbeFailed) as failed:
            lines_of(longer, [cut])
        assert failed.value.reason is Reason.DIALOGUE_LINE_TOO_LONG


def test_lines_search_long_rest_once() -> None:
    """The cost of a peer that sends single bytes is linear."""

    def fed_byte_by_byte(size: int) -> None:
        received = Received()
        for _ in range(size):
            received.feed(b"x")
            assert received.line() is None

    one_part = cpu_seconds(lambda: fed_byte_by_byte(MAX_LINE_BYTES // 16), runs=5)
    # Searched anew for each byte, all of it would cost some 200 times as much as one part.
    expect_cheaper(cpu_seconds(lambda: fed_byte_by_byte(MAX_LINE_BYTES - 1)), 16 * 4 * one_part, "16 parts")


def test_take_continues_after_last_line() -> None:
    received = Received()
    received.feed(b"ab\ncd\nef")
    assert received.line() == b"ab"
    assert received.take(1) == b"c"
    assert received.line() == b"d"
    assert received.take(9) == b"ef"
    assert not received


# --- dialogues with a peer whose every read is chosen ------------------------------------------------------


class Pieces:
    """A stream that returns its pieces one by one, then ends; after a None it stays silent."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = list(pieces)
        self.sent = b""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece is None:
            await asyncio.Event().wait()
        assert piece is not None
        return piece

    async def write(self, data: bytes) -> None:
        self.sent += data


async def hold(stream: Pieces, *steps: dict[str, Any], timeout: float = 20.0) -> tuple[Probe, list[bytes]]:
    """Run the steps; return the probe and the data sent before each start of TLS."""
    loop = asyncio.get_running_loop()
    probe = Probe("target", loop.time() + timeout, loop.time)
    secured = []

    async def secure() -> None:
        secured.append(stream.sent)

    settings = DialogueSettings.model_validate({"query_response": list(steps)})
    async with asyncio.timeout(timeout):
        await walk(probe, settings.query_response, Lines(probe, stream, secure))
    return probe, secured


CONVERSATION = b"220 host ready\r\n250-one\r\n250 two\r\nbytes+OK\r\nlast"
ANSWERS = (
    {"expect": "^220 ([^ ]+)", "send": "EHLO $1"},
    {"expect": "^250 (.*)", "send": "A $1", "labels": [{"name": "a", "value": "<$1>"}]},
    {"expect_bytes": "bytes", "send": "B $1", "send_without_newline": True},
    {"expect": r"^\+OK$", "send_bytes": "\x00$1"},
    {"expect": "^last$", "send": "end"},
)


async def test_dialogue_is_the_same_wherever_data_is_split() -> None:
    cuts = [(), *((cut,) for cut in range(1, len(CONVERSATION))), tuple(range(1, len(CONVERSATION)))]
    for places in cuts:
        stream = Pieces(*(CONVERSATION[start:end] for start, end in pairwise([0, *places, len(CONVERSATION)])))
        probe, _ = await hold(stream, *ANSWERS)
        assert stream.sent == b"EHLO host\nA two\nB $1\x00$1end\n"
        assert list(probe.samples.labelled.values()) == [{("<two>",): 1}]


@pytest.mark.parametrize("end", range(len(CONVERSATION) - 1))
async def test_dialogue_fails_on_early_eof(end: int) -> None:
    with pytest.raises(ProbeFailed) as failed:
        await hold(Pieces(CONVERSATION[: end + 1]), *ANSWERS)
    assert failed.value.reason in (Reason.DIALOGUE_CLOSED, Reason.DIALOGUE_NO_MATCH)


async def test_starttls_discards_buffered_lines() -> None:
    stream = Pieces(b"go\nforged\n", b"true\n")
    _, secured = await hold(stream, {"expect": "go", "send": "x", "starttls": True}, {"expect": "^true$"})
    assert secured == [b"x\n"]


async def test_starttls_after_bytes_refuses_leftover() -> None:
    await hold(Pieces(b"S"), {"expect_bytes": "S"}, {"starttls": True})
    with pytest.raises(ProbeFailed) as failed:
        await hold(Pieces(b"SX"), {"expect_bytes": "S"}, {"starttls": True})
    assert failed.value.reason is Reason.TLS_HANDSHAKE


async def test_prompt_matches_after_peer_is_silent() -> None:
    started = simulated().time()
    await hold(Pieces(b"log", b"in: ", None), {"expect": "^login: $"})
    assert QUIET - ROUNDING <= simulated().time() - started <= QUIET + 2 * TICK


async def test_prompt_uses_only_part_of_short_timeout() -> None:
    """Only part of a short timeout is spent waiting for a newline."""
    started = simulated().time()
    await hold(Pieces(b"login: ", None), {"expect": "^login: $"}, timeout=0.8)
    assert simulated().time() - started < 0.4


async def test_prompt_mismatch_times_out() -> None:
    with pytest.raises(TimeoutError):
        await hold(Pieces(b"log", None), {"expect": "^login: $"}, timeout=0.2)


async def test_prompt_expected_matches_at_once() -> None:
    started = simulated().time()
    await hold(Pieces(b"lo", b"gin: ", None), {"expect": "^login: $", "expect_prompt": True})
    assert simulated().time() - started < ROUNDING


async def test_line_is_matched_when_complete() -> None:
    stream = Pieces(b"220 ho", b"st x\n", None)
    await hold(stream, {"expect": "^220 ([^ ]*)", "send": "$1"})
    assert stream.sent == b"host\n"


async def failure(stream: Pieces, *steps: dict[str, Any]) -> ProbeFailed:
    with pytest.raises(ProbeFailed) as failed:
        await hold(stream, *steps)
    return failed.value


GREETED = {"expect": "^220 ", "reject": "^[45]", "send": "QUIT"}


@pytest.mark.parametrize("pieces", [(b"220-a\n554 no\n", None), (b"554 ", b"no\r", b"\n", None), (b"554 no", None)])
async def test_rejected_line_ends_dialogue_at_once(pieces: Sequence[bytes | None]) -> None:
    """The peer keeps the connection open; a line without a newline counts once the peer is silent."""
    failed = await failure(Pieces(*pieces), GREETED)
    assert failed.reason is Reason.DIALOGUE_REJECTED
    assert failed.fields == {"line": "554 no"}


async def test_rejected_last_line_without_newline_is_rejected_at_eof() -> None:
    assert (await failure(Pieces(b"421 busy"), GREETED)).reason is Reason.DIALOGUE_REJECTED


async def test_line_that_matches_expect_is_not_rejected() -> None:
    stream = Pieces(b"450 later\n")
    await hold(stream, {"expect": "^[45]", "reject": "^[45]", "send": "QUIT"})
    assert stream.sent == b"QUIT\n"


GREETING = {"expect": "^220[- ]([^ ]*) ?(.*)$", "until": "^220 ", "reject": "^[45]", "send": "EHLO $1 $2"}


@pytest.mark.parametrize(
    "greeting", [b"220-mail.test ESMTP\r\n220-We do not relay\r\n220 no spam\r\n", b"220 mail.test ESMTP\r\n"]
)
async def test_until_reads_to_the_last_line_of_a_reply(greeting: bytes) -> None:
    """Groups are those of the first line."""
    for end in range(1, len(greeting)):
        stream = Pieces(greeting[:end], greeting[end:], b"250 ok\n", None)
        await hold(stream, GREETING, {"expect": "^250 "})
        assert stream.sent == b"EHLO mail.test ESMTP\n"


async def test_until_sends_nothing_before_the_last_line() -> None:
    early = Pieces(b"220-mail.test ESMTP\r\n220-We do not relay\r\n", None)
    with pytest.raises(TimeoutError):
        await hold(early, GREETING)
    assert early.sent == b""


async def test_until_rejects_too() -> None:
    failed = await failure(Pieces(b"220-mail.test\n", b"421 busy\n", None), GREETING)
    assert failed.reason is Reason.DIALOGUE_REJECTED


async def test_lines_that_do_not_match_are_logged_up_to_a_limit() -> None:
    loop = asyncio.get_running_loop()
    probe = Probe("target", loop.time() + 20, loop.time)
    lines = Lines(probe, Pieces(*(b"line %d\n" % number for number in range(MAX_LOGGED_LINES * 2)), b"end\n"), _nothing)
    await lines.find(Regexp("end"))
    logged = [event.fields["line"] for event in probe.events if "does not match" in event.message]
    assert logged == [f"line {number}" for number in range(MAX_LOGGED_LINES)]


async def _nothing() -> None:
    """Stand in for STARTTLS."""


class Counting(Regexp):
    """A regular expression that counts the bytes it is tried on."""

    __slots__ = ("tried",)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.tried = 0

    def search(self, data: bytes) -> Match | None:
        self.tried += len(data)
        return super().search(data)


@pytest.mark.slow
async def test_long_line_of_single_bytes_is_searched_a_few_times() -> None:
    """The cost of a peer that sends single bytes grows with the length of its line, not with the square of it."""
    loop = asyncio.get_running_loop()
    probe = Probe("target", loop.time() + 60, loop.time)
    expect = Counting("never")
    with pytest.raises(ProbeFailed):
        await Lines(probe, Pieces(*[b"x"] * 20_000), _nothing).find(expect)
    assert expect.tried < 1024 * 1024 / 2 + 20 * 20_000


async def test_long_incomplete_line_matches_after_silence() -> None:
    loop = asyncio.get_running_loop()
    probe = Probe("target", loop.time() + 60, loop.time)
    lines = Lines(probe, Pieces(b"x" * 2000, b"y", b"!", None), _nothing)
    assert (await lines.find(Regexp("y!$"))).group() == b"y!"


# --- converse: steps of an author's own --------------------------------------------------------------------

SECONDS = Metric("probe_own_duration_seconds", "How long.", ("phase",))
STARTTLS = [Step(send="STARTTLS"), Step(expect=Regexp("^220"), starttls=True)]


async def conversed(target: Server, steps: Sequence[Step], rest: bytes, secure: TLSSettings | None = None) -> Probe:
    """Run a dialogue and check that `rest` is left to read; the matches are in the probe's log."""
    loop = asyncio.get_running_loop()
    probe = Probe(str(target), loop.time() + 60, loop.time)
    with await connect(probe, "127.0.0.1", target.port) as connection:
        matches = await converse(probe, connection, steps, secure=secure, host="127.0.0.1", seconds=SECONDS)
        probe.log("Matched", matches=[match.group() for match in matches])
        assert await connection.exactly(len(rest)) == rest
        assert await connection.read() == b""
    return probe


def matched(probe: Probe) -> object:
    return next(event.fields["matches"] for event in probe.events if event.message == "Matched")


async def test_converse_returns_matches_and_leaves_rest() -> None:
    steps = [Step(expect=Regexp("^22[0-9]")), Step(send="HELO"), Step(expect=Regexp(r"b\w+"), send="$0")]
    with serve(b"hi\n220 x\n", expect(b"HELO\n"), b"a\nbe\n\0\1binary\n", expect(b"be\n"), b"\2") as target:
        probe = await conversed(target, steps, b"\0\1binary\n\2")
    assert matched(probe) == [b"220", b"be"]


async def test_converse_continues_after_starttls() -> None:
    steps = [*STARTTLS, Step(send="again"), Step(expect=Regexp("yes"))]
    script = (expect(b"STARTTLS\n"), b"220\n", start_tls(), expect(b"again\n"), b"yes\nrest")
    with serve(*script) as target:
        began = time.perf_counter()
        probe = await conversed(target, steps, b"rest", TLSSettings.model_validate(target.tls_config))
        took = time.perf_counter() - began
    assert matched(probe) == [b"220", b"yes"]
    assert 0 < probe.samples.get(SECONDS, "tls") < took


async def test_converse_verifies_certificate_by_default() -> None:
    with serve(expect(b"STARTTLS\n"), b"220\n", start_tls()) as target, pytest.raises(ProbeFailed) as failed:
        await conversed(target, STARTTLS, b"")
    assert failed.value.reason is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_converse_failure_shows_last_line() -> None:
    with serve(b"500 no\n") as target, pytest.raises(ProbeFailed) as failed:
        await conversed(target, [Step(expect=Regexp("^220"))], b"")
    assert failed.value.reason is Reason.DIALOGUE_NO_MATCH
    assert failed.value.fields == {"last_line": "500 no"}


@pytest.mark.parametrize("phase", ["dialogue", "check", ""])
async def test_converse_timeout_shows_last_line(phase: str) -> None:
    """The reason is that of the phase, as without a last line."""

    async def probed(probe: Probe, _: Settings) -> None:
        with await connect(probe, "127.0.0.1", target.port) as connection:
            probe.current_phase = phase
            await converse(probe, connection, [Step(expect=Regexp("^250"))])

    module = Module("m", Prober("own", Settings, probed), Settings(), 0.0, Place("t"))
    with serve(b"220 hello\n220 wai", testing.hold()) as target:
        result = await run_until(
            lambda probe: any("does not match" in event.message for event in probe.events), module, str(target)
        )
    assert result.failure is not None
    assert result.failure.reason is TIMEOUTS.get(phase, Reason.TIMEOUT_PROBE)
    assert result.failure.fields == {"last_line": "220 wai", "unmatched": 1}


async def test_converse_within_a_time_of_its_own_does_not_fail_the_probe() -> None:
    loop = asyncio.get_running_loop()
    with serve(b"220 hello\n", testing.hold()) as target:
        probe = Probe(str(target), loop.time() + 60, loop.time)
        with await connect(probe, "127.0.0.1", target.port) as connection, pytest.raises(Late), within(0.05):
            await converse(probe, connection, [Step(expect=Regexp("^250"))])
    assert probe.failure is None
