"""Serve ``/sd``: the targets of a source, for Prometheus' HTTP service discovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe_exporter.config.reloading import Configuration
from probe_exporter.settings.fields import nearest, shorten
from probe_exporter.web.answers import Answer, Refused, json_text
from probe_exporter.web.module_selection import MAX_COMPARED_MODULES, MAX_SHOWN_CHARACTERS
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.request import WebRequest

if TYPE_CHECKING:
    from probe_exporter.discovery.sources import Sources


class DiscoveryPage:
    """The handler of ``/sd``."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._sources: Sources | None = None

    async def targets(self, request: WebRequest, query: str) -> Answer:
        """Return the targets of a source as JSON."""
        from probe_exporter.discovery.groups import DiscoveryError  # noqa: PLC0415  # loaded by the first request
        from probe_exporter.discovery.sources import Sources, UnknownSource  # noqa: PLC0415  # the same

        name = decode_query(query).get("source")
        if not name:
            raise Refused(400, f"The parameter source is missing: it names a source of targets.{self._known()}")
        if self._sources is None:
            self._sources = Sources(self._configuration)
        try:
            return json_text(await self._sources.targets(name))
        except UnknownSource:
            raise Refused(404, self._unknown(name)) from None
        except DiscoveryError as error:
            raise Refused(error.status, f'The targets of source "{name}" can\'t be told: {error}') from None

    def _unknown(self, name: str) -> str:
        shown = shorten(name, MAX_SHOWN_CHARACTERS)
        names = list(self._configuration.current.discovery)[:MAX_COMPARED_MODULES]
        return f'Unknown source "{shown}"{nearest(shown, names) or f".{self._known()}"}'

    def _known(self) -> str:
        """Return a sentence about the sources that there are."""
        names = ", ".join(sorted(self._configuration.current.discovery)[:10])
        return f" The configuration has: {names}" if names else " The configuration has no `discovery`"
