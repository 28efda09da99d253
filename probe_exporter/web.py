"""The routes: a request in, a probe run, an exposition out. What is asked is decoded in `parameters`.

aiohttp's low-level server without its router: the paths are a table, and a probe's request is looked at once.
"""

from __future__ import annotations

import asyncio
import logging
import posixpath
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, unquote

from aiohttp.web import BaseRequest, Response

from probe_exporter import pages
from probe_exporter.config import Module, to_yaml
from probe_exporter.configuration import REFUSALS, Configuration
from probe_exporter.exposition import encode, encode_families, negotiate
from probe_exporter.history import History
from probe_exporter.logs import ProbeLog
from probe_exporter.parameters import decode_query, probe_timeout, scrape_timeout, wants_gzip
from probe_exporter.prober import Reason
from probe_exporter.runner import Result, run
from probe_exporter.telemetry import Telemetry

log = logging.getLogger(__name__)

Handler = Callable[[BaseRequest, str], Awaitable[Response]]

DEFAULT_MODULE = "http_2xx"
_PLAIN_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
_HTML_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'",
}


class Refused(Exception):
    """The request can't be answered: a status, and one line for whoever sent it."""

    def __init__(self, status: int, line: str, **headers: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Place:
    """Where the exporter is reached.

    Args:
        prefix: what all paths begin with; it begins and ends with a slash.
        front: where a request for the root goes if that is not the prefix.
    """

    prefix: str
    front: str


class Web:
    """All endpoints. An instance is the handler that aiohttp's server calls."""

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        history: History,
        probe_log: ProbeLog,
        *,
        timeout_offset: float,
        place: Place,
    ) -> None:
        self._configuration = configuration
        self._telemetry = telemetry
        self._history = history
        self._probe_log = probe_log
        self._timeout_offset = timeout_offset
        self._place = place
        self.running: set[asyncio.Task[Any]] = set()  # those that are probing, now
        self._draining: asyncio.Event | None = None  # set once the last probe has ended
        prefix = place.prefix
        self._routes: dict[str, Handler] = {
            f"{prefix}probe": self.probe,
            f"{prefix}metrics": self.metrics,
            f"{prefix}config": self.config,
            f"{prefix}logs": self.logs,
            f"{prefix}-/reload": self.reload,
            f"{prefix}-/healthy": self.healthy,
            prefix: self.landing,
        }

    async def __call__(self, request: BaseRequest) -> Response:
        """Answer one request."""
        path, _, query = request.raw_path.partition("?")
        handler = self._routes.get(path)
        try:
            if handler is None:
                handler = self._find(path, query)
            return await handler(request, query)
        except Refused as refused:
            return _refusal(refused)
        except Exception as error:
            log.error("A request met a bug: please report this", exc_info=error, extra={"fields": {"path": path}})
            self._telemetry.internal_errors.inc()
            return _refusal(Refused(500, "Internal error; the exporter's log has more"))

    def _find(self, path: str, query: str) -> Handler:
        """The handler of a path that is spelt in an unusual way.

        Raises:
            Refused: it belongs elsewhere, or nowhere.
        """
        if "://" in path:  # absolute form, RFC 9112 section 3.2.2
            path = "/" + path.partition("://")[2].partition("/")[2]
        path = unquote(path, errors="surrogateescape")
        clean = posixpath.normpath(path).replace("//", "/", 1)
        if path.endswith("/") and clean != "/":
            clean += "/"
        if clean == self._place.prefix.rstrip("/"):
            clean = self._place.prefix
        if path.startswith("/") and clean != path:
            location = quote(clean, errors="surrogateescape") + (f"?{query}" if query else "")
            raise Refused(301, "Moved permanently", Location=location)
        if path in self._routes:
            return self._routes[path]
        if path == "/":
            raise Refused(302, "Found", Location=self._place.front)
        raise Refused(404, "Not found")

    # --- probing -------------------------------------------------------------------------------------------

    async def probe(self, request: BaseRequest, query: str) -> Response:
        """Run a probe: 200 with its metrics, however it ends. The order of the checks is part of the interface."""
        if request.method != "GET":
            raise Refused(405, "Probing takes a GET request", Allow="GET")
        if self._draining is not None:
            raise Refused(503, "The exporter is shutting down")
        parameters = decode_query(query)
        module = self._module(parameters.get("module") or DEFAULT_MODULE)
        timeout = probe_timeout(_scrape_timeout(request), self._timeout_offset, module.timeout)
        target = parameters.get("target")
        if not target:
            raise Refused(400, "The target parameter is missing")
        hostname = parameters.get("hostname")
        if hostname:
            module = _with_hostname(module, hostname)
        result = await self._run(module, target, timeout)
        if parameters.get("debug") == "true":
            return _plain(pages.debug_document(result, self._probe_log))
        format = negotiate(request.headers.get("Accept", ""))
        return _exposition(request, encode(result.probe.samples, format), format.content_type)

    def _module(self, name: str) -> Module:
        module = self._configuration.current.modules.get(name)
        if module is None:
            self._telemetry.unknown_modules.inc()
            log.debug("Unknown module", extra={"fields": {"module": name}})
            raise Refused(400, f'Unknown module "{name}"')
        return module

    async def _run(self, module: Module, target: str, timeout: float) -> Result:
        """Run, remember and log one probe; shutting down waits for those that are in here."""
        task = asyncio.current_task()
        assert task is not None
        self.running.add(task)
        try:
            result = await run(module, target, timeout)
        finally:
            self.running.discard(task)
            if self._draining is not None and not self.running:
                self._draining.set()
        if result.failure is not None and result.failure.reason is Reason.INTERNAL_ERROR:
            self._telemetry.internal_errors.inc()
        self._history.add(result)
        self._probe_log.write(result)
        return result

    async def drain(self) -> None:
        """Refuse new probes from now on and wait for the running ones."""
        self._draining = asyncio.Event()
        if self.running:
            log.info("Waiting for running probes", extra={"fields": {"probes": len(self.running)}})
            await self._draining.wait()

    def abandon(self) -> None:
        """Cancel the running probes; their clients get no answer."""
        log.warning("Running probes are abandoned", extra={"fields": {"probes": len(self.running)}})
        for task in self.running:
            task.cancel()

    # --- everything else -----------------------------------------------------------------------------------

    async def metrics(self, request: BaseRequest, query: str) -> Response:
        """The exporter's own metrics."""
        format = negotiate(request.headers.get("Accept", ""))
        body = encode_families(self._telemetry.registry.collect(), format)
        self._telemetry.scrapes.labels("200").inc()
        return _exposition(request, body, format.content_type)

    async def config(self, request: BaseRequest, query: str) -> Response:
        """The config in use, defaults filled in and secrets masked."""
        return _plain(to_yaml(self._configuration.current))

    async def logs(self, request: BaseRequest, query: str) -> Response:
        """The debug document of a probe in the history, by number or by target."""
        parameters = decode_query(query)
        target, module = parameters.get("target", ""), parameters.get("module", "")
        number = _number(parameters.get("id", ""))
        if number is not None and target:
            raise Refused(400, "Give either the id or the target of a probe, not both")
        if target:
            result = self._history.find(target, module)
        elif number is None:
            raise Refused(400, "Give the id or the target of a probe")
        elif module:
            raise Refused(400, "The module parameter goes with target only")
        else:
            result = self._history.get(number)
        if result is None:
            raise Refused(404, "No such probe is held")
        return _plain(pages.debug_document(result, self._probe_log))

    async def landing(self, request: BaseRequest, query: str) -> Response:
        """The page for people."""
        page = pages.landing(self._configuration.current, self._history.recent())
        return _answer(page.encode("utf-8", "replace"), _HTML_HEADERS)

    async def healthy(self, request: BaseRequest, query: str) -> Response:
        """For liveness checks."""
        return _plain("Healthy")

    async def reload(self, request: BaseRequest, query: str) -> Response:
        """Read the config again."""
        if request.method != "POST":
            raise Refused(405, "Reloading takes a POST request", Allow="POST")
        try:
            await self._configuration.reload()
        except REFUSALS as refusal:
            log.error("The configuration was not reloaded", extra={"fields": {"err": refusal}})
            raise Refused(500, f"The configuration was not reloaded: {refusal}") from refusal
        return _plain("")


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


def _number(text: str) -> int | None:
    """The id that a request names; -1 has always meant none."""
    try:
        number = int(text) if text.isascii() and "_" not in text and text.strip() == text else -1
    except ValueError:
        return None
    return None if number == -1 else number


def _exposition(request: BaseRequest, body: bytes, content_type: str) -> Response:
    if not wants_gzip(request.headers.get("Accept-Encoding", "")):
        return _answer(body, {"Content-Type": content_type})
    # The lowest level: 8 µs for a probe's 2 kB against 10 at the default, and 1 % larger.
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    packed = packer.compress(body) + packer.flush()
    return _answer(packed, {"Content-Type": content_type, "Content-Encoding": "gzip"})


def _plain(text: str) -> Response:
    return _answer(text.encode("utf-8", "replace"), _PLAIN_HEADERS)


def _refusal(refused: Refused) -> Response:
    body = f"{refused.line}\n".encode("utf-8", "replace")
    response = _answer(body, _PLAIN_HEADERS | refused.headers, refused.status)
    if refused.status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.force_close()
    return response


def _answer(body: bytes, headers: dict[str, str], status: int = 200) -> Response:
    # Without a Server header of ours, aiohttp tells everybody the versions of Python and itself.
    return Response(status=status, body=body, headers={"Server": "probe-exporter", **headers})
