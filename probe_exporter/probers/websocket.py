"""The websocket prober: upgrade a connection to WebSocket, and exchange the messages of `query_response`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Iterator
from functools import cache, cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from probe_exporter.cache import remembered
from probe_exporter.network import opening
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.dialogue.messages import Messages, MessageSettings
from probe_exporter.protocols.dialogue.steps import walk
from probe_exporter.protocols.http import tunnel
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.proxy import Proxy
from probe_exporter.protocols.http.request import authorization, check_references, own_headers, read_file
from probe_exporter.protocols.http.response import Headers
from probe_exporter.protocols.http.settings import HttpClientSettings, HttpHeader
from probe_exporter.protocols.http.upgrade import (
    BELONGS_TO_HANDSHAKE,
    SWITCHING_PROTOCOLS,
    UpgradeRequest,
    after_plain_upgrade,
    check_upgrade,
    make_key,
    upgrade_request,
)
from probe_exporter.protocols.http.url import URL, parse
from probe_exporter.settings.fields import Shorthand, Text
from probe_exporter.tls import loading, metrics
from probe_exporter.tls.settings import CertificateSettings, TLSSettings

if TYPE_CHECKING:
    from probe_exporter.protocols.http.websocket import Conversation
    from probe_exporter.tls.context import ClientContext

# --- settings ----------------------------------------------------------------------------------------------


def _one_value(written: Any) -> Any:
    return {"values": [written]} if isinstance(written, str) else written


Header = Annotated[
    HttpHeader, Shorthand("string"), BeforeValidator(_one_value, json_schema_input_type=Text | HttpHeader)
]
"""Values of a header, or a plain string for one value, as in the original's sample file."""


class WebsocketSettings(CertificateSettings, MessageSettings, SourceSettings):
    """The ``websocket`` block of a module.

    Args:
        http_config: settings of the HTTP request that opens the WebSocket.
        headers: headers of that request.
    """

    http_config: HttpClientSettings | None = None
    headers: dict[Text, Header] = Field(default_factory=dict)

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        for name in self.headers:
            if name.lower() in BELONGS_TO_HANDSHAKE:
                yield "headers", f"{name} belongs to the handshake: every probe of this module will fail"
        if self.http_config is not None and self.http_config.oauth2 is not None:
            yield "http_config", "`oauth2` has no effect on a websocket"

    @cached_property
    def client(self) -> HttpClientSettings:
        """Settings of the upgrade request. An ``authorization`` without credentials sends nothing here."""
        config = self.http_config or HttpClientSettings()
        given = config.authorization
        if given is None or given.credentials or given.credentials_file or given.credentials_ref:
            return config
        return config.model_copy(update={"authorization": None})

    @cached_property
    def adds_headers(self) -> bool:
        """Whether the settings have headers or credentials for the upgrade request."""
        return bool(self.headers) or self.client.adds_headers

    @cached_property
    def has_tls_config(self) -> bool:
        """Whether ``tls_config`` has settings, whose files are then read even without TLS."""
        return self.client.tls_config != TLSSettings()


# --- metrics -----------------------------------------------------------------------------------------------

STATUS_CODE = Metric("probe_websocket_status_code", "Status code of the response to the upgrade; 0 without a response.")
UPGRADED = Metric("probe_websocket_connection_upgraded", "Whether the connection was upgraded to WebSocket.")
FAILED_BY_REGEXP = Metric(
    "probe_websocket_failed_due_to_regex", "Whether a step of `query_response` failed, for any reason."
)
DURATION = Metric(
    "probe_websocket_duration_seconds",
    "Duration of each phase in seconds: `processing` is TLS and the upgrade, `transfer` the steps of `query_response`.",
    ("phase",),
    series=4,
)

_NOT_UPGRADED = {STATUS_CODE: 0, UPGRADED: 0, FAILED_BY_REGEXP: 0}
_CONNECT, _PROCESSING, _TRANSFER = ((DURATION, (phase,)) for phase in ("connect", "processing", "transfer"))

# --- the probe ---------------------------------------------------------------------------------------------

_URL = re.compile(r"(http|ws)s?://", re.IGNORECASE)


async def probe_websocket(probe: Probe, settings: WebsocketSettings) -> None:
    """Upgrades a connection to WebSocket, and exchanges the messages of ``query_response``."""
    url = _parse(probe.target)
    probe.samples.plain.update(_NOT_UPGRADED)
    running = _WebsocketProbe(probe, settings, url)
    try:
        await running.check_settings()
        address = await running.resolve()
        await running.open(address)
        if settings.query_response:
            await running.run_dialogue()
    finally:
        running.close()


@remembered()
def _parse(target: str) -> URL:
    """Return the target as an http or https URL, for the upgrade request."""
    if not _URL.match(target):
        raise ProbeFailed(Reason.TARGET_INVALID, f"the target {target!r} is not a ws:// or wss:// URL")
    try:
        return parse("http" + target[2:] if _is_websocket(target) else target)
    except ValueError as error:
        raise ProbeFailed(Reason.TARGET_INVALID, str(error)) from None


def _is_websocket(target: str) -> bool:
    return target[:2].lower() == "ws"


@cache
def _conversation() -> type[Conversation]:
    """Import the class once: to find an imported module again takes one percent of a probe."""
    from probe_exporter.protocols.http.websocket import Conversation  # noqa: PLC0415  # few exporters need it

    return Conversation


class _WebsocketProbe:
    """One probe, from its target to the last step; each phase is timed."""

    def __init__(self, probe: Probe, settings: WebsocketSettings, url: URL) -> None:
        self._probe = probe
        self._settings = settings
        self._client = settings.client
        self._url = url
        self._context: ClientContext | None = None
        self._connection: Connection | None = None
        self._conversation = _conversation()()
        self._upgraded = False

    async def check_settings(self) -> None:
        """Raise `ProbeFailed` for unusable settings before any lookup."""
        check_references(self._client)
        if self._url.secure or self._settings.has_tls_config:
            self._context = await loading.client_context(self._client.tls_config)

    def resolve(self) -> Awaitable[str]:
        """Look up the address."""
        return choose_address(self._probe, self._url.host, self._settings, DURATION)

    async def open(self, address: str) -> None:
        """Connect and upgrade."""
        started = time.perf_counter()
        connecting = 0.0
        try:
            key = make_key()
            request = self._request(key)
            self._connection = connection = await self._dial(address)
            connecting = connection.connect_seconds
            self._probe.samples.series[_CONNECT] = whole_nanoseconds(connecting)
            await self._upgrade(connection, request, key)
        finally:
            self._probe.samples.series[_PROCESSING] = whole_nanoseconds(time.perf_counter() - started - connecting)

    def _request(self, key: str) -> UpgradeRequest:
        """Return the request for the upgrade.

        Raises:
            ProbeFailed: the target or the headers are invalid.
        """
        if not _is_websocket(self._probe.target):
            raise ProbeFailed(Reason.TARGET_INVALID, "the target is an http URL: use ws:// or wss://")
        if self._url.user is not None:
            raise ProbeFailed(Reason.TARGET_INVALID, "a WebSocket URL can't have user and password: use http_config")
        if not self._settings.adds_headers:
            return upgrade_request(self._url, key, [], "")
        given = [*own_headers(self._client), *self._own_headers()]
        return upgrade_request(self._url, key, given, authorization(self._client))

    def _own_headers(self) -> Headers:
        """Return the headers of ``headers``. An unreadable file is skipped, as in the original."""
        headers = []
        for name, header in self._settings.headers.items():
            values = [*header.values, *(secret.reveal() for secret in header.secrets)]
            for path in header.files:
                try:
                    values.append(read_file(path, f"headers.{name}.files"))
                except ProbeFailed as failed:
                    self._probe.log("Skipping a file of a header", level=logging.WARNING, err=failed.message)
            headers += [(name, value.strip(" \t")) for value in values]
        return headers

    def _dial(self, address: str) -> Awaitable[Connection]:
        """Open a TCP connection to the target, through a proxy if the settings have one for it."""
        proxy = self._client.proxies.choose(self._url, [address])
        if proxy is not None:
            return self._dial_through(proxy, address)
        return opening.dial(self._probe, [address], self._url.port, source=self._settings.source_ip_address)

    async def _dial_through(self, proxy: Proxy, address: str) -> Connection:
        url, probe = self._url, self._probe
        own = await tunnel.own_tls(proxy, self._client.tls_config)
        there = await tunnel.addresses(probe, proxy)
        return await tunnel.dial(probe, proxy, there, own, tunnel.destination(proxy, url, [address]), None)

    async def _upgrade(self, connection: Connection, request: UpgradeRequest, key: str) -> None:
        probe, config = self._probe, self._client.tls_config
        if self._url.secure:
            assert self._context is not None
            await connection.start_tls(probe, Secure(self._context, config.server_name or self._url.host))
            assert connection.handshake is not None
            metrics.report_handshake(probe, connection.handshake)
        probe.log("Requesting the upgrade", url=probe.target, host=request.host)
        with probe.phase("processing"):
            connection.send(request.head)
            first = await connection.read()
            rest = after_plain_upgrade(first, key)
            if rest is None:
                rest = await self._judge_response(connection, first, key)
            else:
                self._report_status(SWITCHING_PROTOCOLS)
        probe.samples.plain[UPGRADED] = 1
        self._upgraded = True
        connection.restart(rest)

    async def _judge_response(self, connection: Connection, first: bytes, key: str) -> bytes:
        """Read the response, and return what comes after its head if it upgrades.

        Args:
            first: the bytes that have been read of it.
        """
        response = Http1ResponseReader("GET")
        response.feed(first)
        while not response.head_complete:
            response.feed(await connection.read())
        self._report_status(response.status)
        check_upgrade(response, key)
        return response.take_body()

    def _report_status(self, status: int) -> None:
        self._probe.samples.plain[STATUS_CODE] = status
        self._probe.log("Received the response to the upgrade", status_code=status)

    async def run_dialogue(self) -> None:
        """Perform the steps; the label of their duration is the original's, `transfer`."""
        assert self._connection is not None
        peer = Messages(self._probe, _Channel(self._connection, self._conversation))
        probe, started = self._probe, time.perf_counter()
        probe.samples.plain[FAILED_BY_REGEXP] = 1
        try:
            with probe.phase("dialogue"):
                await walk(probe, self._settings.query_response, peer)
            probe.samples.plain[FAILED_BY_REGEXP] = 0
        finally:
            probe.samples.series[_TRANSFER] = whole_nanoseconds(time.perf_counter() - started)

    def close(self) -> None:
        """Send a close frame if the connection is a WebSocket, and close it without waiting for the server's."""
        if self._connection is None:
            return
        if self._upgraded:
            self._conversation.close()
        self._connection.close(self._conversation.outgoing())


class _Channel:
    """Messages over a WebSocket and its connection."""

    def __init__(self, connection: Connection, conversation: Conversation) -> None:
        self._connection = connection
        self._conversation = conversation

    async def receive(self) -> bytes:
        conversation = self._conversation
        while True:
            if conversation.only_waits:
                conversation.feed(await self._connection.read())
            if (message := conversation.next()) is not None:
                return message if isinstance(message, bytes) else await message.joined()
            if (failure := conversation.failure) is not None:
                raise failure
            if answers := conversation.outgoing():  # to pings; a server that does not read them has to wait
                await self._connection.write(answers)
            if conversation.needs_data:
                conversation.feed(await self._connection.read())
            else:
                await pause()  # between the pieces of a flood

    def send_text(self, text: bytes) -> Awaitable[None]:
        self._conversation.say(text)
        return self._connection.write(self._conversation.outgoing())

    def send(self, data: bytes) -> Awaitable[None]:
        self._conversation.send(data)
        return self._connection.write(self._conversation.outgoing())


prober = Prober("websocket", WebsocketSettings, probe_websocket)
