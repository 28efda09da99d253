"""Make a unary gRPC call over HTTP/2: send one message, receive one, check the status.

The parts of a call need no I/O and come first (the gRPC project's PROTOCOL-HTTP2). `unary` makes a call over a
connection.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from probe_exporter.network.connection import Connection
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http.exchange import Unprocessed
from probe_exporter.protocols.http.frames import Code
from probe_exporter.protocols.http.request import USER_AGENT
from probe_exporter.settings.fields import encode

if TYPE_CHECKING:
    from probe_exporter.protocols.http.header_block import Field
    from probe_exporter.protocols.http.http2 import Http2ResponseReader  # loaded by the first call
    from probe_exporter.protocols.http.http2_exchange import Http2Exchange

ALPN = ("h2",)
"""Protocols that a gRPC client offers by ALPN."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Size of a message, the default limit of other gRPC clients."""

_HEAD = 5  # bytes before a message: a flag for compression, and the length
_MAX_SHOWN_CHARACTERS = 200
"""The most characters of a server's message in an error."""

_MAX_ENCODED_CHARACTERS = 12
"""Characters of a percent-encoded character."""


class Status(IntEnum):
    """Status codes of calls."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CallFailed(ProbeFailed):
    """A call failed with `status`."""

    def __init__(self, status: int, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.status = status


_OF_HTTP: Mapping[int, Status] = {
    400: Status.INTERNAL,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.UNIMPLEMENTED,
    429: Status.UNAVAILABLE,
    502: Status.UNAVAILABLE,
    503: Status.UNAVAILABLE,
    504: Status.UNAVAILABLE,
}
"""Status of a call by the HTTP status of a response without a gRPC status; others are `Status.UNKNOWN`."""

_OF_RESET: Mapping[int, Status] = {
    Code.REFUSED_STREAM: Status.UNAVAILABLE,
    Code.CANCEL: Status.CANCELLED,
    Code.FLOW_CONTROL_ERROR: Status.RESOURCE_EXHAUSTED,  # as gRPC clients do, beyond the specification
    Code.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    Code.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}
"""Status of a call by the code of RST_STREAM; other known codes are `Status.INTERNAL`."""

_REASONS: Mapping[int, Reason] = {
    Status.NOT_FOUND: Reason.GRPC_SERVICE_UNKNOWN,
    Status.UNIMPLEMENTED: Reason.GRPC_UNIMPLEMENTED,
    Status.PERMISSION_DENIED: Reason.GRPC_PERMISSION,
    Status.UNAUTHENTICATED: Reason.GRPC_PERMISSION,
}
"""Reason of a failure by the status of the call; others are `Reason.GRPC_STATUS`."""

_ENDED = (Reason.HTTP_BODY_TRUNCATED, Reason.CONNECT_CLOSED, Reason.CONNECT_RESET)

# --- metadata ----------------------------------------------------------------------------------------------

_KEY = re.compile(r"[0-9a-z._-]+")
_ASCII_VALUE = re.compile(rb"[\x20-\x7e]*")
_OUR_OWN = frozenset(
    {"content-type", "te", "user-agent", "grpc-encoding", "grpc-message", "grpc-message-type", "grpc-status",
     "grpc-timeout"}
)  # fmt: skip


def metadata_fields(metadata: Mapping[str, Iterable[str]]) -> list[Field]:
    """Return metadata as header fields: keys that end in ``-bin`` in base64, headers of the call itself omitted.

    Raises:
        ValueError: a key or a value is invalid.
    """
    fields = []
    for key, values in metadata.items():
        if key.startswith(":") or key in _OUR_OWN:
            continue
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key} has characters other than 0-9 a-z . _ -")
        fields += [(key.encode("ascii"), _sendable(key, encode(value))) for value in values]
    return fields


def _sendable(key: str, value: bytes) -> bytes:
    if key.endswith("-bin"):
        return base64.b64encode(value).rstrip(b"=")
    if not _ASCII_VALUE.fullmatch(value):
        raise ValueError(f"the value of {key} is not printable ASCII (use a key that ends in -bin for bytes)")
    return value


# --- messages ----------------------------------------------------------------------------------------------


def framed(message: bytes) -> bytes:
    """Frame a message, without compression."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def announced(body: bytes | bytearray) -> int:
    """Return the length of the first message in `body`, which may be incomplete; 0 while it is unknown.

    Raises:
        CallFailed: the message is too large or compressed, or another one follows.
    """
    if len(body) < _HEAD:
        return 0
    size = int.from_bytes(body[1:_HEAD], "big")
    if body[0]:
        raise _malformed(f"the message has flag {body[0]}: it is compressed, though the call offered no compression")
    if size > MAX_MESSAGE_BYTES:
        what = f"the message has {size} bytes, and the limit is {MAX_MESSAGE_BYTES}"
        raise CallFailed(Status.RESOURCE_EXHAUSTED, Reason.GRPC_PROTOCOL_ERROR, what)
    if len(body) >= _HEAD + size + _HEAD:
        raise _malformed("the server sent more than one message")
    return size


def unframed(body: bytes | bytearray) -> bytes:
    """Return the message of a complete response.

    Raises:
        CallFailed: there is no message, more than one, or an incomplete one.
    """
    if not body:
        raise _malformed("the call succeeded without a message")
    end = _HEAD + announced(body)
    if len(body) < max(_HEAD, end):
        raise _malformed("the message is incomplete")
    return bytes(body[_HEAD:end])


def _malformed(what: str) -> CallFailed:
    return CallFailed(Status.INTERNAL, Reason.GRPC_PROTOCOL_ERROR, f"the response is not gRPC: {what}")


# --- the status --------------------------------------------------------------------------------------------

_CONTENT_TYPE = re.compile(r"application/grpc(?:[+;].*)?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


def check_head(response: Http2ResponseReader) -> None:
    """Check that a response is one of gRPC, and not one of a proxy or a web server.

    Raises:
        CallFailed: it is not; the status follows from its HTTP status.
    """
    kind = response.get("content-type") or ""
    if not _CONTENT_TYPE.fullmatch(kind):
        status = _OF_HTTP.get(response.status, Status.UNKNOWN)
        what = f"the response is not gRPC: HTTP status {response.status}, content type {kind[:_MAX_SHOWN_CHARACTERS]!r}"
        raise CallFailed(status, Reason.GRPC_NOT_GRPC, what)


def check_status(response: Http2ResponseReader) -> None:
    """Check the status of a call: in the trailers, or in the head if there is nothing else.

    Raises:
        CallFailed: it is not `Status.OK`, or missing.
    """
    fields = dict(response.headers if response.ended_with_head else response.trailers)
    if not fields:
        raise _malformed("it has no trailers")
    written = fields.get("grpc-status")
    if written is None:
        implied = _OF_HTTP.get(response.status, Status.UNKNOWN)
        raise CallFailed(implied, Reason.GRPC_PROTOCOL_ERROR, "the response is not gRPC: it has no grpc-status")
    if not (_NUMBER.fullmatch(written) and -(2**31) <= int(written) < 2**31):
        what = f"the response is not gRPC: {written[:_MAX_SHOWN_CHARACTERS]!r} is not a status"
        raise CallFailed(Status.UNKNOWN, Reason.GRPC_PROTOCOL_ERROR, what)
    status = int(written) % 2**32  # as other clients that accept such numbers
    if status != Status.OK:
        raise _ended_with(status, fields.get("grpc-message", ""))


def _ended_with(status: int, message: str) -> CallFailed:
    try:
        name = Status(status).name
    except ValueError:
        name = "unknown status"
    words = unquote(message[: _MAX_ENCODED_CHARACTERS * _MAX_SHOWN_CHARACTERS], errors="replace")[
        :_MAX_SHOWN_CHARACTERS
    ]
    what = f"the call ended with status {status} ({name})" + (f": {words}" if words else "")
    return CallFailed(status, _REASONS.get(status, Reason.GRPC_STATUS), what)


def _broken(failed: ProbeFailed, response: Http2ResponseReader) -> CallFailed:
    """Return the failure of a call whose HTTP/2 exchange failed."""
    status = Status.UNAVAILABLE
    if response.reset_code is not None:
        other = Status.INTERNAL if response.reset_code <= Code.HTTP_1_1_REQUIRED else Status.UNKNOWN
        status = _OF_RESET.get(response.reset_code, other)
    kind = CallUnprocessed if isinstance(failed, Unprocessed) else CallFailed
    return kind(status, _reason(failed, response), failed.message)


def _reason(failed: ProbeFailed, response: Http2ResponseReader) -> Reason:
    if response.reset_code is not None:
        return Reason.GRPC_STREAM_RESET
    if response.goaway:
        return Reason.GRPC_GOING_AWAY
    if failed.reason in (Reason.HTTP_PROTOCOL_ERROR, Reason.HTTP_HEADERS_TOO_LARGE):
        return Reason.GRPC_PROTOCOL_ERROR if response.opened else Reason.GRPC_NOT_HTTP2
    if response.answered and failed.reason in _ENDED:
        return Reason.GRPC_TRUNCATED
    assert isinstance(failed.reason, Reason)  # of a connection, not an `OwnReason`
    return failed.reason


class CallUnprocessed(CallFailed):
    """The server says that it did not process the call, so it may be repeated."""


# --- the call ----------------------------------------------------------------------------------------------


def call_fields(scheme: str, authority: str, path: str, metadata: Iterable[Field]) -> list[Field]:
    """Return the header fields of a call, in the order that gRPC requires.

    Args:
        scheme: ``http`` or ``https``.
        authority: host, and perhaps port, of the server.
        path: service and method.
        metadata: from `metadata_fields`.
    """
    return [
        (b":method", b"POST"),
        (b":scheme", scheme.encode("ascii")),
        (b":path", path.encode("ascii")),
        (b":authority", authority.encode("ascii", "replace")),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", USER_AGENT.encode("ascii")),
        *metadata,
    ]


@cache
def _exchange() -> type[Http2Exchange]:
    """Import the class once: to find an imported module again takes one percent of a probe."""
    from probe_exporter.protocols.http.http2_exchange import Http2Exchange  # noqa: PLC0415  # few exporters need it

    return Http2Exchange


async def unary(connection: Connection, fields: list[Field], message: bytes) -> bytes:
    """Make a call over its own connection, close that, and return the message of the response.

    Args:
        fields: from `call_fields`.
        message: not yet framed.

    Raises:
        CallFailed: with the status and the reason.
    """
    exchange = _exchange()(connection, "POST", fields, framed(message))
    response = exchange.reader
    try:
        await exchange.head()
        check_head(response)
        body = bytearray()
        while piece := await exchange.body():
            body += piece
            announced(body)
    except CallFailed:
        raise
    except ProbeFailed as failed:
        raise _broken(failed, response) from None
    finally:
        exchange.close()
    check_status(response)
    return unframed(body)
