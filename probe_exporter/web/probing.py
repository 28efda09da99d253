"""``/probe``: run the probe that a request describes, and return its metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

from probe_exporter.config.module import Config, Module
from probe_exporter.config.reloading import Configuration
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import negotiate
from probe_exporter.exposition.merging import merged
from probe_exporter.history.debug_page import debug_pages
from probe_exporter.history.memory import History
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.prober.failure import OutOfFiles, Reason, needs_files
from probe_exporter.runner import Result, run
from probe_exporter.telemetry.counters import Tally, Telemetry
from probe_exporter.telemetry.delays import Delays
from probe_exporter.web.accepting import NO_FILES
from probe_exporter.web.admission import Admission, patience
from probe_exporter.web.answers import Answer, Refused, exposition, plain
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.module_selection import UnknownModule, modules_made, modules_named, with_parameters
from probe_exporter.web.parameters import decode_query, is_repeated, probe_timeout, scrape_timeout
from probe_exporter.web.request import WebRequest

log = logging.getLogger(__name__)

DEFAULT_MODULE = "http_2xx"

REPEATED_TARGET = "The query has several target parameters: only the first is used. Encode & in a target as %26"


MAX_SERIES_IN_A_TURN = 500
"""Series of a response that the event loop encodes. More are encoded in a thread: 20,000 take 0.1 s as text, and 0.5 s
as protocol buffers."""

DebugPage = Callable[[WebRequest, Sequence[Result]], Awaitable[Answer]]


class Probing:
    """Runs probes for requests, and keeps track of the running ones.

    Attributes:
        running: the tasks that are probing now.
    """

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        history: History,
        probe_log: ProbeLog,
        timeout_offset: float,
        max_probes: int,
        page: DebugPage | None = None,
        delays: Delays | None = None,
    ) -> None:
        """
        Args:
            delays: watches the event loop during each probe; None to report no delay.
            page: makes the page of the probes of one request, for browsers that debug; without it they get text.
        """
        self._configuration = configuration
        self._telemetry = telemetry
        self._history = history
        self._probe_log = probe_log
        self._timeout_offset = timeout_offset
        self._page = page
        self._delays = delays
        self._admission = Admission(max_probes, telemetry)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoding")  # one, as the event loop waits for it
        self.running: set[asyncio.Task[Any]] = set()
        self._making = asyncio.Lock()
        self._draining: asyncio.Event | None = None  # set once the last probe has ended

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """The event loop: asking for it takes a system call on Python 3.11."""
        return asyncio.get_running_loop()

    async def probe(self, request: WebRequest, query: str) -> Answer:
        """Run a probe, and return 200 with its metrics, whether it succeeds or fails.

        The order of the checks is part of the interface: a request with several errors gets the message of the first.

        Raises:
            Refused: the request is invalid, or there is no free slot in time.
        """
        if self._draining is not None:
            self._refuse_if_draining()
        parameters = decode_query(query)
        config, asked = self._configuration.current, parameters.get("module") or DEFAULT_MODULE
        made = config.modules.made(asked)
        modules = [made] if made is not None else self._made(config, asked) or await self._make(config, asked)
        scrape = _scrape_timeout(request)
        target = parameters.get("target")
        if not target:
            raise Refused(400, "The target parameter is missing")
        if len(modules) == 1:  # nearly always
            modules[0] = with_parameters(modules[0], parameters)
        else:
            modules = [with_parameters(module, parameters) for module in modules]
        debug = parameters.get("debug") == "true"
        warning = REPEATED_TARGET if debug and is_repeated(query, "target") else ""
        if len(modules) == 1:
            results = [await self._admitted(modules[0], target, scrape, warning)]
        else:
            results = await _together([self._admitted(module, target, scrape, warning) for module in modules])
        if debug:
            if self._page is not None and wants_html(request):
                return await self._page(request, results)
            # In a thread: to render thousands of samples and log lines takes longer than one turn may take.
            return plain(await asyncio.to_thread(debug_pages, results, self._probe_log))
        if sum([result.probe.samples.number for result in results]) > MAX_SERIES_IN_A_TURN:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _encoded, request, results)
        return _encoded(request, results)

    def _made(self, config: Config, asked: str) -> list[Module] | None:
        """Return the modules that a request names; None if one was not made yet.

        Raises:
            Refused: one is unknown, or there are too many.
        """
        try:
            return modules_made(config, asked)
        except UnknownModule as unknown:
            self._telemetry.unknown_modules += 1
            log.debug("Unknown module", extra={"fields": {"module": unknown.name}})
            raise

    async def _make(self, config: Config, asked: str) -> list[Module]:
        """Make shipped modules at their first use, in a thread: importing a prober takes up to 0.1 s.

        Raises:
            Refused: there is no file descriptor left.
        """
        async with self._making:  # thousands of requests may come at once, and all but the first find it made
            found = modules_made(config, asked)
            if found is not None:
                return found
            try:
                modules = await asyncio.to_thread(modules_named, config, asked)
            except Exception as error:
                if needs_files(error):
                    raise Refused(503, NO_FILES, **{"Retry-After": "1"}) from error
                raise
        self._refuse_if_draining()
        return modules

    def _refuse_if_draining(self) -> None:
        if self._draining is not None:
            raise Refused(503, "The exporter is shutting down")

    async def _admitted(self, module: Module, target: str, scrape: float, warning: str) -> Result:
        """Wait for a free slot, which nearly always is there at once, and run a probe.

        Args:
            scrape: seconds until the client gives up.
            warning: for the probe's log, if not empty.

        Raises:
            Refused: there is no free slot in time.
        """
        timeout = probe_timeout(scrape, self._timeout_offset, module.timeout)
        whole = scrape - self._timeout_offset
        waited = 0.0
        if self._admission.free > 0:
            self._admission.free -= 1
        else:
            waited = await self._admission.wait(patience(whole, timeout))
            timeout = min(timeout, whole - waited)
        tally = self._telemetry.tally(module.name)
        tally.start(waited)
        task = asyncio.current_task(self._loop)
        assert task is not None
        self.running.add(task)
        try:
            result = await run(module, target, timeout, warning, self._delays, task)
        except BaseException:
            tally.cancel()
            raise
        finally:
            self._admission.leave()
            self.running.discard(task)
            if self._draining is not None and not self.running:
                self._draining.set()
        self._finish(result, tally)
        return result

    def _finish(self, result: Result, tally: Tally) -> None:
        """Count a finished probe, log it and add it to the history.

        Raises:
            Refused: there was no file descriptor left for it.
        """
        failure = result.failure
        if isinstance(failure, OutOfFiles):
            tally.cancel()
            self._telemetry.rejected += 1
            self._probe_log.write(result)
            raise Refused(503, NO_FILES, **{"Retry-After": "1"})
        tally.finish(failure.reason.value if failure is not None else "", result.duration)
        if result.runs:
            tally.deny_addresses(run.reason for run in result.runs if run.address)
        if failure is not None and failure.reason is Reason.INTERNAL_ERROR:
            self._telemetry.internal_errors += 1
        self._history.add(result)
        self._probe_log.write(result)

    @property
    def draining(self) -> bool:
        """Whether new probes are refused, because the exporter is shutting down."""
        return self._draining is not None

    async def drain(self) -> None:
        """Refuse new probes from now on, and wait for the running ones."""
        self._draining = asyncio.Event()
        self._admission.close()
        if self.running:
            log.info("Waiting for running probes", extra={"fields": {"probes": len(self.running)}})
            await self._draining.wait()

    def abandon(self) -> None:
        """Cancel the running probes; their clients get no response."""
        log.warning("Cancelling the running probes", extra={"fields": {"probes": len(self.running)}})
        for task in self.running:
            task.cancel()


def _encoded(request: WebRequest, results: Sequence[Result]) -> Answer:
    """Return the response with the metrics of finished probes."""
    format = negotiate(request.headers.get("Accept", ""))
    if len(results) == 1:
        samples = results[0].probe.samples
    else:
        samples = merged({result.module.name: result.probe.samples for result in results})
    return exposition(request, encode(samples, format), format.content_type)


def _scrape_timeout(request: WebRequest) -> float:
    header = request.headers.get("X-Prometheus-Scrape-Timeout-Seconds", "")
    try:
        return scrape_timeout(header)
    except ValueError as error:
        raise Refused(400, f"Cannot parse the scrape timeout header: {error}") from error


async def _together(probes: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run several probes at once and return their results. If one probe is refused, cancel the others."""
    tasks = [asyncio.ensure_future(probe) for probe in probes]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
