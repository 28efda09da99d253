"""Tests of misbehaving targets: each probe ends with its reason, in bounded memory, and does not delay others.

That a probe ends in time shows in its reason: a fault without an end is ended by the timeout or by nothing, and any
other fault has a timeout that never strikes. The exporter runs as its own process, as users run it, so that its memory
can be measured. Linux only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import re
import socket
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from probe_exporter.prober.failure import TIMEOUTS, Reason
from tests import exporters
from tests.deadlines import async_timed_out
from tests.exporters import Response, Server, probe_path
from tests.targets import Answer, End, Part, Pause, Pki, Repeat, Site, Tls, http2, raw, redirect, reply, silence
from tests.waiting import until

pytestmark = pytest.mark.slow

NEVER = 120.0
"""Seconds: the timeout of a probe that ends for another reason."""

DEADLINES = (0.25, 2.0, 8.0, 20.0)
"""Seconds: the timeouts of a probe that is to run out of time, one after another until it is in the right phase."""

OFFSET = 0.5
"""Seconds that the exporter keeps for itself of a scrape's timeout (--timeout-offset)."""

TIMEOUT_REASONS: set[str | None] = {reason.value for reason in (*TIMEOUTS.values(), Reason.TIMEOUT_PROBE)}

MOST_MEMORY = 256 * 2**20
"""The most bytes that the exporter's process may take here, for any target: the interpreter and its libraries
(about 60 MiB), one body held for its regular expressions (64 MiB at most) and a copy of it."""

MEBIBYTE = b"x" * 2**20
TARGET = "http://127.0.0.1:{port}/"
ENDLESS = 1 << 40
HELD = {"fail_if_body_matches_regexp": ["needle"]}


def bomb(mebibytes: int) -> bytes:
    """Return a gzip body of so many MiB of zeros, whose checksum is wrong: no probe may read so far.

    After a full flush, DEFLATE refers to nothing before it, so that one compressed MiB can be repeated.
    """
    compressor = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
    block = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"")[:10] + block * mebibytes + compressor.flush() + bytes(8)


BOMB = bomb(512)


@dataclass(frozen=True)
class Fault:
    """One misbehaviour of a target, and the reason of the failed probe."""

    name: str
    reason: str
    page: Answer = field(default_factory=silence)
    settings: Mapping[str, object] = field(default_factory=dict)
    target: str = TARGET
    tls: Tls | Answer | None = None
    greeting: Answer | None = None
    deadlines: tuple[float, ...] = DEADLINES

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.name.replace(" ", "_")


def body(*parts: Part, length: int | None = None, end: End = End.HOLD) -> Answer:
    """Return a response with a good head and the given body parts."""
    announced = "" if length is None else f"Content-Length: {length}\r\n"
    return raw(f"HTTP/1.1 200 OK\r\n{announced}\r\n".encode(), *parts, end=end)


GIGABYTE = Repeat(MEBIBYTE, 1024)


def over_http2(name: str, reason: str, *parts: Part, settings: Mapping[str, object] | None = None) -> Fault:
    """Return the fault of an HTTP/2 server that sends these parts after the request."""
    trusting = {"tls_config": {"insecure_skip_verify": True}, **(settings or {})}
    return Fault(
        f"{name} over http2",
        reason,
        http2.said(*parts),
        trusting,
        "https://127.0.0.1:{tls_port}/",
        Tls(alpn=("h2",)),
    )


OVER_HTTP2 = (
    over_http2("floods with pings", "http_protocol_error", Repeat(http2.ping() * 1000, ENDLESS)),
    over_http2("floods with settings", "http_protocol_error", Repeat(http2.settings((1, 1)) * 1000, ENDLESS)),
    over_http2("floods with empty data", "http_protocol_error",
               http2.head(), Repeat(http2.data(end=False) * 1000, ENDLESS)),
    over_http2("sends headers without end", "http_headers_too_large", http2.frame(http2.HEADERS, b"\x88", 0, 1),
               Repeat(http2.frame(http2.CONTINUATION, b"\0\1a\1b" * 3000, 0, 1), ENDLESS)),
    over_http2("sends a header of a hundred megabytes", "http_headers_too_large",
               http2.frame(http2.HEADERS, b"\0\1a" + http2.integer(100_000_000, 7), 0, 1),
               Repeat(http2.frame(http2.CONTINUATION, bytes(16384), 0, 1), 6000)),
    over_http2("sends a bomb of headers", "http_headers_too_large", http2.raw_headers(
        b"\x88\x40\1a" + http2.integer(4000, 7) + b"x" * 4000 + b"\xbe" * 10_000)),
    over_http2("sends a gigabyte to hold", "http_body_too_large",
               http2.head(), Repeat(http2.data(bytes(2**20), end=False), 1024), settings=HELD),
    over_http2("sends a body without end", "timeout_transfer",
               http2.head(), Repeat(http2.data(bytes(2**20), end=False), ENDLESS)),
    over_http2("drips a frame", "timeout_response",
               http2.frame(http2.HEADERS, b"", 4, 1, length=9000), Repeat(b"x", ENDLESS, 0.02)),
)  # fmt: skip

FAULTS = (
    *OVER_HTTP2,
    Fault("never answers", "timeout_response"),
    Fault("never reads", "timeout_response", settings={"method": "POST", "body_file": "large"},
          greeting=raw(Pause(60))),
    Fault("drips its head", "timeout_response", silence(b"H", Pause(0.1), b"T", Pause(0.1), b"T")),
    Fault("drips headers", "timeout_response", raw(b"HTTP/1.1 200 OK\r\n", Repeat(b"X-A: b\r\n", ENDLESS, 0.02))),
    Fault("drips its body", "timeout_transfer", body(Repeat(b"x", ENDLESS, 0.02))),
    Fault("drips chunks", "timeout_transfer",
          raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Repeat(b"1\r\nx\r\n", ENDLESS, 0.02))),
    Fault("stops in its body", "timeout_transfer", body(b"five!", length=9)),
    Fault("resets in its body", "connect_reset", body(b"five!", Pause(0.1), length=9, end=End.RESET)),
    Fault("resets at once", "connect_reset", raw(end=End.RESET)),
    Fault("closes at once", "connect_closed", raw(b"")),
    Fault("sends garbage", "http_protocol_error", raw(Repeat(b"\x00\xff garbage \r\n", ENDLESS))),
    Fault("sends a line without end", "http_headers_too_large", raw(b"HTTP/1.1 200 ", Repeat(MEBIBYTE, ENDLESS))),
    Fault("sends a gigabyte to hold", "http_body_too_large", body(GIGABYTE, length=2**30), HELD),
    Fault("sends a gigabyte over the limit", "http_body_too_large", body(GIGABYTE, length=2**30),
          {"body_size_limit": "10MB"}),
    Fault("sends a gigabyte over the limit in chunks", "http_body_too_large",
          raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Repeat(b"1000\r\n%b\r\n" % bytes(4096), 2**18)),
          {"body_size_limit": "10MB"}),
    Fault("sends a body without end", "timeout_transfer", body(Repeat(MEBIBYTE, ENDLESS))),
    Fault("sends a bomb to hold", "http_body_too_large", reply(200, BOMB), {"compression": "gzip", **HELD}),
    Fault("sends a bomb over the limit", "http_body_too_large", reply(200, BOMB),
          {"compression": "gzip", "body_size_limit": "10MB"}),
    Fault("sends a header of a hundred megabytes", "http_headers_too_large",
          raw(b"HTTP/1.1 200 OK\r\nX-A: ", Repeat(MEBIBYTE, 100), b"\r\n\r\n")),
    Fault("sends a hundred megabytes of headers", "http_headers_too_large",
          raw(b"HTTP/1.1 200 OK\r\n", Repeat(b"X-A: " + b"x" * 4000 + b"\r\n", 25_000), b"\r\n\r\n")),
    Fault("sends interim answers without end", "http_headers_too_large",
          raw(Repeat(b"HTTP/1.1 103 Early Hints\r\nLink: " + b"x" * 4000 + b"\r\n\r\n", ENDLESS))),
    Fault("redirects without end", "http_redirect", redirect(302, "/")),
    Fault("redirects slowly", "timeout_response",
          raw(Pause(0.12), b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"),
          deadlines=(0.25, 1.0)),  # ten redirects take longer
    Fault("stalls in the handshake", "tls_timeout", target="https://127.0.0.1:{tls_port}/", tls=silence()),
    Fault("stalls within the handshake", "tls_timeout", target="https://127.0.0.1:{tls_port}/",
          tls=silence(b"\x16\x03\x03\x40\x00\x02")),
    Fault("drips a handshake", "tls_timeout", target="https://127.0.0.1:{tls_port}/",
          tls=raw(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", Repeat(b"\x03", ENDLESS, 0.02))),
    Fault("sends garbage for a handshake", "tls_handshake", target="https://127.0.0.1:{tls_port}/",
          tls=raw(Repeat(b"garbage", ENDLESS))),
    Fault("is silent after the handshake", "timeout_response", target="https://127.0.0.1:{tls_port}/", tls=Tls(),
          settings={"tls_config": {"insecure_skip_verify": True}}),
)  # fmt: skip

OTHERS: Mapping[str, object] = {
    "plain": {"prober": "http", "timeout": f"{NEVER}s"},
}


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One exporter for all faults; it must survive each of them."""
    directory = tmp_path_factory.mktemp("faults")
    (directory / "large").write_bytes(MEBIBYTE * 50)
    faulty = {
        fault.module: {"prober": "http", "timeout": f"{NEVER}s", "http": dict(fault.settings)} for fault in FAULTS
    }
    (directory / "blackbox.yml").write_text(yaml.safe_dump({"modules": {**faulty, **OTHERS}}))
    with exporters.ours_from_scratch(directory, "--config.file=blackbox.yml") as server:
        yield server


def value(response: Response, name: str) -> float | None:
    """The value of a metric without labels."""
    found = re.search(rf"^{name} (\S+)$", response.text, re.MULTILINE)
    return float(found[1]) if found else None


def reason(response: Response) -> str | None:
    """Return the reason of a failed probe; None on success."""
    found = re.search(r'^probe_failure_info\{.*\breason="(\w+)".*\} 1$', response.text, re.MULTILINE)
    return found[1] if found else None


async def probed(exporter: Server, module: str, target: str, seconds: float) -> Response:
    """Probe with a timeout and check that it did not expire early."""
    within = {"X-Prometheus-Scrape-Timeout-Seconds": f"{seconds + OFFSET}"}
    began = time.monotonic()
    response = await exporter.get(probe_path(module=module, target=target), within)
    assert value(response, "probe_timeout_seconds") == seconds
    if reason(response) in TIMEOUT_REASONS:
        assert time.monotonic() - began >= seconds
    return response


async def ends(
    exporter: Server, module: str, target: str, expected: str, deadlines: Sequence[float] = DEADLINES
) -> Response:
    """Probe with growing timeouts until the reason is not a timeout of an earlier phase."""
    return await async_timed_out(
        lambda seconds: probed(exporter, module, target, seconds),
        lambda response: reason(response) not in TIMEOUT_REASONS - {expected},
        deadlines if expected in TIMEOUT_REASONS else [NEVER],
    )


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
async def test_faulty_target_fails_with_its_reason(fault: Fault, exporter: Server, pki: Pki) -> None:
    """The probe fails within its timeout, with the fault's reason, in bounded memory."""
    exporter.forget_peak()
    async with Site({"/": fault.page}, fault.tls, pki.directory, fault.greeting) as site:
        response = await ends(exporter, fault.module, site.fill(fault.target), fault.reason, fault.deadlines)
    assert (value(response, "probe_success"), reason(response)) == (0, fault.reason)
    assert exporter.peak_resident() < MOST_MEMORY


async def test_hanging_connect_times_out(exporter: Server) -> None:
    """The target's backlog is full, so connecting never ends."""
    with contextlib.ExitStack() as sockets:
        full = sockets.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # more than Linux lets through for a backlog of 0
            filler = sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        target = f"http://127.0.0.1:{full.getsockname()[1]}/"
        response = await ends(exporter, "plain", target, "connect_timeout")
    assert (value(response, "probe_success"), reason(response)) == (0, "connect_timeout")


async def test_large_body_is_counted_and_not_held(exporter: Server) -> None:
    """Without a regular expression, a body of any size is only counted and memory does not grow."""
    async with Site({"/": body(GIGABYTE, length=2**30, end=End.CLOSE)}) as site:
        exporter.forget_peak()
        before = exporter.resident()
        response = await exporter.probe("plain", site.fill(TARGET))
    assert value(response, "probe_success") == 1
    assert value(response, "probe_http_uncompressed_body_length") == 2**30
    assert exporter.peak_resident() - before < 16 * 2**20


async def test_memory_of_large_bodies_is_released(exporter: Server) -> None:
    """A body over the limit is released after its probe; the history does not keep it."""
    async with Site({"/": body(GIGABYTE, length=2**30)}) as site:
        await exporter.probe("sends_a_gigabyte_to_hold", site.fill(TARGET))
        before = exporter.resident()
        for _ in range(5):
            await exporter.probe("sends_a_gigabyte_to_hold", site.fill(TARGET))
    assert exporter.resident() - before < 32 * 2**20


@pytest.mark.parametrize("page", [silence(), body(Repeat(b"x", ENDLESS, 0.01))], ids=["silent", "dripping"])
async def test_disconnected_client_cancels_its_probe(page: Answer, exporter: Server) -> None:
    """The target's connection is closed before the probe's timeout."""
    async with Site({"/": page}) as site:
        async with exporter.asking(probe_path(module="plain", target=site.fill(TARGET))):
            await site.reached(1)
            assert not site.abandoned.is_set()
        async with asyncio.timeout(NEVER / 2):
            await site.abandoned.wait()


async def test_hanging_probes_do_not_delay_others(exporter: Server) -> None:
    """A good target is probed while two hundred others hang; the hanging probes time out."""
    exporter.forget_peak()
    async with Site({"/": reply(200, b"ok"), "/silent": silence()}) as site:
        silent = site.fill("http://127.0.0.1:{port}/silent")
        hanging = [asyncio.create_task(exporter.probe("plain", silent)) for _ in range(200)]
        await site.reached(200)
        good = [await exporter.probe("plain", site.fill(TARGET)) for _ in range(5)]
        assert not any(task.done() for task in hanging)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        hung = await asyncio.gather(*[ends(exporter, "plain", silent, "timeout_response") for _ in range(200)])
    assert all(value(response, "probe_success") == 1 for response in good)
    assert {reason(response) for response in hung} == {"timeout_response"}
    assert exporter.peak_resident() < MOST_MEMORY


async def test_exporter_serves_after_all_faults(exporter: Server) -> None:
    """The faults leave no connection and no internal error behind."""
    async with Site({"/": reply(200, b"ok")}) as site:
        response = await exporter.probe("plain", site.fill(TARGET))
    assert value(response, "probe_success") == 1
    log = exporter.log.read_text()
    assert "Traceback" not in log
    assert "internal_error" not in log
    await until(lambda: len(list(Path(f"/proc/{exporter.process.pid}/fd").iterdir())) < 40)
