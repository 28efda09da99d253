"""``/probe``: from a request to a finished probe and its exposition. What is asked is decoded in `parameters`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

from aiohttp.web import BaseRequest

from probe_exporter.config import Module
from probe_exporter.configuration import Configuration
from probe_exporter.exposition import encode, negotiate
from probe_exporter.history import History
from probe_exporter.logs import ProbeLog
from probe_exporter.prober import Reason
from probe_exporter.runner import Result, run
from probe_exporter.telemetry import Telemetry
from probe_exporter.web import pages
from probe_exporter.web.admission import Admission, patience
from probe_exporter.web.answer import Answer
from probe_exporter.web.answers import Refused, exposition, plain
from probe_exporter.web.parameters import decode_query, probe_timeout, scrape_timeout

log = logging.getLogger(__name__)

DEFAULT_MODULE = "http_2xx"


class Probing:
    """Runs probes for requests, and knows those that are running."""

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        history: History,
        probe_log: ProbeLog,
        timeout_offset: float,
        most: int,
    ) -> None:
        self._configuration = configuration
        self._telemetry = telemetry
        self._history = history
        self._probe_log = probe_log
        self._timeout_offset = timeout_offset
        self._admission = Admission(most, telemetry)
        self.running: set[asyncio.Task[Any]] = set()  # those that are probing, now
        self._draining: asyncio.Event | None = None  # set once the last probe has ended

    async def probe(self, request: BaseRequest, query: str) -> Answer:
        """Run a probe: 200 with its metrics, however it ends. The order of the checks is part of the interface."""
        if self._draining is not None:
            raise Refused(503, "The exporter is shutting down")
        parameters = decode_query(query)
        module = self._module(parameters.get("module") or DEFAULT_MODULE)
        scrape = _scrape_timeout(request)
        timeout = probe_timeout(scrape, self._timeout_offset, module.timeout)
        target = parameters.get("target")
        if not target:
            raise Refused(400, "The target parameter is missing")
        hostname = parameters.get("hostname")
        if hostname:
            module = _with_hostname(module, hostname)
        result = await self._admitted(module, target, timeout, scrape - self._timeout_offset)
        if parameters.get("debug") == "true":
            return plain(pages.debug_document(result, self._probe_log))
        format = negotiate(request.headers.get("Accept", ""))
        return exposition(request, encode(result.probe.samples, format), format.content_type)

    def _module(self, name: str) -> Module:
        module = self._configuration.current.modules.get(name)
        if module is None:
            self._telemetry.unknown_modules += 1
            log.debug("Unknown module", extra={"fields": {"module": name}})
            raise Refused(400, f'Unknown module "{name}"')
        return module

    async def _admitted(self, module: Module, target: str, timeout: float, whole: float) -> Result:
        """Run a probe when it is its turn, which nearly always is at once.

        Args:
            whole: the seconds until an answer is too late.
        """
        waited = 0.0
        if self._admission.free > 0:
            self._admission.free -= 1
        else:
            waited = await self._admission.wait(patience(whole, timeout))
            timeout = min(timeout, whole - waited)
        try:
            return await self._run(module, target, timeout, waited)
        finally:
            self._admission.leave()

    async def _run(self, module: Module, target: str, timeout: float, waited: float) -> Result:
        """Run, remember and log one probe; shutting down waits for those that are in here."""
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        tally = self._telemetry.tally(module.name)
        tally.start(waited)
        try:
            result = await run(module, target, timeout)
        except BaseException:
            tally.cancel()
            raise
        finally:
            self.running.discard(task)
            if self._draining is not None and not self.running:
                self._draining.set()
        tally.finish(result.failure.reason.value if result.failure else "", result.duration)
        if result.failure is not None and result.failure.reason is Reason.INTERNAL_ERROR:
            self._telemetry.internal_errors += 1
        self._history.add(result)
        self._probe_log.write(result)
        return result

    @property
    def draining(self) -> bool:
        """Whether no new probes are taken any more."""
        return self._draining is not None

    async def drain(self) -> None:
        """Refuse new probes from now on and wait for the running ones."""
        self._draining = asyncio.Event()
        self._admission.close()
        if self.running:
            log.info("Waiting for running probes", extra={"fields": {"probes": len(self.running)}})
            await self._draining.wait()

    def abandon(self) -> None:
        """Cancel the running probes; their clients get no answer."""
        log.warning("Running probes are abandoned", extra={"fields": {"probes": len(self.running)}})
        for task in self.running:
            task.cancel()


def _scrape_timeout(request: BaseRequest) -> float:
    header = request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "")
    try:
        return scrape_timeout(header)
    except ValueError as error:
        raise Refused(400, f"Cannot parse the scrape timeout header: {error}") from error


def _with_hostname(module: Module, hostname: str) -> Module:
    """The module as it is for one request with ``hostname``."""
    try:
        settings = module.prober.with_hostname(module.settings, hostname)
    except ValueError as conflict:
        raise Refused(400, str(conflict)) from conflict
    return module if settings is module.settings else replace(module, settings=settings)
