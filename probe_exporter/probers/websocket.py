"""The websocket prober: its settings. This version checks ``websocket`` modules and does not probe them yet."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from probe_exporter.addressing import AddressSettings
from probe_exporter.dialogue import DialogueSettings
from probe_exporter.fields import Shorthand, Text
from probe_exporter.http.settings import HttpClientSettings, HttpHeader
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason


def _one_value(written: Any) -> Any:
    return {"values": [written]} if isinstance(written, str) else written


Header = Annotated[
    HttpHeader, Shorthand("string"), BeforeValidator(_one_value, json_schema_input_type=Text | HttpHeader)
]
"""Values of a header, or a plain string for a single one, as in the original's own sample file."""


class WebsocketSettings(DialogueSettings, AddressSettings):
    """The ``websocket`` block of a module."""

    http_config: HttpClientSettings | None = None
    headers: dict[Text, Header] = Field(default_factory=dict)


async def probe_websocket(probe: Probe, settings: WebsocketSettings) -> None:
    """Upgrade an HTTP connection to WebSocket, and exchange the messages of ``query_response``."""
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks websocket modules but does not probe them yet")


prober = Prober("websocket", WebsocketSettings, probe_websocket)
