"""The parts of a gRPC call without I/O: metadata, messages and the status, for any bytes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.prober.failure import Reason
from probe_exporter.protocols.grpc.call import (
    MAX_MESSAGE_BYTES,
    CallFailed,
    Status,
    announced,
    check_head,
    check_status,
    framed,
    metadata_fields,
    unframed,
)
from probe_exporter.protocols.http.http2 import Http2ResponseReader
from tests.targets import http2
from tests.targets.grpc import OPENED, message, trailers
from tests.targets.http2 import data, head, headers

# --- metadata ----------------------------------------------------------------------------------------------


def test_metadata_is_sent_in_order_value_by_value() -> None:
    given = {"x-b": ("2", "1"), "x-a": ("",), "authorization": ("Bearer ~ !",)}
    assert metadata_fields(given) == [
        (b"x-b", b"2"), (b"x-b", b"1"), (b"x-a", b""), (b"authorization", b"Bearer ~ !")
    ]  # fmt: skip


def test_binary_metadata_is_base64_without_padding() -> None:
    assert metadata_fields({"x-bin": ("\udcff\x00", "grün", "")}) == [
        (b"x-bin", b"/wA"), (b"x-bin", b"Z3LDvG4"), (b"x-bin", b"")
    ]  # fmt: skip


def test_metadata_can_not_set_fields_of_the_call() -> None:
    own = ("content-type", "te", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-status", ":path", ":authority")
    assert metadata_fields(dict.fromkeys(own, ("x",)) | {"grpc-tags": ("y",)}) == [(b"grpc-tags", b"y")]


@pytest.mark.parametrize("key", ["X-A", "x a", "", "grün", "x\n", "x:y", "-BIN"])
def test_metadata_key_that_http2_does_not_allow_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="characters other than"):
        metadata_fields({key: ("1",)})


@pytest.mark.parametrize("value", ["grün", "a\nb", "a\tb", "\x7f", "\udcff"])
def test_metadata_value_that_is_no_text_is_refused_and_not_quoted(value: str) -> None:
    with pytest.raises(ValueError, match="the value of x-a is not printable ASCII") as refused:
        metadata_fields({"x-a": ("good", value)})
    assert value not in str(refused.value)


# --- messages ----------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_message_is_read_back(content: bytes) -> None:
    assert unframed(framed(content)) == content
    assert framed(content) == message(content)


def failure(data: bytes) -> tuple[int, str]:
    with pytest.raises(CallFailed) as failed:
        unframed(data)
    return failed.value.status, failed.value.reason


@pytest.mark.parametrize(
    "body",
    [b"", b"\0", b"\0\0\0\0", message(b"abc")[:-1], message(b"a") + message(b"b"), message() + message(),
     message(b"a", flag=1), message(b"a", flag=255), message(b"a", length=2)],
)  # fmt: skip
def test_body_other_than_one_whole_plain_message_is_refused(body: bytes) -> None:
    assert failure(body) == (Status.INTERNAL, Reason.GRPC_PROTOCOL_ERROR)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_message_or_refused(body: bytes) -> None:
    with suppress(CallFailed):
        whole = framed(unframed(body))
        assert body.startswith(whole)
        assert len(body) < len(whole) + 5


def test_message_larger_than_the_limit_is_refused_by_its_announced_length() -> None:
    start = message(length=MAX_MESSAGE_BYTES + 1)
    assert announced(start[:4]) == 0
    with pytest.raises(CallFailed, match=f"{MAX_MESSAGE_BYTES + 1} bytes") as failed:
        announced(start)
    assert failed.value.status == Status.RESOURCE_EXHAUSTED
    assert announced(message(length=MAX_MESSAGE_BYTES)) == MAX_MESSAGE_BYTES


# --- the status --------------------------------------------------------------------------------------------


def response(*frames: bytes) -> Http2ResponseReader:
    """Return a response that has arrived completely."""
    reader = Http2ResponseReader("POST")
    reader.feed(http2.settings() + b"".join(frames))
    while reader.pending:
        reader.proceed()
    assert reader.complete
    return reader


def ended(*frames: bytes) -> CallFailed:
    with pytest.raises(CallFailed) as failed:
        check_status(response(*frames))
    return failed.value


TYPE = ("content-type", "application/grpc")


def test_successful_call_has_status_0_in_its_trailers() -> None:
    check_status(response(OPENED, data(message(), end=False), trailers()))


def test_status_in_a_head_without_body_is_read() -> None:
    failed = ended(head(200, TYPE, ("grpc-status", "5"), ("grpc-message", "no such"), end=True))
    assert (failed.status, failed.reason) == (5, Reason.GRPC_SERVICE_UNKNOWN)
    assert failed.message == "the call ended with status 5 (NOT_FOUND): no such"


def test_status_in_a_head_with_body_is_ignored() -> None:
    frames = (head(200, TYPE, ("grpc-status", "5")), data(message(), end=False), trailers())
    check_status(response(*frames))


@pytest.mark.parametrize(
    ("sent", "shown"),
    [("gr%C3%BCn", "grün"), ("100%25", "100%"), ("%zz %", "%zz %"), ("%ff", "\ufffd"), ("%0A", "\n"), ("a+b", "a+b")],
)
def test_status_message_is_percent_decoded(sent: str, shown: str) -> None:
    assert ended(OPENED, trailers(14, sent)).message == f"the call ended with status 14 (UNAVAILABLE): {shown}"


def test_status_message_is_bounded() -> None:
    assert len(ended(OPENED, trailers(14, "x" * 100_000)).message) < 300


def test_unknown_status_number_is_kept() -> None:
    assert ended(OPENED, trailers(99)).status == 99


@pytest.mark.parametrize("written", ["", "OK", "1.0", "0x1", "²", "1" * 5000, str(2**31), " 0"])
def test_status_that_is_no_number_is_a_protocol_error(written: str) -> None:
    failed = ended(OPENED, trailers(written))
    assert (failed.status, failed.reason) == (Status.UNKNOWN, Reason.GRPC_PROTOCOL_ERROR)
    assert len(failed.message) < 300


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (200, 2),
        (400, 13),
        (401, 16),
        (403, 7),
        (404, 12),
        (429, 14),
        (500, 2),
        (502, 14),
        (503, 14),
        (504, 14),
        (418, 2),
    ],
)
def test_http_status_replaces_a_missing_grpc_status(code: int, status: int) -> None:
    """The table is that of the gRPC project's http-grpc-status-mapping."""
    assert ended(head(code, TYPE, end=True)).status == status
    assert ended(head(code, TYPE), data(message(), end=False), headers(("x-a", "1"), end=True)).status == status
    with pytest.raises(CallFailed) as failed:
        check_head(response(head(code, ("content-type", "text/html"), ("grpc-status", "0"), end=True)))
    assert (failed.value.status, failed.value.reason) == (status, Reason.GRPC_NOT_GRPC)


def test_response_without_trailers_is_a_protocol_error() -> None:
    failed = ended(OPENED, data(message()))
    assert (failed.status, failed.reason) == (Status.INTERNAL, Reason.GRPC_PROTOCOL_ERROR)


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto", "application/grpc; charset=utf-8"])
def test_grpc_response_is_recognised_by_its_content_type(kind: str) -> None:
    check_head(response(head(503, ("content-type", kind), end=True)))
