"""A case: one module, one scripted target, one probe, and what came out of it, as lines to compare.

An outcome is a list of plain lines: one per sample, one per line of every request that the target received.
Durations become `<zero>` or `<positive>` and ports their names, so that lines can be compared and pinned.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
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
from tests.targets.talker import Talk, Talker

Settings = Mapping[str, object]

AMPLE = "60s"
"""The timeout of a module whose probe ends by itself: so long that not even a slow machine reaches it."""

SHORT = "2s"
"""The timeout of a module whose target stays silent, so that nothing but the timeout ends the probe."""

LATE = Pause(600.0)
"""What comes after this comes too late, however slow the machine is."""

AT_ONCE = 8
"""Cases that are probed at the same time."""

SILENT_AT_ONCE = 32
"""Cases with `SHORT` that are probed at the same time: they cost nothing while they wait."""

UNDER_WAY = 0.02
"""Seconds that a request may still be under way when the exporter has already told how the probe ended."""

DURATIONS = re.compile(r"probe_\w*(duration|lookup_time)_seconds")


@dataclass(frozen=True, slots=True)
class Case:
    """One probe of one scripted target.

    Args:
        name: unique, in words; the module is called after it.
        settings: the block of the prober in the module; it may name ports as placeholders, and those of the proxy.
        target: with the placeholders of `Site.fill`.
        pages: what the target answers, by path.
        tls: how its TLS port behaves.
        quic: how its QUIC port behaves.
        proxy: how the proxy behaves that stands at ``{proxy}`` and, with TLS, at ``{tls_proxy}``.
        greeting: said to everybody who connects, instead of waiting for a request.
        opening: how HTTP/2 begins on the plain port, to a client that speaks it there.
        timeout: of the module: `AMPLE`, or `SHORT` where only the timeout ends the probe.
        parameters: of the request to ``/probe``, beside or instead of `module` and `target`; None drops one.
        headers: of the request to ``/probe``.
        talk: what the target says and hears instead, where it is no web site; ``{port}`` or ``{socket}`` names it.
        over: what carries the talk: ``tcp``, ``unix`` or ``abstract``.
        dns: the DNS server that is the target instead; every run has its own of the same behaviour.
        prober: the module's prober.
        pinned: whether a golden file holds it; not where the machine's names and resolver have a say.
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
    talk: Talk | None = None
    over: str = "tcp"
    dns: DnsServer | None = None
    prober: str = "http"
    pinned: bool = True

    @property
    def module(self) -> str:
        """The name of its module."""
        return re.sub(r"\W+", "_", self.name)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one exporter made of one case."""

    target: str
    lines: tuple[str, ...]
    types: Mapping[str, str]


def configuration(cases: Iterable[Case], directory: Path, ports: Ports) -> str:
    """The configuration file with the module of every case, the same for every exporter.

    A setting that reads ``{file}`` is replaced by what that file in `directory` holds.
    """
    modules = {}
    for case in cases:
        settings = _inline(ports.fill(case.module, case.settings), directory)
        modules[case.module] = {"prober": case.prober, "timeout": case.timeout, case.prober: settings}
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
    """Limits how many cases are probed at the same time."""

    def __init__(self) -> None:
        self._busy, self._silent = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(SILENT_AT_ONCE)

    def of(self, case: Case) -> asyncio.Semaphore:
        """Return what a case waits for."""
        return self._silent if case.timeout == SHORT else self._busy


async def run_all(cases: Sequence[Case], exporter: Server, pki: Path, ports: Ports) -> dict[str, Outcome]:
    """Run cases against one exporter, several at a time, each with a site of its own."""
    turns = Turns()

    async def one(case: Case) -> tuple[str, Outcome]:
        async with turns.of(case):
            return case.name, await run(case, exporter, pki, ports.of(case.module))

    return dict(await asyncio.gather(*map(one, cases)))


async def run(case: Case, exporter: Server, pki: Path, ports: Mapping[str, int]) -> Outcome:
    """Run one case."""
    async with AsyncExitStack() as stack:
        site: Site | Talker | DnsServer = Site(case.pages, case.tls, pki, case.greeting, case.quic, ports, case.opening)
        if case.talk is not None:
            site = Talker(case.talk, pki, case.over)
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
        if isinstance(site, Talker):
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
    """Every request as lines, headers sorted by name; a repeated header is numbered from its second value on."""
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
