"""What a scripted gRPC server says: messages and trailers, in good order or not, over the frames of `http2`.

No code of the exporter's is used here, nor grpcio's: what they would refuse to say is said as well.
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
"""Let the client read what was said before the connection ends: what it sends after a plain close would reset it."""


def varint(number: int) -> bytes:
    """A number of protobuf's; a negative one as its complement of 64 bits."""
    number %= 1 << 64
    return bytes((number & 127 | 128,)) + varint(number >> 7) if number > 127 else bytes((number,))


def status(number: int) -> bytes:
    """A HealthCheckResponse; 0 is the default, which nobody writes."""
    return b"\x08" + varint(number) if number else b""


def message(content: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """A message as it is sent; `length` is what its head says in place of the truth."""
    return bytes((flag,)) + (len(content) if length is None else length).to_bytes(4, "big") + content


def trailers(code: int | str = 0, text: str | None = None, *fields: Header) -> bytes:
    """How a call ends."""
    worded = [] if text is None else [("grpc-message", text)]
    return headers(("grpc-status", str(code)), *worded, *fields, end=True)


def healthy(number: int = SERVING) -> Answer:
    """The answer of a server that knows the service."""
    return content(status(number))


def content(encoded: bytes) -> Answer:
    """A call that goes well and returns one message."""
    return said(OPENED, data(message(encoded), end=False), trailers())


def failed(code: int | str, text: str | None = None, *fields: Header) -> Answer:
    """A call that fails before there is any message: its head is its end ("Trailers-Only")."""
    worded = [] if text is None else [("grpc-message", text)]
    return said(head(200, CONTENT_TYPE, ("grpc-status", str(code)), *worded, *fields, end=True))


def at(answer: Answer) -> Mapping[str, Answer]:
    """A server with this answer to a health check."""
    return {PATH: answer}


def opened(*parts: Part, end: End = End.HOLD) -> Answer:
    """A response that begins as it should, and goes on with these parts."""
    return said(OPENED, *parts, end=end)
