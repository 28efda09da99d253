"""Serve ``/logs`` and ``/history``: finished probes, as text for people and as JSON for programs."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from probe_exporter.config.reloading import Configuration
from probe_exporter.history.details import to_json
from probe_exporter.history.memory import History, HistoryError, Query
from probe_exporter.history.record import HistoryDocument, HistoryEntry
from probe_exporter.prober.failure import Reason
from probe_exporter.settings.quantities import parse_duration
from probe_exporter.web.answers import Answer, Refused, json_text, plain
from probe_exporter.web.html.negotiation import wants_html
from probe_exporter.web.html.rendering import MAX_LISTED_MODULES, Renderer
from probe_exporter.web.parameters import decode_query
from probe_exporter.web.request import WebRequest

DEFAULT_LISTED = 100
MAX_LISTED = 1000
"""Entries in one answer: the default of the parameter ``limit``, and its maximum."""

MAX_LISTED_BYTES = 8 << 20
"""Bytes of the targets and messages in one answer: a target may have 64 KiB."""

MAX_TIME_CHARACTERS = 64
"""Length of the parameter ``since``; a time in RFC 3339 with nanoseconds takes 35 characters."""

FILTERS = ("module", "target", "result", "reason", "since", "limit")

_SUCCESS = {"": None, "success": True, "failure": False}
_UNIX = re.compile(r"[0-9]+(\.[0-9]*)?", re.ASCII)
_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)",
    re.ASCII,
)


def _object(**properties: Mapping[str, object]) -> dict[str, object]:
    """Return the schema of an object that has these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_NUMBER = {"type": "number"}
_ANY = {"type": "object"}
_ENTRY: dict[str, Mapping[str, object]] = {
    "id": {"type": "integer"},
    "module": _TEXT,
    "target": _TEXT,
    "result": {"enum": ["success", "failure"]},
    "reason": _TEXT_OR_NULL,
    "phase": _TEXT_OR_NULL,
    "message": _TEXT_OR_NULL,
    "started": _NUMBER,
    "duration_seconds": _NUMBER,
    "timeout_seconds": _NUMBER,
}
_PHASE = _object(name=_TEXT, start=_NUMBER, seconds=_NUMBER, about=_TEXT, failed={"type": "boolean"})
_RUN = _object(
    address=_TEXT,
    attempt={"type": "integer"},
    start=_NUMBER,
    seconds=_NUMBER,
    reason=_TEXT,
    phase=_TEXT,
    message=_TEXT,
    decides={"type": "boolean"},
    phases=_ANY,
    spans={"type": "array", "items": _PHASE},
    fingerprint_sha256=_TEXT,
    not_after={"type": ["number", "null"]},
    revoked={"type": "boolean"},
)
_EVENT = _object(time=_NUMBER, level=_TEXT, source=_TEXT, message=_TEXT, fields=_ANY)
_SAMPLE = _object(name=_TEXT, labels=_ANY, value={"type": ["number", "string"]})
_FAMILY = _object(name=_TEXT, type=_TEXT, help=_TEXT, samples={"type": "array", "items": _SAMPLE})

HELD = {
    "application/json": {
        "oneOf": [
            _object(probes={"type": "array", "items": _object(**_ENTRY)}),
            _object(
                **_ENTRY,
                prober=_TEXT,
                parameters=_ANY,
                events={"type": "array", "items": _EVENT},
                phases={"type": "array", "items": _PHASE},
                runs={"type": "array", "items": _RUN},
                tls={"type": "array", "items": _ANY},
                families={"type": "array", "items": _FAMILY},
                settings=_ANY,
            ),
        ]
    }
}
"""The JSON Schema of the answers of ``/history``: a list of entries, or one entry in full."""


class HistoryPages:
    """The handlers of ``/logs`` and ``/history``."""

    def __init__(self, history: History, configuration: Configuration, renderer: Renderer) -> None:
        self._history = history
        self._configuration = configuration
        self._renderer = renderer

    async def logs(self, request: WebRequest, query: str) -> Answer:
        """Return the debug document of the probe with a number, or of the newest probe of a target."""
        parameters = decode_query(query)
        target, module = parameters.get("target", ""), parameters.get("module", "")
        number = _number(parameters.get("id", ""))
        if number is not None and target:
            raise Refused(400, "Give either the id or the target of a probe, not both")
        if not target:
            if number is None:
                raise Refused(400, "Give the id or the target of a probe")
            if module:
                raise Refused(400, "The module parameter goes with target only")
        else:
            newest = await self.select(Query(module, target, limit=1))
            number = newest[0].id if newest else None
        entry, document = await self._get(number)
        if wants_html(request):
            return await self._renderer.page(request, "logs.html", {"entry": entry, "debug": document.debug})
        return plain(document.debug)

    async def history(self, request: WebRequest, query: str) -> Answer:
        """Return the entries that match the filters, newest first; with ``id``, that entry in full."""
        parameters = decode_query(query)
        if "id" not in parameters:
            query_of_all = self._query(parameters)
            found = await self.select(query_of_all)
            if wants_html(request):
                return await self._renderer.page(request, "history.html", self._values(parameters, query_of_all, found))
            return await _json({"probes": [entry.data() for entry in found]})
        if len(parameters) > 1:
            raise Refused(400, "The id parameter goes with no other: it names one probe")
        entry, document = await self.entry(parameters["id"])
        return await _json(entry.data() | document.details)

    async def entry(self, id: str) -> tuple[HistoryEntry, HistoryDocument]:
        """Return the entry that the parameter ``id`` names, and its document.

        Raises:
            Refused: the parameter is no number, no such probe is held, or the history can't be read now.
        """
        number = _number(id)
        if number is None:
            raise Refused(400, "The id parameter is the number of a probe, such as 42")
        return await self._get(number)

    def _values(
        self, parameters: Mapping[str, str], query: Query, found: Sequence[HistoryEntry]
    ) -> Mapping[str, object]:
        """Return what the page of the list shows."""
        return {
            "given": parameters,
            "recent": found,
            "limit": query.limit,
            "most": MAX_LISTED,
            "modules": sorted(self._configuration.current.modules)[:MAX_LISTED_MODULES],
            "reasons": [reason.value for reason in Reason],
        }

    async def select(self, query: Query) -> list[HistoryEntry]:
        """Return the entries that match a query.

        Raises:
            Refused: the history can't be read now.
        """
        try:
            return await self._history.select(query)
        except HistoryError as error:
            raise Refused(503, f"The history can't be read: {error}") from error

    async def _get(self, number: int | None) -> tuple[HistoryEntry, HistoryDocument]:
        try:
            found = None if number is None else await self._history.get(number)
        except HistoryError as error:
            raise Refused(503, f"The history can't be read: {error}") from error
        if found is None:
            raise Refused(404, "No such probe is held")
        return found

    def _query(self, parameters: Mapping[str, str]) -> Query:
        """Return the filters of a request; an empty parameter filters nothing.

        Raises:
            Refused: a parameter is invalid; the message names it.
        """
        for name in parameters:
            if name not in FILTERS:
                raise Refused(400, f'There is no parameter "{name}": there are id, {", ".join(FILTERS)}')
        result, reason = parameters.get("result", ""), parameters.get("reason", "")
        if result not in _SUCCESS:
            raise Refused(400, f'The result parameter is success or failure, not "{result}"')
        if reason and reason not in self._reasons():
            raise Refused(400, f'The reason parameter: there is no reason "{reason}"')
        return Query(
            module=parameters.get("module", ""),
            target=parameters.get("target", ""),
            success=_SUCCESS[result],
            reason=reason,
            since=_since(parameters.get("since", "")),
            limit=_limit(parameters.get("limit", "")),
            max_bytes=MAX_LISTED_BYTES,
        )

    def _reasons(self) -> set[str]:
        """Return all known reasons: the common ones, and those of the configured probers."""
        probers = self._configuration.current.probers.values()
        return {reason.value for reason in Reason} | {own.value for prober in probers for own in prober.reasons}


async def _json(value: object) -> Answer:
    """Return a value as JSON. It is encoded in a thread: a large probe takes longer than one turn may take."""
    return json_text(await asyncio.to_thread(lambda: to_json(value, indent=2).encode()))


def _number(text: str) -> int | None:
    """Parse an id; None for -1, which stands for no id, and for text that is not a number."""
    try:
        number = int(text) if text.isascii() and "_" not in text and text.strip() == text else -1
    except ValueError:
        return None
    return None if number == -1 else number


def _since(text: str) -> float:
    """Parse a time into Unix seconds: Unix seconds, RFC 3339, or a duration before now; long ago if empty."""
    if not text:
        return -math.inf
    if len(text) > MAX_TIME_CHARACTERS:
        raise Refused(400, f"The since parameter has more than {MAX_TIME_CHARACTERS} characters")
    if _UNIX.fullmatch(text):
        return float(text)
    stamp = re.sub(r" (?=\d\d:\d\d$)", "+", text)  # a query decodes + as a space
    try:
        if _RFC_3339.fullmatch(stamp):
            return datetime.fromisoformat(stamp.upper()).timestamp()
        ago = parse_duration(text)
        if ago >= 0:
            return time.time() - ago
    except (ValueError, OverflowError):
        pass
    raise Refused(
        400, f'The since parameter is a time (1767225600 or 2026-01-01T00:00:00Z) or an age such as 15m, not "{text}"'
    )


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_LISTED
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII) or not 1 <= int(text) <= MAX_LISTED:
        raise Refused(400, f'The limit parameter is a whole number from 1 to {MAX_LISTED}, not "{text}"')
    return int(text)
