"""``probe-exporter run``: probe one or several targets from a terminal, once or again and again."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import uvloop

from probe_exporter import runner
from probe_exporter.config.module import Module
from probe_exporter.config.one_module import NoModule
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.merging import merged
from probe_exporter.history import record
from probe_exporter.history.debug_page import debug_page
from probe_exporter.history.details import details_of, to_json
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.prober.metrics import Samples
from probe_exporter.runner import Result
from probe_exporter.settings.fields import nearest

DEFAULT_TIMEOUT = 10.0  # seconds

MAX_CONCURRENT = 32
"""Probes of several targets that run at once."""


class PreparedProbe(NamedTuple):
    """A probe that is ready to run; `timeout` is in seconds."""

    module: Module
    target: str
    timeout: float


def prepare(module: Module, target: str, parameters: Mapping[str, str], timeout: float | None) -> PreparedProbe:
    """Prepare a probe.

    Args:
        parameters: parameters of a request: those that the module declares, and ``hostname``.
        timeout: seconds; None for the module's timeout.

    Raises:
        NoModule: the module does not accept the parameters.
    """
    known = ["hostname", *module.parameters]
    for name in parameters:
        if name not in known:
            raise NoModule(f"module {module.name} has no parameter {name}{nearest(name, known)}")
    try:
        filled = module.prepared(parameters)
    except ValueError as conflict:
        raise NoModule(str(conflict)) from None
    return PreparedProbe(filled, target, timeout or module.timeout or DEFAULT_TIMEOUT)


class Output(Protocol):
    """Prints the results of probes."""

    def begin(self, number: int) -> None:
        """A round of so many probes begins."""

    def done(self) -> None:
        """A probe of the round has ended."""

    def end(self, results: Sequence[Result]) -> None:
        """The round has ended."""

    def close(self) -> None:
        """Finish the output after the last round."""


def run(probes: Sequence[PreparedProbe], output: Output, interval: float | None) -> int:
    """Run all probes; return the exit code: 1 if a probe failed.

    Args:
        interval: seconds from the start of a round to the next; None for one round.

    Raises:
        KeyboardInterrupt: after Ctrl-C, which ends further rounds.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            results = loop.run(_rounds(probes, output, interval))
    finally:
        output.close()
    return 0 if all(result.success for result in results) else 1


async def _rounds(probes: Sequence[PreparedProbe], output: Output, interval: float | None) -> list[Result]:
    clock = asyncio.get_running_loop().time
    while True:
        began = clock()
        output.begin(len(probes))
        results = await _round(probes, output.done)
        output.end(results)
        if interval is None:
            return results
        await asyncio.sleep(max(0.0, began + interval - clock()))


async def _round(probes: Sequence[PreparedProbe], done: Callable[[], None]) -> list[Result]:
    """Run the probes at once, up to a limit; return the results in the order of the probes."""
    room = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(probe: PreparedProbe) -> Result:
        async with room:
            result = await runner.run(*probe)
        done()
        return result

    return await asyncio.gather(*map(one, probes))


# --- outputs for programs ------------------------------------------------------------------------------------


class _WithoutProgress:
    """An output that prints nothing until a round has ended."""

    def begin(self, number: int) -> None:
        pass

    def done(self) -> None:
        pass

    def close(self) -> None:
        pass


class Metrics(_WithoutProgress):
    """Prints metrics to stdout, and the reasons of failures to stderr.

    Several targets get the label ``target``, and several modules the label ``module``.
    """

    def __init__(self, *, debug: bool) -> None:
        """
        Args:
            debug: print debug documents instead of metrics.
        """
        self._debug = debug

    def end(self, results: Sequence[Result]) -> None:
        if self._debug:
            log = ProbeLog(logging.DEBUG, "logfmt")
            sys.stdout.write("\n".join([debug_page(result, log) for result in results]))
        else:
            sys.stdout.write(encode(_together(results)).decode())
        sys.stdout.flush()
        for result in results:
            _report_failure(result, named=len(results) > 1)


def _together(results: Sequence[Result]) -> Samples:
    """Return the samples of all results, with labels that tell them apart."""
    if len(results) == 1:
        return results[0].probe.samples
    targets: dict[str, dict[str, Samples]] = {}
    for result in results:
        targets.setdefault(record.entry(0, result).target, {})[result.module.name] = result.probe.samples
    if len({result.module.name for result in results}) > 1:
        return merged({target: merged(modules) for target, modules in targets.items()}, "target")
    return merged({target: samples for target, modules in targets.items() for samples in modules.values()}, "target")


def _report_failure(result: Result, *, named: bool) -> None:
    if result.failure is None:
        return
    told = record.entry(0, result)
    phase = f" in phase {told.phase}" if told.phase else ""
    what = f"The probe of {told.target} with {told.module}" if named else "The probe"
    sys.stderr.write(f"{what} failed{phase}: {told.reason}: {told.message}\n  {result.failure.reason.meaning}\n")


class Json(_WithoutProgress):
    """Prints a JSON object in a line for each probe, as `/history?id=N` has it, without an id."""

    def end(self, results: Sequence[Result]) -> None:
        for result in results:
            data = record.entry(0, result).data() | details_of(result)
            del data["id"]
            sys.stdout.write(f"{to_json(data)}\n")
        sys.stdout.flush()
