"""Answers of a scripted gRPC server: messages and trailers, valid or not, over the frames of `http2`.

It uses neither the exporter's code nor grpcio, because both refuse to send invalid messages.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.targets.answers import Answer, End, Finish, Header, Part
from tests.targets.http2 import data, head, headers, said

PATH = "/grpc.health.v1.Health/Check"

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)

CONTENT_TYPE = ("content-type", "application/grpc")
OPENED = head(200, CONTENT_TYPE)
"""The head of every response to a call."""

READ = Finish()
"""Closes only our direction: after a full close, data from the client would cause a reset before it has read all."""


def varint(number: int) -> bytes:
    """Encode a varint of protobuf; a negative number as its complement of 64 bits."""
    number %= 1 << 64
    return bytes((number & 127 | 128,)) + varint(number >> 7) if number > 127 else bytes((number,))


def status(number: int) -> bytes:
    """Encode a HealthCheckResponse; 0 is the default, which is not written."""
    return b"\x08" + varint(number) if number else b""


def message(content: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """Return a message with its head; `length` replaces the true length."""
    return bytes((flag,)) + (len(content) if length is None else length).to_bytes(4, "big") + content


def trailers(code: int | str = 0, text: str | None = None, *fields: Header) -> bytes:
    """Return the trailers of a call."""
    worded = [] if text is None else [("grpc-message", text)]
    return headers(("grpc-status", str(code)), *worded, *fields, end=True)


def healthy(number: int = SERVING) -> Answer:
    """Return the answer of a server that knows the service."""
    return content(status(number))


def content(encoded: bytes) -> Answer:
    """Return the answer of a successful call with one message."""
    return said(OPENED, data(message(encoded), end=False), trailers())


def failed(code: int | str, text: str | None = None, *fields: Header) -> Answer:
    """Return a failure without any message: the head also has the trailers ("Trailers-Only")."""
    worded = [] if text is None else [("grpc-message", text)]
    return said(head(200, CONTENT_TYPE, ("grpc-status", str(code)), *worded, *fields, end=True))


def at(answer: Answer) -> Mapping[str, Answer]:
    """Return the pages of a server with this answer to a health check."""
    return {PATH: answer}


def opened(*parts: Part, end: End = End.HOLD) -> Answer:
    """Return a response with a valid head, which goes on with these parts."""
    return said(OPENED, *parts, end=end)
