"""HTTP/3 as a client: exchange one request and response over a QUIC connection (RFC 9114)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from aioquic.buffer import encode_uint_var
from aioquic.quic.events import QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from probe_exporter.network.quic import ClosedByApplication, QuicClient
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.turns import Turn
from probe_exporter.protocols.http import field_section
from probe_exporter.protocols.http.exchange import Unprocessed
from probe_exporter.protocols.http.http3 import (
    MAX_FIELD_SECTION_SIZE,
    MAX_HEAD_BYTES,
    Code,
    Frame,
    Http3ResponseReader,
    ServerStreams,
    StreamType,
    describe,
    frame,
)
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.response import Response
from probe_exporter.tls.handshake import Handshake

UPLOAD_CHUNK_BYTES = 64 * 1024
"""Bytes of an uploaded file in one frame."""

MAX_UPLOAD_AHEAD_BYTES = 256 * 1024
"""Bytes of an uploaded file that are queued for sending."""

MAX_PORTION_BYTES = 2048
"""Bytes of a stream that are taken between two turns: about 2 ms of work for the smallest frames. An event can have
megabytes, which arrived ahead of a gap."""


class Http3Exchange:
    """An exchange over HTTP/3 on its own QUIC connection."""

    def __init__(self, client: QuicClient, request: Request, upload: BinaryIO | None) -> None:
        """
        Args:
            upload: the file that ``request.body_file`` names, positioned at its beginning.
        """
        self._client = client
        self._request = request
        self._reader = Http3ResponseReader(request.method)
        self.response: Response = self._reader
        self.processing_seconds = 0.0
        self.first_byte_at = 0.0
        self._server = ServerStreams()
        self._stream = client.open_stream()
        self._upload = upload if request.body_file else None
        self._uploaded = 0
        self._events: deque[QuicEvent] = deque()  # not taken yet
        self._taken = 0  # bytes of the first of them
        self._turn = Turn()

    @property
    def handshake(self) -> Handshake | None:
        return self._client.handshake

    async def head(self) -> Response:
        sent = time.perf_counter()
        self._send_request()
        try:
            while not self._reader.head_complete:
                await self._advance()
        finally:
            if self.first_byte_at:
                self.processing_seconds = max(self.first_byte_at - sent, 1e-9)
        return self._reader

    def arrived(self) -> bytes | None:
        return self._reader.take_whole_body()

    async def body(self) -> bytes:
        while True:
            piece = self._reader.take_body()
            if piece or self._reader.complete:
                return piece
            await self._advance()

    def close(self) -> None:
        self._client.close(Code.NO_ERROR)

    def _send_request(self) -> None:
        client, request = self._client, self._request
        settings = encode_uint_var(MAX_FIELD_SECTION_SIZE) + encode_uint_var(MAX_HEAD_BYTES)
        control = client.open_stream(unidirectional=True)
        client.send(control, encode_uint_var(StreamType.CONTROL) + frame(Frame.SETTINGS, settings))
        fields = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in request.fields()]
        body = frame(Frame.DATA, request.body) if request.body else b""
        client.send(self._stream, frame(Frame.HEADERS, field_section.encode(fields)) + body, end=self._upload is None)

    async def _advance(self) -> None:
        """Take what has arrived, for the time of a turn; if there is nothing, wait for events of the connection."""
        if not self._events:
            self._continue_upload()
            try:
                self._events.extend(await self._client.turn())
            except ProbeFailed as failed:
                self._reader.fail(self._ended(failed))
            self._turn = Turn()
        while self._events and not self._turn.is_over:
            self._take(self._events[0])
        await self._turn.give()

    def _take(self, event: QuicEvent) -> None:
        """Take the first event, or a portion of its data."""
        if isinstance(event, StreamDataReceived):
            self._take_data(event)
            return
        self._events.popleft()
        if isinstance(event, StreamReset):
            if event.stream_id == self._stream:
                self._reader.fail(self._reset(event.error_code))
            else:
                self._listen(self._server.end, event.stream_id)
        elif isinstance(event, StopSendingReceived) and event.stream_id == self._stream:
            self._upload = None

    def _take_data(self, event: StreamDataReceived) -> None:
        data = event.data[self._taken : self._taken + MAX_PORTION_BYTES]
        self._taken += len(data)
        is_last = self._taken == len(event.data)
        if is_last:
            self._events.popleft()
            self._taken = 0
        end = event.end_stream and is_last
        if event.stream_id == self._stream:
            if data:
                self.first_byte_at = self.first_byte_at or self._client.arrived_at
            self._reader.feed(data, end=end)
        elif event.stream_id % 4 == 3:
            self._listen(self._server.feed, event.stream_id, data, end=end)

    def _listen(self, take: Callable[..., None], *said: object, **how: object) -> None:
        """Read another stream of the server; an error there ends the response too."""
        try:
            take(*said, **how)
        except ProbeFailed as failed:
            self._reader.fail(failed)

    def _reset(self, code: int) -> ProbeFailed:
        what = f"the server reset the stream ({describe(code)})"
        if self._reader.head_complete:
            return ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"{what} within the body")
        if code == Code.REQUEST_REJECTED:
            return Unprocessed(Reason.CONNECT_RESET, what)
        return ProbeFailed(Reason.CONNECT_RESET, what)

    def _ended(self, failed: ProbeFailed) -> ProbeFailed:
        """Return the failure that the end of the connection is."""
        reason, message = failed.reason, failed.message
        if isinstance(failed, ClosedByApplication):
            message = f"the server closed the connection ({describe(failed.code)}) {failed.phrase}".strip()
            reason = Reason.CONNECT_CLOSED if failed.code == Code.NO_ERROR else Reason.CONNECT_RESET
        if self._server.going_away:
            message += ", after GOAWAY"
        if self._reader.head_complete:
            return ProbeFailed(Reason.HTTP_BODY_TRUNCATED, f"{message}, within the body")
        return ProbeFailed(reason, message)

    def _continue_upload(self) -> None:
        """Queue more of the file when enough of it has been sent."""
        while self._upload is not None and self._uploaded - self._client.sent < MAX_UPLOAD_AHEAD_BYTES:
            data = self._upload.read(UPLOAD_CHUNK_BYTES)
            self._uploaded += len(data)
            self._client.send(self._stream, frame(Frame.DATA, data) if data else b"", end=not data)
            if not data:
                self._upload = None
