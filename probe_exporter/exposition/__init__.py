"""Samples and families as an answer, in each format that is offered."""

from probe_exporter.exposition.encoding import (
    OPENMETRICS,
    PROTOBUF,
    PROTOBUF_COMPACT,
    PROTOBUF_TEXT,
    TEXT,
    Format,
    encode,
    encode_families,
    negotiate,
    number,
)

__all__ = [
    "OPENMETRICS",
    "PROTOBUF",
    "PROTOBUF_COMPACT",
    "PROTOBUF_TEXT",
    "TEXT",
    "Format",
    "encode",
    "encode_families",
    "negotiate",
    "number",
]
