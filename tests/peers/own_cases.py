"""The cases of probers that blackbox_exporter 0.28 does not have: golden files pin their output.

Later versions of the original have a websocket prober, and ours measures the same.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.exporters import Server, probe_path
from tests.peers.cases import AMPLE, LATE, SHORT, Case, Outcome, Settings, Turns, _requests, _samples
from tests.targets import Answer, End, Pause, Site, Tls, raw, redirect, reply, silence
from tests.targets.udp import Part, Responder, Trick
from tests.targets.websocket import CONTINUATION, PING, UPGRADE, WebsocketSite, close, frame, upgraded

KEY = re.compile(r"(?<=Sec-WebSocket-Key: )\S{24}$")
NO_SITE: Callable[[Path], Site | Responder] = lambda _: WebsocketSite({})  # noqa: E731  (a default)


@dataclass(frozen=True, slots=True)
class OwnCase(Case):
    """A case that makes its own target.

    Args:
        make: returns the target, given the directory of certificates.
    """

    make: Callable[[Path], Site | Responder] = NO_SITE


async def run_all(cases: Iterable[OwnCase], exporter: Server, pki: Path) -> dict[str, Outcome]:
    """Run cases, several at a time, each with its own target."""
    turns = Turns()

    async def one(case: OwnCase) -> tuple[str, Outcome]:
        async with turns.of(case):
            return case.name, await run(case, exporter, pki)

    return dict(await asyncio.gather(*map(one, cases)))


async def run(case: OwnCase, exporter: Server, pki: Path) -> Outcome:
    """Run one case."""
    async with case.make(pki) as there:
        response = await exporter.get(probe_path(module=case.module, target=there.fill(case.target)))
        assert response.status == 200
        types, lines = _samples(response)
        if isinstance(there, WebsocketSite):
            await there.quiet()
            lines += [KEY.sub("<key>", there.blank(line)) for line in _requests("request", there.requests)]
        elif isinstance(there, Site):  # the headers of each request are tested in test_exporter.py
            lines += [f"request {number}: {request.line}" for number, request in enumerate(there.requests, 1)]
        if isinstance(there, WebsocketSite | Responder):
            lines += [f"heard {number}: {text}" for number, text in enumerate(there.heard, 1)]
    return Outcome(case.target, tuple(lines), types)


# --- websocket ---------------------------------------------------------------------------------------------

WS = "ws://127.0.0.1:{port}/"
WSS = "wss://127.0.0.1:{tls_port}/"
HELLO = frame(b"hello bob")
GREETS = upgraded(HELLO)
TRUST = {"ca_file": "pki/root.pem"}

Step = Mapping[str, object]


def ws(
    name: str, answer: Answer | None = None, target: str = WS, timeout: str = AMPLE, tls: Tls | Answer | None = None,
    **settings: object,
) -> OwnCase:  # fmt: skip
    """Return a case of a probe of a WebSocket server."""
    pages = {"/": answer or upgraded()}
    return OwnCase(
        f"websocket {name}", settings, target, timeout=timeout, prober="websocket",
        make=lambda pki: WebsocketSite(pages, tls, pki),
    )  # fmt: skip


def wss(name: str, tls: Tls | Answer, timeout: str = AMPLE, **config: object) -> OwnCase:
    """Return the same over TLS."""
    return ws(name, target=WSS, timeout=timeout, tls=tls, http_config={"tls_config": {**TRUST, **config}})


def says(name: str, answer: Answer, *steps: Step, timeout: str = AMPLE) -> OwnCase:
    """Return a case of a dialogue."""
    return ws(name, answer, timeout=timeout, query_response=list(steps))


def without(name: str) -> Answer:
    """Return a response to the upgrade without one header."""
    return upgraded(headers=[header for header in UPGRADE if header[0] != name])


WEBSOCKET_TARGETS = (
    ws("of a server"),
    ws("of IPv6", target="ws://[::1]:{port}/"),
    ws("of a name", target="ws://localhost:{port}/", preferred_ip_protocol="ip4"),
    ws("of IPv4 unwanted", ip_protocol_fallback=False),
    ws("of an unknown name", target="ws://nobody.invalid/"),
    ws("of a dead port", target="ws://127.0.0.1:{dead}/"),
    ws("of a URL of HTTP", target="http://127.0.0.1:{port}/"),
    ws("of a URL with a user", target="ws://user:word@127.0.0.1:{port}/"),
    ws("of a URL without a scheme", target="127.0.0.1:{port}"),
    ws("of a URL that is none", target="ws://127.0.0.1:port/"),
)

WEBSOCKET_REQUESTS = (
    ws("basic_auth", http_config={"basic_auth": {"username": "u", "password": "p"}}),
    ws("authorization", http_config={"authorization": {"type": "Token", "credentials": "t"}}),
    ws("authorization without credentials", http_config={"authorization": {"type": "Bearer"}}),
    ws("bearer_token", http_config={"bearer_token": "t"}),
    ws("headers", headers={"Origin": "https://chat.example", "X-Key": {"values": ["v", "w"], "secrets": ["s"]}}),
    ws("headers with a host", headers={"host": "chat.example:81", "user-agent": "mine"}),
    ws("headers with a file that is not there", headers={"X-Key": {"values": ["v"], "files": ["nowhere"]}}),
    ws("headers of the handshake", headers={"Upgrade": "h2c"}),
    ws("http_headers", http_config={"http_headers": {"x-a": {"values": ["1"]}}}),
    ws("secrets without a manager", http_config={"basic_auth": {"password_ref": "x"}}),
    ws("a CA that is not there", http_config={"tls_config": {"ca_file": "nowhere"}}),
)

WEBSOCKET_ANSWERS = (
    ws("status 200", reply(200, b"page")),
    ws("status 403", reply(403)),
    ws("status 301", redirect(301, "ws://127.0.0.1:{port}/a")),
    ws("without Upgrade", without("Upgrade")),
    ws("without Connection", without("Connection")),
    ws("without Sec-WebSocket-Accept", without("Sec-WebSocket-Accept")),
    ws("another Accept", upgraded(headers=[*UPGRADE[:2], ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")])),
    ws("no HTTP", raw(b"SSH-2.0-OpenSSH\r\n", end=End.HOLD)),
    ws("the end", raw()),
    ws("a reset", raw(b"HTTP", end=End.RESET)),
    ws("silence", silence(), timeout=SHORT),
)

WEBSOCKET_TLS = (
    wss("tls", Tls()),
    wss("tls without a check", Tls("self_signed"), insecure_skip_verify=True),
    wss("tls self-signed", Tls("self_signed")),
    wss("tls expired", Tls("expired")),
    wss("tls not yet valid", Tls("not_yet_valid")),
    wss("tls wrong name", Tls("wrong_name")),
    wss("tls without its intermediate", Tls("no_intermediate")),
    wss("tls with the intermediate as authority", Tls(), ca_file="pki/intermediate.pem"),
    wss("tls server_name", Tls(), server_name="www.example.test"),
    wss("tls for clients that show a certificate", Tls(client_ca="root"), max_version="TLS12"),
    wss(
        "tls with a client's certificate", Tls(client_ca="root"), cert_file="pki/client.pem", key_file="pki/client.key"
    ),
    wss("tls answered in plain text", reply(400)),
    wss("tls answered by silence", silence(), timeout=SHORT),
)

WEBSOCKET_MESSAGES = (
    says("expect", GREETS, {"expect": r"^hello (\w+)$", "send": "hi ${1}"}),
    says("expect of labels", GREETS, {"expect": r"^hello (\w+)$", "labels": [{"name": "who", "value": "$1"}]}),
    says("expect of another", GREETS, {"expect": "goodbye"}),
    says("expect of the second", upgraded(HELLO + frame(b"two")), {"expect": "two"}),
    says("expect of fragments", upgraded(frame(b"hel", fin=False) + frame(b"lo", CONTINUATION)), {"expect": "^hello$"}),
    says("expect_bytes", GREETS, {"expect_bytes": "hello bob"}),
    says("expect_bytes of others", GREETS, {"expect_bytes": "hello"}),
    says("send", GREETS, {"send": "plain $1"}, {"send_bytes": "\x00\x01"}),
    says("a ping", upgraded(frame(b"?", PING) + HELLO), {"expect": "hello"}),
    says("a goodbye", upgraded(close(1011, "out of order")), {"expect": "hello"}),
    says("a goodbye after the last step", upgraded(HELLO + close()), {"expect": "hello"}),
    says("an end without goodbye", upgraded(end=End.CLOSE), {"expect": "hello"}),
    says("a reset of messages", upgraded(Pause(0.1), end=End.RESET), {"expect": "hello"}),
    says("a frame that is masked", upgraded(frame(b"hello", mask=b"abcd")), {"expect": "hello"}),
    says("a frame with a reserved bit", upgraded(frame(b"hello", reserved=4)), {"expect": "hello"}),
    says("a frame of an unknown kind", upgraded(frame(b"hello", 3)), {"expect": "hello"}),
    says("a frame beyond the limit", upgraded(frame(b"hello", size=2**40)), {"expect": "hello"}),
    says("silence after the upgrade", upgraded(), {"expect": "hello"}, timeout=SHORT),
    says("half a message", upgraded(HELLO[:5]), {"expect": "hello"}, timeout=SHORT),
)

# --- udp ---------------------------------------------------------------------------------------------------

Answers = Mapping[bytes, Sequence[Part]]

ECHOES: Answers = {b"ping": [b"pong 42"], b"who": [b"me"], b"\x00": [b"\x01"]}
ASK = {"send": "ping"}


def udp(
    name: str, *steps: Step, answers: Answers = ECHOES, target: str = "127.0.0.1:{port}", timeout: str = AMPLE,
    **settings: object,
) -> OwnCase:  # fmt: skip
    """Return a case of a probe of a UDP port."""
    given: Settings = {"query_response": list(steps), **settings}
    return OwnCase(f"udp {name}", given, target, timeout=timeout, prober="udp", make=lambda _: Responder(answers))


TOLD = {"expect": "^pong"}

UDP_TARGETS = (
    udp("of a port", ASK, TOLD),
    udp("of IPv6", ASK, TOLD, target="[::1]:{port}"),
    udp("of a mapped address", ASK, TOLD, target="[::ffff:127.0.0.1]:{port}"),
    udp("of a name", ASK, TOLD, target="localhost:{port}", preferred_ip_protocol="ip4"),
    udp("of an unknown name", ASK, TOLD, target="nobody.invalid:{port}"),
    udp("of IPv4 unwanted", ASK, TOLD, ip_protocol_fallback=False),
    udp("of a dead port", ASK, TOLD, target="127.0.0.1:{dead}"),
    udp("of a dead port of IPv6", ASK, TOLD, target="[::1]:{dead}"),
    udp("without a port", ASK, TOLD, target="127.0.0.1"),
    udp("with a port of zero", ASK, TOLD, target="127.0.0.1:0"),
    udp("with a port too large", ASK, TOLD, target="127.0.0.1:65536"),
    udp("from an address", ASK, TOLD, source_ip_address="127.0.0.9"),
    udp("from an address of another family", ASK, TOLD, source_ip_address="::1"),
)

UDP_ANSWERS = (
    udp("expect of another", ASK, {"expect": "^ping"}),
    udp("expect of the second", ASK, {"expect": "two"}, answers={b"ping": [b"one", b"two"]}),
    udp("expect of labels", ASK, {"expect": r"(\d+)", "labels": [{"name": "n", "value": "$1"}]}),
    udp("expect and send", ASK, {"expect": r"pong", "send": "who"}, {"expect": "^me$"}),
    udp("expect_bytes", {"send_bytes": "\x00"}, {"expect_bytes": "\x01"}),
    udp("expect_bytes of fewer", ASK, {"expect_bytes": "pong"}),
    udp("an empty answer", ASK, {"expect": "^$"}, answers={b"ping": [b""]}),
    udp("no answer", ASK, TOLD, answers={}, timeout=SHORT),
    udp("an answer that comes late", ASK, TOLD, answers={b"ping": [LATE, b"pong"]}, timeout=SHORT),
    udp("an answer of a stranger", ASK, {"expect": "."}, answers={b"ping": [Trick.STRANGER]}, timeout=SHORT),
    udp("one answer of two", ASK, TOLD, TOLD, timeout=SHORT),
    udp("a datagram too large", {"send": "x" * 70_000}, TOLD),
)

# --- exporter ----------------------------------------------------------------------------------------------

TEXT = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
OPENMETRICS = ("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
MESSAGES = (
    "Content-Type",
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
)
JSON = ("Content-Type", "application/json")
JOBS = b'# HELP app_jobs_total Jobs.\n# TYPE app_jobs_total counter\napp_jobs_total{queue="a"} 5\n'
JOBS_IN_OPENMETRICS = b"# HELP app_jobs Jobs.\n# TYPE app_jobs counter\napp_jobs_total 5\n# EOF\n"
JOBS_IN_MESSAGES = bytes.fromhex(
    "2b 0a0e 6170705f6a6f62735f746f74616c 1205 4a6f62732e 1800 2210 0a03 0a016c 1a09 09 0000000000001440"
)
ALL_OF_IT = {
    "/-/healthy": reply(200, b"ok"),
    "/metadata": reply(200, b'{"name": "app", "version": "1.2", "revision": "abc"}', JSON),
}


def exports(name: str, page: Answer, pages: Mapping[str, Answer] | None = None, **settings: object) -> OwnCase:
    """Return a case of a probe of an exporter."""
    site = {"/metrics": page, **(pages or {})}
    return OwnCase(f"exporter {name}", settings, "127.0.0.1:{port}", prober="exporter", make=lambda _: Site(site))


QUEUES = {"name": "app_queues", "help": "x", "from": {"regexp": 'queue="(?P<q>.)".* (?P<value>.)'}, "required": True}
FULL = {"health": True, "metadata": True, "lint": True}

EXPORTER_PAGES = (
    exports("of text", reply(200, JOBS, TEXT)),
    exports("of OpenMetrics", reply(200, JOBS_IN_OPENMETRICS, OPENMETRICS)),
    exports("of messages", reply(200, JOBS_IN_MESSAGES, MESSAGES), formats=["protobuf"]),
    exports("of a format not asked for", reply(200, JOBS, TEXT), formats=["protobuf"]),
    exports("of messages cut off", reply(200, JOBS_IN_MESSAGES[:-1], MESSAGES), formats=["protobuf"]),
    exports("of OpenMetrics cut off", reply(200, JOBS_IN_OPENMETRICS[:-6], OPENMETRICS)),
    exports("of TYPE twice", reply(200, JOBS + b"# TYPE app_jobs_total counter\n", TEXT)),
    exports("of HTML", reply(200, b"<html>", ("Content-Type", "text/html"))),
    exports("of nothing", reply(404)),
    exports("of nothing but trouble", reply(500, JOBS, TEXT), ALL_OF_IT),
    exports("of too much", reply(200, JOBS, TEXT), body_size_limit="10B"),
    exports("of too many samples", reply(200, JOBS + b"b 1\n", TEXT), sample_limit=1),
    exports("of a counter by another name", reply(200, b"# TYPE jobs counter\njobs 1\njobs 1\n", TEXT)),
    exports("of everything", reply(200, JOBS, TEXT), ALL_OF_IT, require=FULL),
    exports("of what is required", reply(200, b"jobs 1\n", TEXT), require=FULL),
    exports("of ill health", reply(200, JOBS, TEXT), {"/health": reply(503)}, require={"health": True}),
    exports("of a build", reply(200, JOBS + b'app_build_info{version="2"} 1\n', TEXT)),
    exports("of series to take over", reply(200, JOBS, TEXT), reexpose={"names": ["app_*"], "prefix": "their_"}),
    exports("of values", reply(200, JOBS, TEXT), metrics=[{**QUEUES, "labels": {"queue": {"group": "q"}}}]),
    exports("of values that are missing", reply(200, b"# x\n", TEXT), metrics=[QUEUES]),
)  # fmt: skip

WEBSOCKET_GROUPS = {
    "websocket_targets": WEBSOCKET_TARGETS,
    "websocket_requests": WEBSOCKET_REQUESTS,
    "websocket_answers": WEBSOCKET_ANSWERS,
    "websocket_tls": WEBSOCKET_TLS,
    "websocket_messages": WEBSOCKET_MESSAGES,
}
UDP_GROUPS = {"udp_targets": UDP_TARGETS, "udp_answers": UDP_ANSWERS}
EXPORTER_GROUPS = {"exporter_pages": EXPORTER_PAGES}
_TABLES = (WEBSOCKET_GROUPS, UDP_GROUPS, EXPORTER_GROUPS)
GROUPS = {**WEBSOCKET_GROUPS, **UDP_GROUPS, **EXPORTER_GROUPS}
PLAIN = {name: next(iter(table.values()))[0] for table in _TABLES for name in table}
"""By group, the case that golden files are written as differences from."""
