"""Define a case (module, scripted target, probe), run it against an exporter, return its outcome as lines.

An outcome has one line per sample, and one per line of each request that the target received. Durations become
`<zero>` or `<positive>`, and ports become their names, so that two outcomes can be compared.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.exporters import Response, Server, probe_path
from tests.peers.ports import Ports
from tests.targets import Answer, Pause, Request, Site, Tls, http2, reply
from tests.targets.dns import DnsServer
from tests.targets.http3 import Quic
from tests.targets.proxy import HttpProxy, ProxyServer, SocksProxy
from tests.targets.scripted_server import Script, ScriptedServer

Settings = Mapping[str, object]

AMPLE = "60s"
"""Timeout of a module whose probe ends by itself, so long that even a slow machine does not reach it."""

SHORT = "2s"
"""Timeout of a module whose target stays silent, so that only the timeout ends the probe."""

LATE = Pause(600.0)
"""A pause so long that the probe has timed out before it ends, even on a slow machine."""

AT_ONCE = 8
"""Cases that are probed at the same time."""

SILENT_AT_ONCE = 128
"""Cases with `SHORT` that are probed at the same time: they cost nothing while they wait."""

SILENT_EVERY = 0.03
"""Seconds between the starts of two such cases: if all began at once, they would use up each other's timeout."""

UNDER_WAY = 0.02
"""Seconds within which the target has received a request that was sent before the exporter responded."""

DURATIONS = re.compile(r"probe_\w*(duration|lookup_time)_seconds")


@dataclass(frozen=True, slots=True)
class Case:
    """One probe of one scripted target.

    Args:
        name: unique, in words; the name of the module is made from it.
        settings: the prober's block in the module; it may contain placeholders for ports.
        target: with the placeholders of `Site.fill`.
        pages: the target's response to each path.
        tls: behaviour of the target's TLS port.
        quic: behaviour of the target's QUIC port.
        proxy: behaviour of the proxy at ``{proxy}`` and, with TLS, at ``{tls_proxy}``.
        greeting: sent to each client at once, instead of waiting for a request.
        opening: first bytes of HTTP/2 on the plain port, for a client with prior knowledge.
        timeout: of the module: `AMPLE`, or `SHORT` if only the timeout ends the probe.
        parameters: of the request to ``/probe``, beside or instead of `module` and `target`; None drops one.
        headers: of the request to ``/probe``.
        talk: the target's dialogue, if it is not a web site; ``{port}`` or ``{socket}`` is its address.
        over: transport of the dialogue: ``tcp``, ``unix`` or ``abstract``.
        dns: the DNS server that is the target instead; each run starts a new one with the same behaviour.
        prober: the module's prober.
        block: whether the module has the block of its prober; without it, `settings` are empty.
        pinned: whether a golden file has it; false if the outcome depends on the machine's host names and resolver.
    """

    name: str
    settings: Settings = field(default_factory=dict)
    target: str = "http://127.0.0.1:{port}/"
    pages: Mapping[str, Answer] = field(default_factory=lambda: {"/": reply(200, b"ok")})
    tls: Tls | Answer | None = None
    greeting: Answer | None = None
    opening: bytes = http2.OPENING
    quic: Quic | None = None
    proxy: HttpProxy | SocksProxy | None = None
    timeout: str = AMPLE
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    talk: Script | None = None
    over: str = "tcp"
    dns: DnsServer | None = None
    prober: str = "http"
    block: bool = True
    pinned: bool = True

    @property
    def module(self) -> str:
        """Return the name of its module."""
        return re.sub(r"\W+", "_", self.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one case with one exporter."""

    target: str
    lines: tuple[str, ...]
    types: Mapping[str, str]


def configuration(cases: Iterable[Case], directory: Path, ports: Ports) -> str:
    """Return the text of a configuration with the module of each case.

    A setting that is ``{file}`` is replaced by the content of that file in `directory`.
    """
    modules: dict[str, dict[str, object]] = {}
    for case in cases:
        modules[case.module] = {"prober": case.prober, "timeout": case.timeout}
        if case.block:
            modules[case.module][case.prober] = _inline(ports.fill(case.module, case.settings), directory)
    return yaml.safe_dump({"modules": modules}, allow_unicode=True, sort_keys=False)


def _inline(value: object, directory: Path) -> object:
    if isinstance(value, Mapping):
        return {key: _inline(one, directory) for key, one in value.items()}
    if isinstance(value, list):
        return [_inline(one, directory) for one in value]
    if isinstance(value, str) and (name := re.fullmatch(r"\{([\w./]+)\}", value)):
        return (directory / name[1]).read_text()
    return value


class Turns:
    """Limit the number of cases that are probed at the same time."""

    def __init__(self) -> None:
        self._busy, self._silent = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(SILENT_AT_ONCE)
        self._start = asyncio.Lock()

    @asynccontextmanager
    async def of(self, case: Case) -> AsyncIterator[None]:
        """Wait until a case may begin, and let others begin when it has ended."""
        if case.timeout != SHORT:
            async with self._busy:
                yield
            return
        async with self._silent:
            async with self._start:
                await asyncio.sleep(SILENT_EVERY)
            yield


async def run_all(cases: Sequence[Case], exporter: Server, pki: Path, ports: Ports) -> dict[str, Outcome]:
    """Run cases against one exporter, several at a time, each with its own target."""
    turns = Turns()

    async def one(case: Case) -> tuple[str, Outcome]:
        async with turns.of(case):
            return case.name, await run(case, exporter, pki, ports.of(case.module))

    return dict(await asyncio.gather(*map(one, cases)))


async def run(case: Case, exporter: Server, pki: Path, ports: Mapping[str, int]) -> Outcome:
    """Run one case."""
    async with AsyncExitStack() as stack:
        site: Site | ScriptedServer | DnsServer = Site(
            case.pages, case.tls, pki, case.greeting, case.quic, ports, case.opening
        )
        if case.talk is not None:
            site = ScriptedServer(case.talk, pki, case.over)
        if case.dns is not None:
            site = case.dns.again(pki)
        await stack.enter_async_context(site)
        asked = []
        if case.proxy is not None:
            own = {"port": ports.get("proxy", 0), "tls_port": ports.get("tls_proxy", 0)}
            proxy = await stack.enter_async_context(ProxyServer({}, pki=pki, ports=own, behaviour=case.proxy))
            asked = proxy.requests
        parameters = {"module": case.module, "target": site.fill(case.target), **case.parameters}
        path = probe_path(**{name: value for name, value in parameters.items() if value is not None})
        response = await exporter.get(path, case.headers)
        await asyncio.sleep(UNDER_WAY)
        lines = [f"status {response.status}"]
        types: dict[str, str] = {}
        if response.status == 200:
            types, samples = _samples(response)
            lines += samples
        if isinstance(site, ScriptedServer):
            await site.finished()
            lines += [f"heard {number}: {text}" for number, text in enumerate(site.heard, 1)]
        else:
            lines += [site.blank(line) for line in _requests("request", site.requests)]
        lines += [site.blank(line) for line in _requests("proxy request", asked)]
        return Outcome(case.target, tuple(lines), types)


def _samples(response: Response) -> tuple[dict[str, str], list[str]]:
    types, lines = {}, []
    for family in text_string_to_metric_families(response.text):
        types[family.name] = family.type
        for sample in family.samples:
            labels = ",".join(f"{name}={value!r}" for name, value in sorted(sample.labels.items()))
            series = f"{sample.name}{{{labels}}}" if labels else sample.name
            lines.append(f"{series} {_value(sample.name, float(sample.value))}")
    return types, sorted(lines)


def _value(name: str, value: float) -> str:
    if DURATIONS.fullmatch(name):
        return "<zero>" if value == 0 else "<positive>" if value > 0 else "<negative>"
    return str(int(value)) if value.is_integer() else repr(value)


def _requests(what: str, requests: Sequence[Request]) -> list[str]:
    """Return each request as lines, with headers sorted by name and repeated headers numbered."""
    lines = []
    for number, request in enumerate(requests, 1):
        lines.append(f"{what} {number}: {request.line}")
        if request.server_name is not None:
            lines.append(f"{what} {number}: server name {request.server_name!r}")
        seen: Counter[str] = Counter()
        for name, value in sorted(request.headers, key=lambda header: header[0]):
            seen[name] += 1
            again = f"[{seen[name]}]" if seen[name] > 1 else ""
            lines.append(f"{what} {number}: {name}{again}: {value}")
        if request.body:
            lines.append(f"{what} {number}: body {request.body!r}")
    return lines
