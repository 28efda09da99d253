"""Encode and decode the messages of a gRPC health check (grpc.health.v1), without I/O.

Each message has one field, so this reads protobuf's wire format itself. Unknown fields are skipped and malformed
messages refused, as protobuf's own readers do.
"""

from __future__ import annotations

from probe_exporter.exposition import varint

METHOD = "/grpc.health.v1.Health/Check"

SERVING, SERVICE_UNKNOWN = 1, 3
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""Names of the serving statuses, by number."""

MAX_FIELDS = 1_000
"""Fields of a response, of which one is known. A response is read in one turn of the event loop."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_STATUS_KEY = 1 << 3 | _VARINT
_MAX_GROUP_DEPTH = 100
"""Depth of nested groups, as in Google's readers; groups have been deprecated since 2008."""


def name_of(status: int) -> str:
    """Return the name of a serving status; the number of an unknown one."""
    return STATUSES[status] if 0 <= status < len(STATUSES) else str(status)


def request(service: bytes) -> bytes:
    """Encode a HealthCheckRequest: field 1 is the service, omitted if empty."""
    return b"\x0a" + varint.encode(len(service)) + service if service else b""


def read_response(message: bytes) -> int:
    """Return the serving status of a HealthCheckResponse: field 1, a number of 32 bits; 0 without the field.

    Raises:
        ValueError: the bytes are not a message, or have more than `MAX_FIELDS` fields.
    """
    if len(message) == 2 and message[0] == _STATUS_KEY and message[1] < 0x80:  # as servers encode it
        return message[1]
    return _read_fields(message)


def _read_fields(message: bytes) -> int:
    status = at = fields = 0
    groups: list[int] = []
    while at < len(message):
        fields += 1
        if fields > MAX_FIELDS:
            raise ValueError(f"it has more than {MAX_FIELDS:,} fields")
        field, kind, at = _read_key(message, at)
        if kind == _VARINT:
            value, at = varint.decode(message, at)
            if field == 1 and not groups:
                status = (value + (1 << 31)) % (1 << 32) - (1 << 31)
        elif kind == _GROUP:
            groups.append(field)
        elif kind == _GROUP_END:
            if not groups or groups.pop() != field:
                raise ValueError("a group ends without a beginning")
        else:
            at = _skip(message, at, kind)
        if len(groups) > _MAX_GROUP_DEPTH:
            raise ValueError("groups are nested too deeply")
    if groups:
        raise ValueError("a group does not end")
    return status


def _read_key(message: bytes, at: int) -> tuple[int, int, int]:
    """Return the number and the wire type of the field that begins at `at`, and the offset after them."""
    key, at = varint.decode(message, at)
    field, kind = key >> 3, key & 7
    if not 0 < field < 1 << 29:
        raise ValueError(f"{field} is not a valid field number")
    return field, kind, at


def _skip(message: bytes, at: int, kind: int) -> int:
    """Return the offset after an unknown field."""
    if kind == _BYTES:
        size, at = varint.decode(message, at)
    elif kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
    else:
        raise ValueError(f"{kind} is not a wire type")
    if size > len(message) - at:
        raise ValueError("the message ends within a field")
    return at + size
