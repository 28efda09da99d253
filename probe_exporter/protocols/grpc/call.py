"""A unary gRPC call over HTTP/2: one message there, one back, and a status that says how it went.

What a call is made of needs no I/O and comes first (the gRPC project's PROTOCOL-HTTP2); `unary` makes one over a
connection.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
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
    from probe_exporter.protocols.http.http2 import ResponseReader  # loaded by the first call

ALPN = ("h2",)
"""What a gRPC client offers."""

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Bytes of a message that are read, as in other gRPC clients by default."""

_HEAD = 5  # bytes before a message: whether it is compressed, and its length
_MAX_SHOWN_CHARACTERS = 200
"""Characters of what a server said in an error."""

_MAX_ENCODED_CHARACTERS = 12
"""Characters of a percent-encoded character."""


class Status(IntEnum):
    """How a call went."""

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
    """A call did not go well; `status` is how."""

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
"""What an HTTP status means where no gRPC status came; any other is `Status.UNKNOWN`."""

_OF_RESET: Mapping[int, Status] = {
    Code.REFUSED_STREAM: Status.UNAVAILABLE,
    Code.CANCEL: Status.CANCELLED,
    Code.FLOW_CONTROL_ERROR: Status.RESOURCE_EXHAUSTED,  # what gRPC clients make of it, beyond the specification
    Code.ENHANCE_YOUR_CALM: Status.RESOURCE_EXHAUSTED,
    Code.INADEQUATE_SECURITY: Status.PERMISSION_DENIED,
}
"""What it means that the server resets the stream; any other code that has a name is `Status.INTERNAL`."""

_REASONS: Mapping[int, Reason] = {
    Status.NOT_FOUND: Reason.GRPC_SERVICE_UNKNOWN,
    Status.UNIMPLEMENTED: Reason.GRPC_UNIMPLEMENTED,
    Status.PERMISSION_DENIED: Reason.GRPC_PERMISSION,
    Status.UNAUTHENTICATED: Reason.GRPC_PERMISSION,
}
"""Why a health check fails that ends with a status; with any other it is `Reason.GRPC_STATUS`."""

_ENDED = (Reason.HTTP_BODY_TRUNCATED, Reason.CONNECT_CLOSED, Reason.CONNECT_RESET)

# --- metadata ----------------------------------------------------------------------------------------------

_KEY = re.compile(r"[0-9a-z._-]+")
_ASCII_VALUE = re.compile(rb"[\x20-\x7e]*")
_OUR_OWN = frozenset(
    {"content-type", "te", "user-agent", "grpc-encoding", "grpc-message", "grpc-message-type", "grpc-status",
     "grpc-timeout"}
)  # fmt: skip


def metadata_fields(metadata: Mapping[str, Iterable[str]]) -> list[Field]:
    """Metadata as it is sent: bytes (keys that end in ``-bin``) in base64, and nothing that belongs to the call itself.

    Raises:
        ValueError: a key or a value can't be sent.
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
        raise ValueError(f"the value of {key} is not printable ASCII (bytes go under a key that ends in -bin)")
    return value


# --- messages ----------------------------------------------------------------------------------------------


def framed(message: bytes) -> bytes:
    """A message as it is sent: not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def announced(body: bytes | bytearray) -> int:
    """The bytes that the message at the beginning has, or will have; 0 while nobody knows.

    Raises:
        CallFailed: more than anybody wants to hear, in a form that was not offered, or followed by another message.
    """
    if len(body) < _HEAD:
        return 0
    size = int.from_bytes(body[1:_HEAD], "big")
    if body[0]:
        raise _malformed(f"a message with flag {body[0]} came: it is compressed, and nothing was offered")
    if size > MAX_MESSAGE_BYTES:
        what = f"a message of {size} bytes comes, and the limit is {MAX_MESSAGE_BYTES}"
        raise CallFailed(Status.RESOURCE_EXHAUSTED, Reason.GRPC_PROTOCOL_ERROR, what)
    if len(body) >= _HEAD + size + _HEAD:
        raise _malformed("there is more than one answer")
    return size


def unframed(body: bytes | bytearray) -> bytes:
    """The one message of a response.

    Raises:
        CallFailed: there is none, more than one, or a part of one.
    """
    if not body:
        raise _malformed("the call succeeds without an answer")
    end = _HEAD + announced(body)
    if len(body) < max(_HEAD, end):
        raise _malformed("the answer ends within its message")
    return bytes(body[_HEAD:end])


def _malformed(what: str) -> CallFailed:
    return CallFailed(Status.INTERNAL, Reason.GRPC_PROTOCOL_ERROR, f"the response is not gRPC: {what}")


# --- the status --------------------------------------------------------------------------------------------

_CONTENT_TYPE = re.compile(r"application/grpc(?:[+;].*)?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")


def check_head(response: ResponseReader) -> None:
    """See whether a response is one to a call at all; what a proxy or a web server says is none.

    Raises:
        CallFailed: it is not, and its HTTP status has to do.
    """
    kind = response.get("content-type") or ""
    if not _CONTENT_TYPE.fullmatch(kind):
        status = _OF_HTTP.get(response.status, Status.UNKNOWN)
        what = f"the answer is not gRPC: HTTP status {response.status}, content type {kind[:_MAX_SHOWN_CHARACTERS]!r}"
        raise CallFailed(status, Reason.GRPC_NOT_GRPC, what)


def check_status(response: ResponseReader) -> None:
    """Look at the status with which a call ended: in its trailers, or in its head if that is all there is.

    Raises:
        CallFailed: it is not `Status.OK`, or there is none.
    """
    fields = dict(response.headers if response.ended_with_head else response.trailers)
    if not fields:
        raise _malformed("it ends without trailers")
    written = fields.get("grpc-status")
    if written is None:
        implied = _OF_HTTP.get(response.status, Status.UNKNOWN)
        raise CallFailed(implied, Reason.GRPC_PROTOCOL_ERROR, "the response is not gRPC: it has no status")
    if not (_NUMBER.fullmatch(written) and -(2**31) <= int(written) < 2**31):
        what = f"the response is not gRPC: {written[:_MAX_SHOWN_CHARACTERS]!r} is not a status"
        raise CallFailed(Status.UNKNOWN, Reason.GRPC_PROTOCOL_ERROR, what)
    status = int(written) % 2**32  # as others have it who take what they should not
    if status != Status.OK:
        raise _ended_with(status, fields.get("grpc-message", ""))


def _ended_with(status: int, message: str) -> CallFailed:
    try:
        name = Status(status).name
    except ValueError:
        name = "no such status"
    words = unquote(message[: _MAX_ENCODED_CHARACTERS * _MAX_SHOWN_CHARACTERS], errors="replace")[
        :_MAX_SHOWN_CHARACTERS
    ]
    what = f"the call ended with status {status} ({name})" + (f": {words}" if words else "")
    return CallFailed(status, _REASONS.get(status, Reason.GRPC_STATUS), what)


def _broken(failed: ProbeFailed, response: ResponseReader) -> CallFailed:
    """What it means for a call that its HTTP/2 went wrong."""
    status = Status.UNAVAILABLE
    if response.reset_code is not None:
        other = Status.INTERNAL if response.reset_code <= Code.HTTP_1_1_REQUIRED else Status.UNKNOWN
        status = _OF_RESET.get(response.reset_code, other)
    kind = CallUnprocessed if isinstance(failed, Unprocessed) else CallFailed
    return kind(status, _reason(failed, response), failed.message)


def _reason(failed: ProbeFailed, response: ResponseReader) -> Reason:
    if response.reset_code is not None:
        return Reason.GRPC_STREAM_RESET
    if response.goaway:
        return Reason.GRPC_GOING_AWAY
    if failed.reason in (Reason.HTTP_PROTOCOL_ERROR, Reason.HTTP_HEADERS_TOO_LARGE):
        return Reason.GRPC_PROTOCOL_ERROR if response.opened else Reason.GRPC_NOT_HTTP2
    if response.answered and failed.reason in _ENDED:
        return Reason.GRPC_TRUNCATED
    assert isinstance(failed.reason, Reason)  # a connection's, and no prober's own
    return failed.reason


class CallUnprocessed(CallFailed):
    """The server says that it did not look at the call: it may be made once more."""


# --- the call ----------------------------------------------------------------------------------------------


def call_fields(scheme: str, authority: str, path: str, metadata: Iterable[Field]) -> list[Field]:
    """The fields of a call, in the order that gRPC asks for.

    Args:
        scheme: ``http`` or ``https``.
        authority: whom the call is for.
        path: the service and its method.
        metadata: of `metadata_fields`.
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


async def unary(connection: Connection, fields: list[Field], message: bytes) -> bytes:
    """Make a call over a connection of its own, which is closed at the end; the message that is the answer.

    Args:
        fields: of `call_fields`.
        message: not yet framed.

    Raises:
        CallFailed: with the status and the reason.
    """
    from probe_exporter.protocols.http.http2_exchange import Http2Exchange  # noqa: PLC0415  # not every exporter makes calls

    exchange = Http2Exchange(connection, "POST", fields, framed(message))
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
