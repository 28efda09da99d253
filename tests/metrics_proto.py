"""Decode the Prometheus protobuf format with Google's library, to check our encoder.

`SCHEMA` is that of io.prometheus.client (metrics.proto in prometheus/client_model) without native histograms, which
the exporter does not have.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory, timestamp_pb2

# Name, number and type of each field; [] means repeated. A type with a capital is a message or an enum of this schema.
SCHEMA = {
    "LabelPair": [("name", 1, "string"), ("value", 2, "string")],
    "Exemplar": [("label", 1, "LabelPair[]"), ("value", 2, "double"), ("timestamp", 3, "Timestamp")],
    "Gauge": [("value", 1, "double")],
    "Counter": [("value", 1, "double"), ("exemplar", 2, "Exemplar")],
    "Untyped": [("value", 1, "double")],
    "Quantile": [("quantile", 1, "double"), ("value", 2, "double")],
    "Summary": [("sample_count", 1, "uint64"), ("sample_sum", 2, "double"), ("quantile", 3, "Quantile[]")],
    "Bucket": [("cumulative_count", 1, "uint64"), ("upper_bound", 2, "double"), ("exemplar", 3, "Exemplar")],
    "Histogram": [("sample_count", 1, "uint64"), ("sample_sum", 2, "double"), ("bucket", 3, "Bucket[]")],
    "Metric": [
        ("label", 1, "LabelPair[]"),
        ("gauge", 2, "Gauge"),
        ("counter", 3, "Counter"),
        ("summary", 4, "Summary"),
        ("untyped", 5, "Untyped"),
        ("timestamp_ms", 6, "int64"),
        ("histogram", 7, "Histogram"),
    ],
    "MetricFamily": [
        ("name", 1, "string"),
        ("help", 2, "string"),
        ("type", 3, "MetricType"),
        ("metric", 4, "Metric[]"),
        ("unit", 5, "string"),
    ],
}
TYPES = ["COUNTER", "GAUGE", "SUMMARY", "UNTYPED", "HISTOGRAM", "GAUGE_HISTOGRAM"]
PACKAGE = "io.prometheus.client"

Kind = descriptor_pb2.FieldDescriptorProto


def _message_class() -> type[message.Message]:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package=PACKAGE, syntax="proto2")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    types = file.enum_type.add(name="MetricType")
    for number, name in enumerate(TYPES):
        types.value.add(name=name, number=number)
    for name, fields in SCHEMA.items():
        described = file.message_type.add(name=name)
        for field, number, kind in fields:
            _add_field(described, field, number, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    found: type[message.Message] = message_factory.GetMessageClass(
        pool.FindMessageTypeByName(f"{PACKAGE}.MetricFamily")
    )
    return found


def _add_field(described: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str) -> None:
    bare = kind.removesuffix("[]")
    field = described.field.add(name=name, number=number)
    field.label = Kind.LABEL_OPTIONAL if bare == kind else Kind.LABEL_REPEATED
    if bare.islower() or bare.endswith("64"):
        field.type = getattr(Kind, f"TYPE_{bare.upper()}")
    elif bare == "Timestamp":
        field.type, field.type_name = Kind.TYPE_MESSAGE, ".google.protobuf.Timestamp"
    else:
        field.type = Kind.TYPE_ENUM if bare == "MetricType" else Kind.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{bare}"


MetricFamily: Any = _message_class()


def decode(body: bytes) -> list[Any]:
    """Return the messages of a delimited response.

    Raises:
        AssertionError: a message is cut off, or has fields that the schema lacks.
    """
    found = []
    while body:
        length, body = _varint(body)
        family = MetricFamily.FromString(body[:length])
        assert len(body) >= length, "the last message is cut off"
        assert family.ByteSize() == length, "there is more in it than the schema has"
        found.append(family)
        body = body[length:]
    return found


def _varint(body: bytes) -> tuple[int, bytes]:
    value = 0
    for index, byte in enumerate(body):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, body[index + 1 :]
    raise ValueError("a length is cut off")
