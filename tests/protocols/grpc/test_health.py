"""Read and write the messages of a gRPC health check exactly as protobuf's own library does.

One difference is intended: in a group that it skips, that library accepts a field with the number 0; Go and we do not.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.grpc.health import MAX_FIELDS, METHOD, STATUSES, name_of, read_response, request
from tests.targets.grpc import varint

google = pytest.importorskip("grpc_health.v1.health_pb2")
message = pytest.importorskip("google.protobuf.message")


@pytest.mark.parametrize("service", ["", "a", "my.Service", "grün", "s" * 127, "s" * 128, "s" * 20_000])
def test_health_request_equals_that_of_protobuf(service: str) -> None:
    assert request(service.encode()) == google.HealthCheckRequest(service=service).SerializeToString()


def test_health_status_names_are_those_of_the_definition() -> None:
    defined = google.HealthCheckResponse.ServingStatus
    assert {name: defined.Value(name) for name in STATUSES} == dict(defined.items())
    service = google.DESCRIPTOR.services_by_name["Health"]
    assert f"/{service.full_name}/{service.methods_by_name['Check'].name}" == METHOD


@given(st.integers(-(2**31), 2**31 - 1))
def test_health_response_of_protobuf_is_read_back(status: int) -> None:
    assert read_response(google.HealthCheckResponse(status=status).SerializeToString()) == status


def test_health_status_without_a_name_is_shown_as_its_number() -> None:
    assert [name_of(status) for status in (0, 1, 2, 3, 4, -1)] == [*STATUSES, "4", "-1"]


@st.composite
def fields(draw: st.DrawFn, depth: int = 0) -> bytes:
    """Draw a field of any kind, most often the first one."""
    number = draw(st.sampled_from([1, 1, 1, 2, 15, 16, 2**29 - 1, 1 if depth else 0]))
    kind = draw(st.integers(0, 7))
    tag = varint(number << 3 | kind)
    match kind:
        case 0:
            return tag + varint(draw(st.integers(0, 2**64 - 1)))
        case 1 | 5:
            return tag + draw(st.binary(min_size=8 if kind == 1 else 4, max_size=8 if kind == 1 else 4))
        case 2:
            content = draw(st.binary(max_size=20))
            return tag + varint(len(content)) + content
        case 3 if depth < 3:
            inner = b"".join(draw(st.lists(fields(depth + 1), max_size=2)))
            return tag + inner + varint(number << 3 | 4)
        case _:
            return tag


def agrees(data: bytes) -> None:
    """Check that our reader and Google's return the same status for some bytes, or both refuse them."""
    try:
        expected = google.HealthCheckResponse.FromString(data).status
    except message.DecodeError:
        with pytest.raises(ValueError, match=r"."):
            read_response(data)
    else:
        assert read_response(data) == expected


@given(st.lists(fields(), max_size=4), st.integers(0, 3))
def test_unknown_fields_are_skipped_as_protobuf_does(parts: list[bytes], missing: int) -> None:
    whole = b"".join(parts)
    agrees(whole[: len(whole) - missing])


@given(st.binary(max_size=30))
def test_any_bytes_are_read_or_refused_as_protobuf_does(data: bytes) -> None:
    agrees(data)


def test_status_inside_an_unknown_group_is_ignored() -> None:
    data = b"\x08\x01\x13\x08\x02\x14"  # status 1, then field 2: a group in which field 1 is 2
    assert read_response(data) == 1
    agrees(data)


@pytest.mark.parametrize("unknown", [b"\x78\x01", b"\x7a\x01a", b"\x79" + bytes(8), b"\x7d" + bytes(4)])
def test_health_response_has_a_limit_of_fields(unknown: bytes) -> None:
    most = unknown * (MAX_FIELDS - 1) + b"\x08\x01"
    assert read_response(most) == 1
    agrees(most)
    with pytest.raises(ValueError, match="more than 1,000 fields"):
        read_response(unknown + most)


def test_ends_of_groups_count_as_fields() -> None:
    groups = b"\x13\x14" * (MAX_FIELDS // 2)
    assert read_response(groups) == 0
    with pytest.raises(ValueError, match="more than 1,000 fields"):
        read_response(groups + b"\x08\x01")


@pytest.mark.parametrize(
    "data",
    [b"\x13" * 1000, b"\x13" * 101 + b"\x14" * 101, b"\xff" * 1000, b"\x22\xff\xff\xff\xff\x0f", b"\x08" * 9999],
)
def test_unbounded_nesting_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_response(data)
