"""Provide a prober that is controlled by its target, loaded like any user's prober."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from prometheus_client import Counter, Histogram

from probe_exporter import Metric, OwnReason, Probe, ProbeFailed, Prober, Reason, Secret, Settings, Text

WORDS = Metric("probe_actor_words", "How many words the target has.")
SEEN = Metric("probe_actor_seen_info", "What the prober was given.", ("target", "host"))
TIRED = OwnReason("actor_tired", "The actor has no more strength.")


class ActorSettings(Settings):
    """The settings of an actor."""

    host: Text = ""
    password: Secret | None = None


async def probe_actor(probe: Probe, settings: ActorSettings) -> None:
    """Do what the target says: `wait 0.1`, `block 6`, `hang <file>`, `hold <file>`, `meet <file>`, `fail`, `break` …"""
    script, _, argument = probe.target.partition(" ")
    probe.set(WORDS, len(probe.target.split()))
    probe.set(SEEN, 1, probe.target, settings.host)
    probe.log("Acting", script=script)
    with probe.phase("acting"):
        match script:
            case "wait":
                await asyncio.sleep(float(argument))
            case "block":
                time.sleep(float(argument))  # noqa: ASYNC251  # a prober must not do this
            case "hang" | "hold" | "meet" | "linger":
                await WAITS[script](Path(argument))
            case "fail":
                probe.log("Something odd", level=logging.WARNING)
                raise ProbeFailed(Reason.TARGET_INVALID, "as the target wished")
            case "tire":
                raise ProbeFailed(TIRED, "no more", level="low", phase="night", err="odd", duration_seconds=-1)
            case "break":
                raise RuntimeError("a bug of the prober")
            case "count":
                _count(probe)


async def _hang(witness: Path, seconds: float = 1e6) -> None:
    """Write to the witness file, sleep, and write "cancelled" if cancelled."""
    witness.write_text("hanging")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        witness.write_text("cancelled")
        raise


async def _hold(witness: Path) -> None:
    """Create the witness file and wait until the test removes it."""
    witness.write_text("holding")
    while witness.exists():  # noqa: ASYNC110  # the test is another process
        await asyncio.sleep(0.01)


async def _meet(place: Path) -> None:
    """Wait until two probes have written to this file."""
    with place.open("a") as visitors:
        visitors.write("x")
    while place.stat().st_size < 2:  # noqa: ASYNC110  # the two probes share only the file
        await asyncio.sleep(0.01)


async def _linger(witness: Path) -> None:
    """Hang for one second."""
    await _hang(witness, seconds=1.0)


WAITS = {"hang": _hang, "hold": _hold, "meet": _meet, "linger": _linger}


def _count(probe: Probe) -> None:
    """Set metrics of prometheus_client's types in the prober's own registry."""
    Counter("probe_actor_counted", "Counted.", registry=probe.registry).inc(2)
    Histogram("probe_actor_spread", "Spread.", buckets=(1, 2), registry=probe.registry).observe(1.5)


def with_hostname(settings: ActorSettings, hostname: str) -> ActorSettings:
    """Return the settings with the request's host name; raise ValueError if the module has another."""
    if settings.host and settings.host != hostname:
        raise ValueError(f'the module says "{settings.host}" and the request "{hostname}"')
    return settings.model_copy(update={"host": hostname})


prober = Prober("actor", ActorSettings, probe_actor, with_hostname=with_hostname, reasons=(TIRED,))
