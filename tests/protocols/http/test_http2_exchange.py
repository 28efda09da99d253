"""Probe over HTTP/2: a scripted server that misbehaves, and a real nginx."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from probe_exporter import runner
from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network.opening import connect
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.run import Probe
from probe_exporter.probers.http import prober
from probe_exporter.protocols.http.http2_exchange import Http2Exchange
from probe_exporter.runner import Result
from tests.cost import short_turns
from tests.servers.nginx import LARGE, Nginx
from tests.targets import Answer, End, Pause, Pki, Repeat, Site, Tls, http2
from tests.targets.answers import PortDependent, raw
from tests.targets.http2 import (
    OPENING,
    SETTINGS_ACK,
    data,
    frame,
    goaway,
    head,
    headers,
    ping,
    reset,
    said,
    settings,
)

pytestmark = pytest.mark.slow

H2 = Tls(alpn=("h2",))
OK = head(200, ("content-length", "2")) + data(b"ok")


def module(pki: Pki, **asked: object) -> Module:
    settings = prober.settings.model_validate(
        {"preferred_ip_protocol": "ip4", "tls_config": {"ca_file": str(pki.directory / "root.pem")}, **asked}
    )
    return Module("test", prober, settings, 0.0, Place("test.yml"))


async def probe(
    pki: Pki, answer: Answer, *, tls: Tls = H2, timeout: float = 60.0, **asked: object
) -> tuple[Result, Site]:
    """Probe a scripted server."""
    async with Site({"/": answer}, tls, pki.directory) as site:
        return await runner.run(module(pki, **asked), site.fill("https://localhost:{tls_port}/"), timeout), site


def metrics(result: Result) -> dict[str, float]:
    """Return the samples without labels, and the durations by phase."""
    found = {}
    for metric, samples in result.probe.samples.families.items():
        for labels, value in samples.items():
            if metric.name == "probe_http_duration_seconds":
                found[labels[0]] = value
            elif not labels:
                found[metric.name.removeprefix("probe_http_")] = value
    return found


def reason(result: Result) -> str:
    assert result.failure is not None
    return result.failure.reason.value


# --- a good answer -----------------------------------------------------------------------------------------


async def test_http2_probe_reports_the_metrics_of_http1(pki: Pki) -> None:
    result, _ = await probe(pki, said(OK), valid_http_versions=["HTTP/2.0"])
    assert result.success, result.failure
    found = metrics(result)
    assert (found["status_code"], found["version"], found["ssl"]) == (200, 2.0, 1)
    assert (found["content_length"], found["uncompressed_body_length"]) == (2, 2)
    assert all(found[phase] > 0 for phase in ("connect", "tls", "processing", "transfer"))


@pytest.mark.usefixtures("clock")
async def test_processing_ends_with_the_headers_and_not_with_settings(pki: Pki) -> None:
    result, _ = await probe(pki, said(ping(), Pause(5), head(), Pause(5), data(b"ok")))
    found = metrics(result)
    assert 4 < found["processing"] < 9
    assert 4 < found["transfer"] < 9


@pytest.mark.usefixtures("clock")
async def test_processing_ends_with_an_interim_response(pki: Pki) -> None:
    result, _ = await probe(pki, said(head(103), Pause(8), OK))
    assert metrics(result)["processing"] < 4
    assert result.duration > 6


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_response_before_the_request_is_accepted(pki: Pki, version: ssl.TLSVersion) -> None:
    """Over TLS 1.2 the response arrives with the end of the handshake. The request is sent all the same."""
    result, site = await probe(pki, said(), tls=Tls(alpn=("h2",), maximum=version, opening=OPENING + OK))
    assert result.success, result.failure
    assert 0 < metrics(result)["processing"] < result.duration
    assert len(site.requests) == 1


async def test_http2_is_offered_first_and_only_if_enabled(pki: Pki) -> None:
    plain = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    for answer, tls in ((said(OK), Tls(alpn=("h2", "http/1.1"))), (plain, Tls(alpn=("http/1.1", "h2")))):
        result, _ = await probe(pki, answer, tls=tls)
        assert result.success, result.failure
    result, _ = await probe(pki, plain, tls=Tls(alpn=("h2", "http/1.1")), enable_http2=False)
    assert metrics(result)["version"] == 1.1


async def test_upgrade_request_uses_http1(pki: Pki) -> None:
    answer = raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    result, site = await probe(pki, answer, tls=Tls(alpn=("h2", "http/1.1")), headers=upgrade, valid_status_codes=[101])
    assert result.success, result.failure
    assert site.requests[0].all("Upgrade") == ["websocket"]


async def bytes_after_the_request(pki: Pki, answer: bytes, **asked: Any) -> bytes:
    """Return all bytes that the exporter sends after its request."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OPENING)
        await http2.read_request(reader, writer)
        writer.write(answer)
        heard.set_result(await reader.read())
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.directory / "leaf.pem", pki.directory / "leaf.key")
    context.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await runner.run(module(pki, **asked), f"https://localhost:{port}/", 60)
        return await heard


CLOSINGS = {
    "after a complete response": (OK, b""),
    "before the end of the body": (head(200, ("content-length", "9")) + data(bytes(9), end=False), goaway(0)),
    "after a violation": (frame(http2.PING, b"short"), goaway(0, http2.FRAME_SIZE_ERROR)),
}


@pytest.mark.parametrize(("answer", "closing"), CLOSINGS.values(), ids=CLOSINGS)
async def test_closing_sends_goaway_unless_the_response_is_complete(pki: Pki, answer: bytes, closing: bytes) -> None:
    assert await bytes_after_the_request(pki, answer, body_size_limit="5B") == SETTINGS_ACK + closing


# --- bodies that we send -----------------------------------------------------------------------------------

BODY = "0123456789abcdef" * 20_000
SMALL_WINDOW = settings((http2.INITIAL_WINDOW_SIZE, 0)) + http2.window_update(http2.LARGEST_WINDOW - 65535)


@pytest.mark.parametrize("size", [5, 16384, 16385, len(BODY)])
@pytest.mark.parametrize("from_file", [False, True])
async def test_request_body_is_sent_whole(pki: Pki, tmp_path: Path, size: int, from_file: bool) -> None:
    (tmp_path / "body").write_text(BODY[:size])
    asked: dict[str, Any] = {"body_file": str(tmp_path / "body")} if from_file else {"body": BODY[:size]}
    result, site = await probe(pki, said(OK), method="POST", **asked)
    assert result.success, result.failure
    assert site.requests[0].body == BODY[:size].encode()
    assert site.requests[0].all("content-length") == ([] if from_file else [str(size)])


@pytest.mark.parametrize("grant", [100, 40_000])
async def test_request_body_respects_the_window_of_the_server(pki: Pki, grant: int) -> None:
    """The scripted server fails if it receives more than it granted."""
    body = BODY[:80_000] if grant < 1000 else BODY
    tls = Tls(alpn=("h2",), opening=SMALL_WINDOW, grant=grant)
    result, site = await probe(pki, said(OK), tls=tls, method="POST", body=body)
    assert result.success, result.failure
    assert site.requests[0].body == body.encode()


async def test_response_without_window_for_the_body_is_accepted(pki: Pki) -> None:
    opening = SMALL_WINDOW + head(413, end=True)
    result, _ = await probe(
        pki, said(), tls=Tls(alpn=("h2",), opening=opening), method="POST", body=BODY, valid_status_codes=[413]
    )
    assert result.success, result.failure


@pytest.mark.usefixtures("clock")
async def test_request_without_window_or_response_times_out(pki: Pki) -> None:
    tls = Tls(alpn=("h2",), opening=SMALL_WINDOW)
    result, _ = await probe(pki, said(), tls=tls, method="POST", body=BODY, timeout=20)
    assert reason(result) == "timeout_response"
    assert 20 <= result.duration < 25


# --- servers that leave the request alone ------------------------------------------------------------------


def in_turn(*answers: bytes) -> Answer:
    """Return a server that sends one answer on the first connection and another on the second."""
    turns = iter(answers)
    return said(PortDependent(lambda fill: next(turns)))


@pytest.mark.parametrize("refusal", [reset(http2.REFUSED_STREAM), goaway(0)])
async def test_unprocessed_request_is_repeated_once(pki: Pki, tmp_path: Path, refusal: bytes) -> None:
    """A server does this when it restarts; a body file is sent again from its beginning."""
    (tmp_path / "body").write_text(BODY)
    asked: dict[str, Any] = {"method": "POST", "body_file": str(tmp_path / "body")}
    result, site = await probe(pki, in_turn(refusal, OK), **asked)
    assert result.success, result.failure
    assert [request.body for request in site.requests] == [BODY.encode()] * 2


async def test_unprocessed_request_fails_if_refused_twice(pki: Pki) -> None:
    result, site = await probe(pki, said(reset(http2.REFUSED_STREAM)))
    assert reason(result) == "connect_reset"
    assert len(site.requests) == 2


async def test_request_that_may_have_been_processed_is_not_repeated(pki: Pki) -> None:
    _, site = await probe(pki, said(reset(http2.INTERNAL_ERROR)))
    assert len(site.requests) == 1


async def test_repeated_request_reports_the_second_failure(pki: Pki) -> None:
    result, _ = await probe(pki, in_turn(goaway(0), head(200) + data(b"o", end=False) + reset()))
    assert (reason(result), result.phase) == ("http_body_truncated", "transfer")


# --- servers that misbehave --------------------------------------------------------------------------------

MISBEHAVIOUR = {
    "http_protocol_error": {
        "answers in HTTP/1": raw(b"HTTP/1.1 200 OK\r\n\r\n"),
        "sends a bad header": said(headers((":status", "200"), ("X-Upper", "1"))),
        "floods with pings": said(Repeat(ping() * 100, 10_000)),
        "floods with settings": said(Repeat(settings((1, 1)) * 100, 10_000)),
        "floods with empty continuations": said(frame(1, b"\x88", 0, 1), Repeat(frame(9, b"", 0, 1) * 100, 10_000)),
        "floods with interim responses": said(Repeat(head(103) * 100, 10_000)),
        "pushes": said(frame(5, b"\0\0\0\x02\x82\x87\x84\x41\x01x", 4, 1), OK),
        "ends in its headers": said(frame(1, b"\x88", 0, 1), end=End.CLOSE),
    },
    "http_headers_too_large": {
        "sends endless headers": said(frame(1, b"\x88", 0, 1), Repeat(frame(9, b"\0\x01a\x01b" * 3000, 0, 1), 10_000)),
        "sends an HPACK bomb": said(
            http2.raw_headers(b"\x88\x40\x01a" + http2.integer(4000, 7) + b"x" * 4000 + b"\xbe" * 9000), data()
        ),
    },
    "http_body_truncated": {
        "ends in the body": said(head(), data(b"o", end=False), end=End.CLOSE),
        "resets the stream in the body": said(head(), data(b"o", end=False), reset()),
    },
    "connect_reset": {
        "resets the stream": said(reset()),
        "resets the connection": said(Pause(1), end=End.RESET),
        "resets the connection in the body": said(head(), data(b"o", end=False), Pause(1), end=End.RESET),
    },
    "connect_closed": {"goes away": said(goaway(0, http2.ENHANCE_YOUR_CALM))},
    "timeout_response": {
        "is silent": said(),
        "is silent in its headers": said(frame(1, b"\x88", 0, 1)),
        "drips pings": said(Repeat(ping(), 10_000, every=1)),
        "drips a frame": said(frame(1, b"", 4, 1, length=900), Repeat(b"x", 800, every=1)),
    },
    "timeout_transfer": {"is silent in its body": said(head(), data(b"o", end=False))},
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(answer, expected, id=name)
        for expected, answers in MISBEHAVIOUR.items()
        for name, answer in answers.items()
    ],
)
@pytest.mark.usefixtures("clock")
async def test_misbehaving_server_has_its_reason_within_the_timeout(pki: Pki, answer: Answer, expected: str) -> None:
    timeout = 15 if expected.startswith("timeout_") else 60
    result, _ = await probe(pki, answer, timeout=timeout)
    assert reason(result) == expected
    assert result.duration < timeout + 5


async def test_many_pings_before_a_response_are_answered(pki: Pki) -> None:
    """The server reads none of our answers before it has sent everything."""
    result, _ = await probe(pki, said(Repeat(ping() * 1000, 9), OK))
    assert result.success, result.failure


# --- a real server -----------------------------------------------------------------------------------------

Ask = Callable[..., Coroutine[None, None, Result]]


@pytest.fixture
def ask(nginx: Nginx, pki: Pki) -> Ask:
    """Return a function that probes a page of a running nginx."""

    async def probe(path: str, **asked: object) -> Result:
        return await runner.run(module(pki, **asked), f"https://localhost:{nginx.port}{path}", 60)

    return probe


async def test_nginx_is_probed_over_http2(ask: Ask) -> None:
    result = await ask("/", valid_http_versions=["HTTP/2.0"], fail_if_body_not_matches_regexp=["^good morning$"])
    assert result.success, result.failure
    result = await ask("/", enable_http2=False, valid_http_versions=["HTTP/1.1"])
    assert result.success, result.failure


async def test_nginx_responses_to_head_and_errors_have_no_body(ask: Ask) -> None:
    result = await ask("/", method="HEAD")
    assert result.success, result.failure
    result = await ask("/gone", valid_status_codes=[410])
    assert result.success, result.failure


async def test_nginx_sends_a_large_body_as_the_window_grows(ask: Ask) -> None:
    result = await ask("/large")
    assert result.success, result.failure
    assert metrics(result)["uncompressed_body_length"] == LARGE


async def test_nginx_compresses_over_http2(ask: Ask) -> None:
    result = await ask("/", compression="gzip", fail_if_body_not_matches_regexp=["^good morning$"])
    assert result.success, result.failure


async def test_nginx_redirects_over_http2(ask: Ask) -> None:
    """Every hop has a connection of its own."""
    for path, length in (("/moved", 12), ("/elsewhere", LARGE)):
        result = await ask(path)
        assert result.success, result.failure
        found = metrics(result)
        assert (found["redirects"], found["uncompressed_body_length"]) == (1, length)


async def test_nginx_takes_a_large_body_over_http2(ask: Ask, tmp_path: Path) -> None:
    """nginx grants 64 KiB of window at first, and more as it stores the body."""
    (tmp_path / "body").write_bytes(b"x" * 5_000_000)
    result = await ask(
        "/count",
        method="POST",
        body_file=str(tmp_path / "body"),
        fail_if_body_not_matches_regexp=["^5000000 bytes$"],
    )
    assert result.success, result.failure


async def test_concurrent_http2_probes_do_not_disturb_each_other(ask: Ask) -> None:
    results = await asyncio.gather(*(ask("/") for _ in range(50)))
    assert all(result.success for result in results)


# --- what it costs others ----------------------------------------------------------------------------------


def test_http2_is_imported_by_the_first_server_that_speaks_it(modules_at_start: frozenset[str]) -> None:
    """HPACK's tables are not loaded at start either."""
    assert not [name for name in modules_at_start if "http2" in name or "hpack" in name]


# --- floods ------------------------------------------------------------------------------------------------

BEGUN = settings() + http2.SETTINGS_ACK
FLOODS = {
    "indexed fields": http2.raw_headers(b"\x88" + b"\x82" * 300_000),
    "tiny fields": http2.raw_headers(b"\x88" + b"\x00\x01a\x00" * 75_000),
    "interim responses": head(103) * 30_000,
    "bodies of one byte": head() + http2.data(b"x", end=False) * 100_000,
    "pings": http2.ping() * 30_000,
    "settings": settings(*[(9, 9)] * 2700) * 60,
    "resets of other streams": head() + http2.frame(http2.RST_STREAM, bytes(4), stream=3) * 30_000,
    "trailers of megabytes": head() + http2.headers(*[("x", "\udcff" * 1_000_000)] * 9, end=True),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_flood_is_read_in_short_turns(flood: bytes) -> None:
    """The server sends all at once over a real connection, and keeps it open until the client closes it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            for start in range(0, len(flood), 65536):
                writer.write(flood[start : start + 65536] if start else BEGUN + flood[:65536])
                await writer.drain()
            writer.write_eof()
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    probe = Probe("target", loop.time() + 60, loop.time)
    async with server:
        connection = await connect(probe, "127.0.0.1", server.sockets[0].getsockname()[1])
        exchange = Http2Exchange(connection, "GET", [(b":method", b"GET")])
        with short_turns(), suppress(ProbeFailed):
            await exchange.head()
            while await exchange.body():
                pass
        exchange.close()
