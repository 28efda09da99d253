"""HTTP/2 as a client: exchange one request and response over a connection (RFC 9113)."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO

from probe_exporter.network.connection import Connection
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.http import frames
from probe_exporter.protocols.http.frames import frame
from probe_exporter.protocols.http.header_block import Field
from probe_exporter.protocols.http.http2 import OPENING, STREAM, Http2ResponseReader, request_head
from probe_exporter.protocols.http.response import Response
from probe_exporter.tls.handshake import Handshake


class Http2Exchange:
    """An exchange over HTTP/2 on its own connection.

    Attributes:
        reader: the same object as `response`, with the attributes of HTTP/2.
    """

    def __init__(
        self,
        connection: Connection,
        method: str,
        fields: Iterable[Field],
        body: bytes = b"",
        upload: BinaryIO | None = None,
    ) -> None:
        """
        Args:
            fields: of the request, pseudo-headers first, including the method.
            body: of the request, if it does not come from a file.
            upload: the file that has the body, positioned at its beginning.
        """
        self._connection = connection
        self._fields = fields
        self._body = body
        self.reader = Http2ResponseReader(method)
        self.response: Response = self.reader
        self.processing_seconds = 0.0
        self.first_byte_at = 0.0
        self._upload = upload
        self._unsent = b""
        self._asked_at = 0.0
        self._uploading: asyncio.Task[None] | None = None
        self._may_send = asyncio.Event()
        self._closed = False

    @property
    def handshake(self) -> Handshake | None:
        return self._connection.handshake

    async def head(self) -> Response:
        reader = self.reader
        self._unsent = self._opening()
        self._asked_at = time.perf_counter()
        try:
            while not reader.head_complete:
                await self._read()
            self._send_pending()  # the server may have answered before the request was sent
        finally:
            if self.first_byte_at:
                self.processing_seconds = max(self.first_byte_at - self._asked_at, 1e-9)
        return reader

    def arrived(self) -> bytes | None:
        return self.reader.take_whole_body()

    async def body(self) -> bytes:
        while True:
            piece = self.reader.take_body()
            if piece or self.reader.complete:
                return piece
            await self._read()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._uploading is not None:
            self._uploading.cancel()
        reader = self.reader
        last = self._unsent + reader.take_outgoing()
        if reader.error_code or not reader.complete:  # a complete response needs no GOAWAY
            last += frame(frames.GOAWAY, 0, 0, bytes(4) + frames.number(reader.error_code))
        self._connection.close(last)

    def _opening(self) -> bytes:
        """Return the first frames of the client, with a body that fits into one frame."""
        body = self._body
        opening = OPENING + request_head(self._fields, ends=not body and self._upload is None)
        if body and len(body) <= frames.MAX_PAYLOAD_BYTES:
            self.reader.spend(len(body))
            opening += frame(frames.DATA, frames.END_STREAM, STREAM, body)
        return opening

    async def _read(self) -> None:
        connection, reader = self._connection, self.reader
        data: bytes | None = None
        if reader.pending:
            await pause()
        else:
            if not connection.waiting:  # otherwise it goes out together with the answer to what is waiting
                self._send_pending()
            data = await connection.read()
        try:
            if data is None:
                reader.proceed()
            else:
                reader.feed(data)
        finally:
            if reader.answered and not self.first_byte_at:
                self.first_byte_at = connection.last_byte_at
        if reader.room > 0:
            self._may_send.set()

    def _send_pending(self) -> None:
        """Send the request, and answers to the server's frames; `MAX_IDLE_FRAMES` limits their number."""
        data = self._unsent + self.reader.take_outgoing()
        if data:
            self._connection.send(data)
        if self._unsent:
            self._unsent = b""
            self._asked_at = time.perf_counter()
            self._begin_upload()

    def _begin_upload(self) -> None:
        if self._upload is not None:
            self._uploading = asyncio.create_task(self._send_body(self._upload))
        elif len(self._body) > frames.MAX_PAYLOAD_BYTES:
            self._uploading = asyncio.create_task(self._send_body(io.BytesIO(self._body)))

    async def _send_body(self, body: BinaryIO) -> None:
        """Send the body as fast as the peer accepts it; errors show in the response."""
        reader, connection = self.reader, self._connection
        with suppress(ProbeFailed):
            while data := body.read(frames.MAX_PAYLOAD_BYTES):
                rest = memoryview(data)
                while rest:
                    while reader.room <= 0:
                        self._may_send.clear()
                        await self._may_send.wait()
                    piece = rest[: reader.room]
                    reader.spend(len(piece))
                    await connection.write(frame(frames.DATA, 0, STREAM, piece))
                    rest = rest[len(piece) :]
            connection.send(frame(frames.DATA, frames.END_STREAM, STREAM, b""))
