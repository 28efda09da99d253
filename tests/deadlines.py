"""Test timeouts of probes whose server runs in a thread or another process.

`tests.clocks` says what to use when.

Such a server may need long for the phases before the one that is to time out. `run_until` gives the probe
`LONG_SECONDS`, and its deadline expires as soon as the test has seen what it waits for. `timed_out` is for a probe in
another process: it repeats the probe with a longer timeout until that was long enough for the earlier phases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar
from unittest import mock

from probe_exporter import runner
from probe_exporter.config.module import Module
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.run import Probe
from probe_exporter.runner import Result
from probe_exporter.settings.block import Settings
from tests.waiting import until

T = TypeVar("T")

LONG_SECONDS = 60.0
"""A timeout so long that it never expires by itself."""

MAX_TURNS = 1000
"""Turns of the event loop within which a probe must end after its deadline."""

_SETTLING_TURNS = 20

Reached = Callable[[Probe], object]
"""Tells whether the deadline of a probe is to expire now."""


def watch(module: Module) -> tuple[Module, list[Probe]]:
    """Return the same module, and a list of the probes that it has begun."""
    probes: list[Probe] = []

    async def watched(probe: Probe, settings: Settings) -> None:
        probes.append(probe)
        await module.prober.probe(probe, settings)

    return replace(module, prober=replace(module.prober, probe=watched)), probes


async def run_until(reached: Reached, module: Module, target: str, *, grace: float = 0.0) -> Result:
    """Probe `target`; once `reached` is true of the probe, its deadline expires.

    Before that, the event loop gets some more turns, in each of which the probe reads what has arrived.

    Args:
        grace: seconds to wait before that, in which a server process may send data that must not matter.
            If it sends the data later, the test passes all the same.

    Raises:
        AssertionError: the probe goes on after its deadline.
    """
    module, probes = watch(module)
    deadlines: list[Deadline] = []

    def deadline(when: float, task: asyncio.Task[Any] | None = None) -> Deadline:
        deadlines.append(Deadline(when, task))
        return deadlines[-1]

    with mock.patch.object(runner, "Deadline", deadline):
        probing = asyncio.create_task(runner.run(module, target, LONG_SECONDS))
        await until(lambda: probing.done() or (probes and reached(probes[0])))
    await asyncio.wait([probing], timeout=grace)
    for _ in range(_SETTLING_TURNS):
        await asyncio.sleep(0.001)
    assert deadlines, "the runner sets deadlines otherwise than this expects"
    for probe in probes:
        probe.deadline = asyncio.get_running_loop().time()
    for one in deadlines:
        one.expire()
    for _ in range(MAX_TURNS):
        if probing.done():
            break
        await asyncio.sleep(0)
    assert probing.done(), "the probe goes on after its deadline"
    return await probing


def in_phase(name: str) -> Reached:
    """Return a `Reached`: the probe is in this phase."""
    return lambda probe: probe.current_phase == name


TIMEOUTS = (0.5, 3.0, 12.0)
"""Seconds that `timed_out` gives a probe, one after another."""


def timed_out(probe: Callable[[float], T], reached: Callable[[T], object], timeouts: Sequence[float] = TIMEOUTS) -> T:
    """Return the outcome of a probe that had time enough to reach the phase in which it must time out.

    Args:
        probe: runs it with a timeout in seconds.
        reached: tells whether an outcome is that of the phase.
    """
    *shorter, longest = timeouts
    for timeout in shorter:
        if reached(outcome := probe(timeout)):
            return outcome
    return probe(longest)


async def async_timed_out(
    probe: Callable[[float], Awaitable[T]], reached: Callable[[T], object], timeouts: Sequence[float] = TIMEOUTS
) -> T:
    """Do the same with a coroutine function."""
    *shorter, longest = timeouts
    for timeout in shorter:
        if reached(outcome := await probe(timeout)):
            return outcome
    return await probe(longest)
