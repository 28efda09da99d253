"""`Exchange`: one request and its response, for all versions of HTTP; `Http1Exchange` for HTTP/1."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import BinaryIO, Protocol

from probe_exporter.network.connection import Connection
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.http.request import Request
from probe_exporter.protocols.http.response import Response
from probe_exporter.tls.handshake import Handshake

UPLOAD_CHUNK_BYTES = 64 * 1024
"""Bytes of an uploaded file in one chunk."""


class Unprocessed(ProbeFailed):
    """The server says that it did not process the request, so it may be repeated (RFC 9113, section 8.7)."""


class Exchange(Protocol):
    """One request and its response.

    Attributes:
        response: valid when `head` has returned.
        processing_seconds: from the request to the first byte of the response; 0.0 before that byte.
    """

    response: Response
    processing_seconds: float

    @property
    def handshake(self) -> Handshake | None:
        """The TLS handshake; None on a plain connection."""

    @property
    def first_byte_at(self) -> float:
        """When the response began, by `time.perf_counter`."""

    async def head(self) -> Response:
        """Send the request and return the head of the response.

        Raises:
            ProbeFailed: there is no response, or it is not HTTP.
        """

    def arrived(self) -> bytes | None:
        """Return the rest of the body if all of it has arrived already, as most have with the head; else None."""

    async def body(self) -> bytes:
        """Return the next piece of the response's body; ``b""`` after the last.

        Raises:
            ProbeFailed: the body is incomplete, or breaks its transfer coding.
        """

    def close(self) -> None:
        """Close the connection gracefully, whether the response is complete or not. Safe to call twice."""


class Http1Exchange:
    """An exchange over HTTP/1 on its own connection."""

    def __init__(self, connection: Connection, request: Request, upload: BinaryIO | None) -> None:
        """
        Args:
            upload: the file that ``request.body_file`` names, positioned at its beginning.
        """
        self._connection = connection
        self._reader = Http1ResponseReader(request.method)
        self.response: Response = self._reader
        self.processing_seconds = 0.0
        self._request = request
        self._upload = upload
        self._uploading: asyncio.Task[None] | None = None

    @property
    def handshake(self) -> Handshake | None:
        return self._connection.handshake

    @property
    def first_byte_at(self) -> float:
        return self._connection.first_byte_at

    async def head(self) -> Response:
        connection, reader = self._connection, self._reader
        sent = time.perf_counter()
        connection.send(self._request.head() + self._request.body)
        if self._request.body_file and self._upload is not None:
            self._uploading = asyncio.create_task(_send_file(connection, self._upload))
        try:
            while not reader.head_complete:
                reader.feed(await connection.read())
        finally:
            if connection.first_byte_at:  # a server may have sent bytes before the request
                self.processing_seconds = max(connection.first_byte_at - sent, 1e-9)
        return reader

    def arrived(self) -> bytes | None:
        return self._reader.take_whole_body()

    async def body(self) -> bytes:
        while True:
            piece = self._reader.take_body()
            if piece or self._reader.complete:
                return piece
            if self._reader.unread:
                await pause()  # between two portions of tiny chunks
                self._reader.proceed()
            else:
                self._reader.feed(await self._connection.read())

    def close(self) -> None:
        if self._uploading is not None:
            self._uploading.cancel()
        self._connection.close()


async def _send_file(connection: Connection, upload: BinaryIO) -> None:
    """Send a file in chunks, as fast as the peer reads; the response shows what goes wrong."""
    with suppress(ProbeFailed):
        while data := upload.read(UPLOAD_CHUNK_BYTES):
            await connection.write(http1.chunk(data))
        await connection.write(http1.chunk(b""))
