"""The two messages of a health check (grpc.health.v1), to bytes and back, without I/O.

Each has one field, so a few lines of protobuf's wire format do: what a later version adds is passed over, and what is
no message is refused, as protobuf's own readers do.
"""

from __future__ import annotations

from probe_exporter.exposition import varint

METHOD = "/grpc.health.v1.Health/Check"

SERVING, SERVICE_UNKNOWN = 1, 3
STATUSES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
"""The names of the serving statuses, by number."""

_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = range(6)
_MOST_GROUPS = 100
"""How deep groups may lie in each other, as in Google's readers: nobody writes any since 2008."""


def name_of(status: int) -> str:
    """A serving status by its name; one that is none by its number."""
    return STATUSES[status] if 0 <= status < len(STATUSES) else str(status)


def request(service: bytes) -> bytes:
    """A HealthCheckRequest: field 1 is the service, which an empty one leaves out."""
    return b"\x0a" + varint.encode(len(service)) + service if service else b""


def read_response(message: bytes) -> int:
    """The serving status of a HealthCheckResponse: field 1, a number of 32 bits; 0 where there is none.

    Raises:
        ValueError: these bytes are no message.
    """
    status = at = 0
    groups: list[int] = []
    while at < len(message):
        key, at = varint.decode(message, at)
        field, kind = key >> 3, key & 7
        if not 0 < field < 1 << 29:
            raise ValueError(f"no field has the number {field}")
        if kind == _VARINT:
            value, at = varint.decode(message, at)
            if field == 1 and not groups:
                status = (value + (1 << 31)) % (1 << 32) - (1 << 31)
        elif kind == _GROUP:
            groups.append(field)
        elif kind == _GROUP_END:
            if not groups or groups.pop() != field:
                raise ValueError("a group ends that did not begin")
        else:
            at = _skip(message, at, kind)
        if len(groups) > _MOST_GROUPS:
            raise ValueError("too many groups in each other")
    if groups:
        raise ValueError("a group does not end")
    return status


def _skip(message: bytes, at: int, kind: int) -> int:
    """The place after a field that nobody asked for."""
    if kind == _BYTES:
        size, at = varint.decode(message, at)
    elif kind in (_FIXED64, _FIXED32):
        size = 8 if kind == _FIXED64 else 4
    else:
        raise ValueError(f"there is no wire type {kind}")
    if size > len(message) - at:
        raise ValueError("it ends within a field")
    return at + size
