"""Map each path to its handler. The server uses aiohttp's low-level server and a table in place of its router."""

from __future__ import annotations

import asyncio
import json
import logging
import posixpath
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from prometheus_client.metrics_core import Metric as Family

from probe_exporter.config.reloading import REFUSALS, Configuration
from probe_exporter.exposition.encoding import encode_families
from probe_exporter.exposition.formats import negotiate
from probe_exporter.history.memory import History
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.telemetry.delays import Delays
from probe_exporter.web import api, openapi
from probe_exporter.web.answers import Answer, Handler, Refused, exposition, json_text, plain, refusal
from probe_exporter.web.api import Operation
from probe_exporter.web.config_page import ConfigPage
from probe_exporter.web.discovery import DiscoveryPage
from probe_exporter.web.form import FormPage
from probe_exporter.web.health import Health
from probe_exporter.web.history import HistoryPages
from probe_exporter.web.html import assets
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import Renderer
from probe_exporter.web.listening import Place
from probe_exporter.web.metadata import MetadataPage
from probe_exporter.web.module_pages import ModulePages
from probe_exporter.web.module_selection import UnknownModule
from probe_exporter.web.parameters import TooManyParameters
from probe_exporter.web.probe_page import ProbePages
from probe_exporter.web.probing import Probing
from probe_exporter.web.reload_queue import Reloads
from probe_exporter.web.request import WebRequest
from probe_exporter.web.status_page import StatusPage
from probe_exporter.workers import snapshots
from probe_exporter.workers.worker import ReloadRefused, SingleProcess, SupervisorTimeout, Workers

if TYPE_CHECKING:
    from probe_exporter.web.config_file import LiveWebConfig

log = logging.getLogger(__name__)


class Route(NamedTuple):
    """A path below the route prefix, its handler, and its description in the API."""

    path: str
    handler: Handler
    operation: Operation


OTHER = "other"
"""The path under which requests for unknown paths are counted."""


def _not_allowed(route: Route) -> Refused:
    """Return the error for a method that the route does not have."""
    allowed = ", ".join(route.operation.methods)
    return Refused(405, f"{route.path} takes {allowed} requests", Allow=allowed)


class Web:
    """Serves all endpoints. An instance is the handler that aiohttp's server calls."""

    def __init__(
        self,
        configuration: Configuration,
        telemetry: Telemetry,
        history: History,
        probe_log: ProbeLog,
        *,
        timeout_offset: float,
        max_probes: int,
        place: Place,
        workers: Workers | None = None,
        live: LiveWebConfig | None = None,
        delays: Delays | None = None,
    ) -> None:
        """
        Args:
            timeout_offset: seconds of the scrape timeout that are reserved for sending the response.
            max_probes: the most probes that run at once.
            place: the paths under which clients reach the server.
            workers: the other worker processes, if there are any.
            live: the web configuration file, if there is one.
            delays: watches the event loop during each probe; None to report no delay.
        """
        self._configuration = configuration
        self.reloads = Reloads(configuration)
        self.telemetry = telemetry
        self.history = history
        self._place = place
        self._renderer = Renderer(place.prefix)
        self._history_pages = HistoryPages(history, configuration, self._renderer)
        self._probe_pages = ProbePages(configuration, self._history_pages, self._renderer, place)
        page = self._probe_pages.probe
        self.probing = Probing(configuration, telemetry, history, probe_log, timeout_offset, max_probes, page, delays)
        self._module_pages = ModulePages(configuration, self._history_pages, self._renderer, place)
        self._workers = workers or SingleProcess()
        self._encoding = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")
        self.health = Health(configuration, live, telemetry.lag, self._workers, self.probing, self._renderer)
        self.metadata = MetadataPage(configuration, self._renderer)
        self._status_page = StatusPage(
            configuration, self._history_pages, self.health, telemetry.lag, self._workers, self._renderer
        )
        self._routes = {place.prefix.rstrip("/") + route.path: route for route in self._all_routes()}
        self._modules = f"{place.prefix}modules/"

    def _all_routes(self) -> Sequence[Route]:
        """Return the routes of all paths, below the prefix."""
        configuration, renderer, modules = self._configuration, self._renderer, self._module_pages
        return [
            Route("/probe", self.probing.probe, api.PROBE),
            Route("/metrics", self.metrics, api.METRICS),
            Route("/config", ConfigPage(configuration, renderer).config, api.CONFIG),
            Route("/logs", self._history_pages.logs, api.LOGS),
            Route("/history", self._probe_pages.history(self._history_pages.history), api.HISTORY),
            Route("/modules", modules.modules, api.MODULES),
            Route("/modules/{name}", modules.module, api.MODULE),
            Route("/reasons", modules.reasons, api.REASONS),
            Route("/-/reload", self.reload, api.RELOAD),
            Route("/-/healthy", self.health.healthy, api.HEALTHY),
            Route("/-/ready", self.health.ready, api.READY),
            Route("/health", self.health.health, api.HEALTH),
            Route("/metadata", self.metadata.metadata, api.METADATA),
            Route("/sd", DiscoveryPage(configuration).targets, api.DISCOVERY),
            Route("/openapi.json", self.openapi, api.OPENAPI),
            Route("/", self._status_page.status, api.STATUS),
            Route("/form", FormPage(configuration, renderer).form, api.FORM),
            *[Route(f"/static/{name}", assets.handler(name), api.STATIC[name]) for name in assets.TYPES],
        ]

    async def __call__(self, request: WebRequest) -> Answer:
        """Answer one request."""
        path, _, query = request.raw_path.partition("?")
        route = self._routes.get(path)
        try:
            if route is None:
                route = self._find(path, query)
            if request.method not in route.operation.methods:
                raise _not_allowed(route)
            answer = await route.handler(request, query)
        except Refused as refused:
            answer = await self._refusal(request, refused)
        except TooManyParameters as bad:
            answer = await self._refusal(request, Refused(400, str(bad)))
        except SupervisorTimeout as late:
            answer = await self._refusal(request, Refused(503, str(late)))
        except Exception as error:
            log.error("Unexpected exception in a request", exc_info=error, extra={"fields": {"path": path}})
            self.telemetry.internal_errors += 1
            answer = refusal(Refused(500, "Internal error; the exporter's log has more"))
        self.telemetry.answered(route.path if route else OTHER, answer.status)
        return answer

    async def _refusal(self, request: WebRequest, refused: Refused) -> Answer:
        """Return the error response: a page for a browser, one line of text for other clients and for redirects."""
        if refused.status < HTTPStatus.BAD_REQUEST or not wants_html(request):
            return refusal(refused)
        try:
            return await self._error_page(request, refused)
        except Refused:  # too many pages are being made
            return refusal(refused)

    async def _error_page(self, request: WebRequest, refused: Refused) -> Answer:
        if isinstance(refused, UnknownModule):
            return await self._probe_pages.unknown_module(request, refused)
        values = {"code": refused.status, "phrase": HTTPStatus(refused.status).phrase, "line": refused.line}
        answer = await self._renderer.page(request, "error.html", values, refused.status)
        answer.add_fields(refused.headers)
        return answer

    def count(self, request: WebRequest, status: int) -> None:
        """Count a response that was sent before the request reached a route."""
        route = self._routes.get(request.raw_path.partition("?")[0])
        self.telemetry.answered(route.path if route else OTHER, status)

    def _find(self, path: str, query: str) -> Route:
        """Return the route of a path that is not in the table as written.

        Raises:
            Refused: the path is redirected to another, or unknown.
        """
        if "://" in path:  # absolute form, RFC 9112 section 3.2.2
            path = "/" + path.partition("://")[2].partition("/")[2]
        if path.startswith(self._modules) and path.count("/") == self._modules.count("/"):
            return self._routes[self._modules + "{name}"]
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

    async def metrics(self, request: WebRequest, query: str) -> Answer:
        """Return the exporter's own metrics."""
        self.telemetry.scraping += 1
        try:
            answer = await self._exposition(request)
        except Exception:
            self.telemetry.scraped(500)
            raise
        finally:
            self.telemetry.scraping -= 1
        self.telemetry.scraped(200)
        return answer

    async def _exposition(self, request: WebRequest) -> Answer:
        """Return this process's metrics, with those of all other workers added.

        They are encoded in a thread: those of 2,000 modules take 0.3 s. One request at a time, so that the event loop
        waits for at most one other thread, and there are few copies of the counters.
        """
        format = negotiate(request.headers.get("Accept", ""))

        def encode(families: Iterable[Family], of_workers: Sequence[bytes]) -> Answer:
            body = encode_families(snapshots.merged(of_workers) if of_workers else families, format)
            return exposition(request, body, format.content_type)

        async with self._encoding:
            of_workers = await self._workers.snapshots()
            families = () if of_workers else self.telemetry.families()
            return await asyncio.get_running_loop().run_in_executor(self._thread, encode, families, of_workers)

    @property
    def operations(self) -> dict[str, Operation]:
        """What each path does, by path below the prefix."""
        return {route.path: route.operation for route in self._routes.values()}

    async def openapi(self, request: WebRequest, query: str) -> Answer:
        """Return the OpenAPI document, or a readable list of paths for a browser."""
        operations = self.operations
        if wants_html(request):
            return await self._renderer.page(request, "openapi.html", {"operations": list(operations.items())})
        return json_text(json.dumps(openapi.document(operations, self._place.prefix)))

    async def reload(self, request: WebRequest, query: str) -> Answer:
        """Reload the configuration."""
        try:
            await self._workers.reload(self.reloads.reload)
        except (*REFUSALS, ReloadRefused) as refused:
            log.error("The configuration was not reloaded", extra={"fields": {"err": refused}})
            raise Refused(500, f"The configuration was not reloaded: {refused}") from refused
        return plain("")
