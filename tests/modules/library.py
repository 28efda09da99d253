"""Helpers for tests of the module library: shipped modules, probes of them, peers that misbehave."""

from __future__ import annotations

import ast
import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, cast

from probe_exporter.config import loading
from probe_exporter.config.module import Config, Module
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.network.settings import NetworkSettings
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import Reason
from probe_exporter.runner import Result, run
from probe_exporter.runs.settings import AddressesSettings
from probe_exporter.runs.several import Several
from tests.deadlines import run_until
from tests.targets import End, Pki, Repeat
from tests.targets.dns import DnsServer, Zone
from tests.targets.nodes import Node, hang_up, nodes, relay
from tests.targets.scripted_server import Hear, Script, ScriptedServer, Turn, talk, then_silence

PROBERS = loader.load_probers([])
"""Every prober, loaded once for all test files."""

OURS = frozenset({Reason.INTERNAL_ERROR})
"""Reasons that no peer may cause."""


@lru_cache
def library(name: str) -> Config:
    """Return the shipped modules of one file, loaded without warnings."""
    return loading.load([loader.library() / f"{name}.yml"], PROBERS, strict=True)


def shipped(file: str, name: str = "", **settings: Any) -> Module:
    """Return a shipped module with changed settings."""
    module = library(file).modules[name or file]
    written = module.settings.model_dump(exclude_unset=True) | settings
    return replace(module, settings=type(module.settings).model_validate(written))


def trust(pki: Pki) -> dict[str, Any]:
    """Return a tls_config that trusts the test root, for a target that is an address."""
    return pki.trust(server_name="localhost")


async def probe(module: Module, target: object, timeout: float = 20.0) -> Result:
    """Run one probe."""
    return await run(module, str(target), timeout)


def of_every_address(module: Module, dns: DnsServer) -> Module:
    """Return the module with `addresses` and the policy `any`; `dns` resolves its targets."""
    resolver = {"servers": [f"127.0.0.1:{dns['port']}"], "timeout": "60s"}
    network = NetworkSettings.model_validate({"resolver": resolver}).policy()
    return replace(module, network=network, several=Several(AddressesSettings(policy="any"), None))


async def probe_every_address(module: Module, port: int) -> Result:
    """Probe a name with three addresses: one leads to a server, one closes each connection, and one refuses them.

    Args:
        port: of the server, on 127.0.0.1.
    """
    servers = {"127.0.0.2": Node(hang_up), "127.0.0.3": Node(), "127.0.0.4": Node(relay(port))}
    async with DnsServer(Zone({"many.test": [[*servers]]})) as dns, nodes(servers) as shared:
        result = await run(of_every_address(module, dns), f"many.test:{shared}", 60.0)
    assert result.failure is None, result.failure.message
    assert [(run.address, run.decides) for run in result.runs] == [(one, one == "127.0.0.4") for one in servers]
    closed, refused, passed = [run.reason for run in result.runs]
    assert closed not in ("", *OURS)
    assert (refused, passed) == ("connect_refused", "")
    assert measured(result)["probe_address_success"] == {
        ("127.0.0.2", "4"): 0,
        ("127.0.0.3", "4"): 0,
        ("127.0.0.4", "4"): 1,
    }
    return result


async def probe_scripted(
    module: Module, script: Script, pki: Pki, timeout: float = 20.0, *, times_out: bool = False
) -> tuple[Result, bytes]:
    """Probe a scripted peer. Return the result and what the peer heard.

    Args:
        times_out: let the deadline expire once the peer has played its script.
    """
    async with ScriptedServer(script, pki.directory) as scripted:
        target = scripted.fill("127.0.0.1:{port}")
        if times_out:
            result = await run_until(lambda _: scripted.silent.is_set(), module, target)
        else:
            result = await probe(module, target, timeout)
        await scripted.finished()
    return result, b"".join(map(ast.literal_eval, scripted.heard))


async def probe_same_loop(module: Module, *turns: bytes | Hear) -> tuple[Result, bytes]:
    """Probe a peer on the test's own loop, so that `clock` can skip a silence. Return the result and what it heard.

    The peer plays its turns, then waits for the end of the connection.
    """
    heard = bytearray()
    gone = asyncio.Event()

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for turn in turns:
            if isinstance(turn, Hear):
                heard.extend(await reader.readexactly(turn.bytes))
            else:
                writer.write(turn)
        heard.extend(await reader.read())
        writer.close()
        gone.set()

    async with await asyncio.start_server(play, "127.0.0.1", 0) as server:
        result = await probe(module, f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await gone.wait()
    return result, bytes(heard)


def measured(result: Result) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the prober's own samples by name, without durations and addresses."""
    general = ("probe_success", "probe_duration", "probe_timeout", "probe_failure", "probe_dns", "probe_ip_")
    return {
        metric.name: dict(values)
        for metric, values in result.probe.samples.families.items()
        if not metric.name.startswith(general) and not metric.name.endswith("duration_seconds")
    }


def phases(result: Result) -> set[str]:
    """Return the phases that have a duration."""
    return {
        labels[0]
        for metric, values in result.probe.samples.families.items()
        if metric.name.endswith("duration_seconds") and metric.labels == ("phase",)
        for labels in values
    }


# --- peers that misbehave ----------------------------------------------------------------------------------

STRANGERS: dict[str, Script] = {
    "no response": then_silence(),
    "closed at once": talk(),
    "reset at once": talk(end=End.RESET),
    "one byte": talk(b"\0"),
    "every byte": talk(bytes(range(256)) * 64),
    "HTTP server": talk(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    "SMTP server": talk(b"220 mail.example.test ESMTP\r\n", Hear(bytes=1), b"500 what?\r\n"),
    "flood without newline": talk(Repeat(b"x" * 65536, 512)),
    "flood of lines": talk(Repeat(b"x\r\n" * 16384, 512)),
    "flood of zeros": talk(Repeat(bytes(65536), 512)),
    "flood of ones": talk(Repeat(b"\xff" * 65536, 512)),
}
"""Peers that speak another protocol, or none."""


async def expect_failure(module: Module, script: Script, pki: Pki) -> Result:
    """Probe a scripted peer; assert that the probe fails, and not with an internal error."""
    result, _ = await probe_scripted(module, script, pki, times_out=script.end is End.HOLD)
    assert result.failure is not None
    assert result.failure.reason not in OURS, result.failure.message
    return result


def cuts(turns: tuple[Turn, ...], step: int = 1) -> Iterator[Script]:
    """Yield dialogues that end at every byte of what the peer says."""
    for place, turn in enumerate(turns):
        if isinstance(turn, bytes):
            for size in range(0, len(turn), step):
                yield talk(*turns[:place], turn[:size])


def damaged(turns: tuple[Turn, ...], number: int = 500) -> Iterator[Script]:
    """Yield dialogues with changed, missing or inserted bytes, the same at every run."""
    dice = random.Random(1)
    places = [place for place, turn in enumerate(turns) if isinstance(turn, bytes)]
    for _ in range(number):
        place = dice.choice(places)
        said = bytearray(cast("bytes", turns[place]))
        for _ in range(dice.choice((1, 1, 2, 8))):
            start = dice.randrange(len(said) + 1)
            new = dice.choice((b"", bytes([dice.choice((0, 1, 251, 252, 254, 255))]), dice.randbytes(3)))
            said[start : start + dice.randrange(3)] = new
        yield talk(*turns[:place], bytes(said))


async def expect_no_bug(module: Module, script: Script, pki: Pki) -> None:
    """Probe a scripted peer; assert no internal error, and that the samples can be encoded.

    Both sides may wait for each other, so the timeout is short. Whether it strikes does not matter.
    """
    result, _ = await probe_scripted(module, script, pki, timeout=0.3)
    assert result.failure is None or result.failure.reason not in OURS, (result.failure.message, script)
    encode(result.probe.samples, TEXT)
