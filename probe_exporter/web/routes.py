"""The routes: which path is answered by what. aiohttp's low-level server without its router: the paths are a table."""

from __future__ import annotations

import logging
import posixpath
from urllib.parse import quote, unquote

from aiohttp.web import BaseRequest

from probe_exporter.configuration import REFUSALS, Configuration
from probe_exporter.exposition import encode_families, negotiate
from probe_exporter.history import History
from probe_exporter.logs import ProbeLog
from probe_exporter.shown import to_yaml
from probe_exporter.telemetry import Telemetry
from probe_exporter.web import pages
from probe_exporter.web.answer import Answer
from probe_exporter.web.answers import Handler, Refused, exposition, page, plain, refusal
from probe_exporter.web.listening import Place
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.probing import Probing

log = logging.getLogger(__name__)


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
        most_probes: int,
        place: Place,
    ) -> None:
        self.probing = Probing(configuration, telemetry, history, probe_log, timeout_offset, most_probes)
        self._configuration = configuration
        self._telemetry = telemetry
        self._history = history
        self._probe_log = probe_log
        self._place = place
        prefix = place.prefix
        self._routes: dict[str, Handler] = {
            f"{prefix}probe": self.probing.probe,
            f"{prefix}metrics": self.metrics,
            f"{prefix}config": self.config,
            f"{prefix}logs": self.logs,
            f"{prefix}-/reload": self.reload,
            f"{prefix}-/healthy": self.healthy,
            prefix: self.landing,
        }

    async def __call__(self, request: BaseRequest) -> Answer:
        """Answer one request."""
        path, _, query = request.raw_path.partition("?")
        handler = self._routes.get(path)
        try:
            if handler is None:
                handler = self._find(path, query)
            return await handler(request, query)
        except Refused as refused:
            return refusal(refused)
        except Exception as error:
            log.error("A request met a bug: please report this", exc_info=error, extra={"fields": {"path": path}})
            self._telemetry.internal_errors += 1
            return refusal(Refused(500, "Internal error; the exporter's log has more"))

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

    async def metrics(self, request: BaseRequest, query: str) -> Answer:
        """The exporter's own metrics."""
        format = negotiate(request.headers.get("Accept", ""))
        body = encode_families(self._telemetry.registry.collect(), format)
        self._telemetry.scraped(200)
        return exposition(request, body, format.content_type)

    async def config(self, request: BaseRequest, query: str) -> Answer:
        """The config in use, defaults filled in and secrets masked."""
        return plain(to_yaml(self._configuration.current))

    async def logs(self, request: BaseRequest, query: str) -> Answer:
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
        return plain(pages.debug_document(result, self._probe_log))

    async def landing(self, request: BaseRequest, query: str) -> Answer:
        """The page for people."""
        return page(pages.landing(self._configuration.current, self._history.recent()))

    async def healthy(self, request: BaseRequest, query: str) -> Answer:
        """For liveness checks."""
        return plain("Healthy")

    async def reload(self, request: BaseRequest, query: str) -> Answer:
        """Read the config again."""
        if request.method != "POST":
            raise Refused(405, "Reloading takes a POST request", Allow="POST")
        try:
            await self._configuration.reload()
        except REFUSALS as refused:
            log.error("The configuration was not reloaded", extra={"fields": {"err": refused}})
            raise Refused(500, f"The configuration was not reloaded: {refused}") from refused
        return plain("")


def _number(text: str) -> int | None:
    """The id that a request names; -1 has always meant none."""
    try:
        number = int(text) if text.isascii() and "_" not in text and text.strip() == text else -1
    except ValueError:
        return None
    return None if number == -1 else number
