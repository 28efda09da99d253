"""DNS records as text, as the original prints them: users' regular expressions match that text."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.message import Record, decode
from probe_exporter.protocols.dns.wire import Malformed
from tests.targets.dns import Says, name, opt, record
from tests.targets.dns_records import BROKEN, OPTIONS, OWNER, RECORDS

QUERY = b"\0\0\1\0\0\1\0\0\0\0\0\0" + name(OWNER) + b"\0\1\0\1"


def read(*answer: bytes) -> tuple[Record, ...]:
    """Return the records of an answer section."""
    return decode(Says(answer)(QUERY)[0]).answer  # type: ignore[arg-type]


def text_of(one: bytes) -> str:
    return read(one)[0].text


@pytest.mark.parametrize(("type_", "data", "text"), RECORDS)
def test_record_text_equals_the_original_s(type_: str | int, data: str | bytes, text: str) -> None:
    assert text_of(record(OWNER, type_, data)) == text


@pytest.mark.parametrize(("type_", "data"), BROKEN)
def test_malformed_record_is_refused(type_: str | int, data: bytes) -> None:
    with pytest.raises(Malformed):
        read(record(OWNER, type_, data))


@pytest.mark.parametrize(("type_", "data", "text"), RECORDS)
def test_truncated_record_is_read_or_malformed(type_: str | int, data: str | bytes, text: str) -> None:
    """Wherever the record ends, it is read or raises Malformed; nothing else is raised."""
    whole = record(OWNER, type_, data)
    head = len(name(OWNER)) + 10
    for size in range(len(whole) - head):
        cut = whole[: head - 2] + size.to_bytes(2, "big") + whole[head : head + size]
        try:
            read(cut)
        except Malformed:
            continue


@pytest.mark.parametrize(("options", "text"), OPTIONS)
def test_opt_record_text_equals_the_original_s(options: bytes, text: str) -> None:
    assert text_of(opt(options)) == text


def test_opt_record_text_has_flags_and_version() -> None:
    assert text_of(opt(size=4096, ttl=0x18000)) == "\n;; OPT PSEUDOSECTION:\n; EDNS: version 1; flags: do; udp: 4096"


OWNERS = {
    b"\0": ".",
    b"\4MiXe\4tEST\0": "MiXe.tEST.",
    b"\xc0\x0c": "w.test.",
    b"\1a\xc0\x0e": "a.test.",
    b"\5a.b c\3\"'@\4;();\3\\\xc3\xa9\0": r"a\.b\ c.\"\'\@.\;\(\)\;.\\\195\169.",
    b"\4a$b_\2-*\0": "a$b_.-*.",
    b"\3\0\x7f \0": r"\000\127\ .",
}


@pytest.mark.parametrize(("wire", "text"), OWNERS.items())
def test_owner_name_is_absolute_and_escaped(wire: bytes, text: str) -> None:
    assert text_of(record(wire, "A", "192.0.2.1")) == f"{text}\t300\tIN\tA\t192.0.2.1"


LONG = b"\x3f" + b"a" * 63
NO_NAMES = {
    "pointer loop": b"\xc0" + bytes([12 + 8 + 4]),  # points to itself
    "truncated pointer": b"\xc0",
    "label of unknown type": b"\x80\0",
    "truncated label": b"\x3fabc",
    "longer than 255": LONG * 4 + b"\0",
    "no end": b"\1a",
}


@pytest.mark.parametrize("wire", NO_NAMES.values(), ids=NO_NAMES)
def test_malformed_name_is_refused(wire: bytes) -> None:
    with pytest.raises(Malformed):
        decode(Says([wire])(QUERY)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("class_", "text"), [(3, "CH"), (4, "HS"), (2, "CS"), (254, "NONE"), (255, "ANY"), (9, "CLASS9")]
)
def test_class_text_is_its_name(class_: int, text: str) -> None:
    assert text_of(record("ch.test", "TXT", b"\5chaos", 30, class_)) == f'ch.test.\t30\t{text}\tTXT\t"chaos"'


def test_unknown_type_is_written_as_numbers_with_its_class() -> None:
    assert text_of(record("unk.test", 65280, b"abc", 30)) == "unk.test.\t30\tCLASS1\tTYPE65280\t\\# 3 616263"


def test_apl_prefix_of_unknown_family_is_malformed() -> None:
    with pytest.raises(Malformed):
        read(record(OWNER, "APL", bytes(4)))


@given(st.sampled_from(sorted(TYPES.values())), st.binary(max_size=60))
def test_record_of_random_data_is_read_or_malformed(type_: int, data: bytes) -> None:
    """Any record data is read, or raises Malformed."""
    with suppress(Malformed):
        read(record(b"\0", type_, data))


@given(st.binary(max_size=120))
def test_message_of_random_bytes_is_read_or_malformed(message: bytes) -> None:
    with suppress(Malformed):
        decode(message)
