"""The udp prober: send datagrams to a UDP port, and check the responses against `query_response`.

UDP has no connections, so only a response shows that a server is there. Each datagram is sent once, because a probe is
meant to notice a lost one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Mapping
from typing import Any

from probe_exporter.addresses.endpoints import port_number, split_host_port
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.datagrams import Datagrams
from probe_exporter.network.opening import dial_udp
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.messages import Messages, MessageSettings
from probe_exporter.protocols.dialogue.steps import FAILED_BY_BYTES, FAILED_BY_REGEXP, walk
from probe_exporter.settings.rules import Block, required

# --- settings ----------------------------------------------------------------------------------------------


def _expects_an_answer(block: Block) -> Iterator[tuple[str, str]]:
    """Refuse a module that only sends: all its probes would succeed."""
    steps = block.get("query_response") or ()
    if steps and not any(
        isinstance(step, Mapping) and ("expect" in step or step.get("expect_bytes")) for step in steps
    ):
        yield "query_response", "no step expects a response, without which every probe would succeed"


class UdpSettings(MessageSettings, SourceSettings):
    """The ``udp`` block of a module."""

    rules = (*MessageSettings.rules, required("query_response"), _expects_an_answer)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        first = next(iter(self.query_response), None)
        if first is not None and (first.expect is not None or first.expect_bytes):
            yield "query_response", "the first step expects a response before anything is sent"


# --- the probe ---------------------------------------------------------------------------------------------

DURATION = Metric("probe_udp_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=2)

_DIALOGUE = (DURATION, ("dialogue",))
_NOT_FAILED = {FAILED_BY_REGEXP: 0, FAILED_BY_BYTES: 0}


async def probe_udp(probe: Probe, settings: UdpSettings) -> None:
    """Sends datagrams to ``host:port``, and checks the responses against ``query_response``."""
    host, port = split_host_port(probe.target)
    address = await choose_address(probe, host, settings, DURATION)
    datagrams = await dial_udp(probe, address, port_number(port, "udp"), source=settings.source_ip_address)
    probe.samples.plain.update(_NOT_FAILED)
    started = time.perf_counter()
    try:
        with probe.phase("dialogue"):
            await _hold(probe, settings, datagrams)
    finally:
        datagrams.close()
        probe.samples.series[_DIALOGUE] = whole_nanoseconds(time.perf_counter() - started)


async def _hold(probe: Probe, settings: UdpSettings, datagrams: Datagrams) -> None:
    """Perform the steps, and give failures the reasons of UDP."""
    try:
        await walk(probe, settings.query_response, Messages(probe, _Channel(datagrams)))
    except ProbeFailed as failed:
        if failed.reason in (Reason.CONNECT_REFUSED, Reason.CONNECT_RESET):
            raise ProbeFailed(Reason.UDP_PORT_UNREACHABLE, "the port is closed (ICMP port unreachable)") from None
        probe.set(FAILED_BY_REGEXP, 1 if failed.reason in (Reason.DIALOGUE_NO_MATCH, Reason.DIALOGUE_REJECTED) else 0)
        probe.set(FAILED_BY_BYTES, 1 if failed.reason is Reason.DIALOGUE_BYTES_MISMATCH else 0)
        raise
    except asyncio.CancelledError:
        if not datagrams.first_at:  # only the first failure counts, if this is the deadline
            probe.fail(ProbeFailed(Reason.UDP_NO_ANSWER, "no datagram came back in time"))
        raise


class _Channel:
    """Messages in datagrams."""

    def __init__(self, datagrams: Datagrams) -> None:
        self._datagrams = datagrams

    def receive(self) -> Coroutine[Any, Any, bytes]:
        return self._datagrams.read()

    async def send_text(self, text: bytes) -> None:
        self._datagrams.send(text)

    async def send(self, data: bytes) -> None:
        self._datagrams.send(data)


prober = Prober("udp", UdpSettings, probe_udp)
