"""Parse JSON as Go's encoding/json does; `tests.peers.http_cases` holds the same beside the original."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.values.documents import parse

ACCEPTED: dict[str, tuple[bytes, Any]] = {
    "a number": (b" 1\r\n", 1),
    "a fraction": (b"-0.5e1", -5.0),
    "underflow": (b"1e-999", 0.0),
    "the largest double": (b"1.7976931348623157e308", 1.7976931348623157e308),
    "bytes that are not UTF-8": (b'"a\xff\xc3(\xe2\x82"', "a\ufffd\ufffd(\ufffd\ufffd"),
    "surrogates in UTF-8": (b'"\xed\xa0\x80"', "\ufffd\ufffd\ufffd"),
    "a pair of surrogates": (rb'"\ud83d\ude00"', "\U0001f600"),
    "a high surrogate alone": (rb'"\ud83dx"', "\ufffdx"),
    "a low surrogate alone": (rb'"\uDE00"', "\ufffd"),
    "two high surrogates and a low one": (rb'"\ud83d\ud83d\ude00"', "\ufffd\U0001f600"),
    "a high surrogate and another escape": (rb'"\ud83d\u0041"', "\ufffdA"),
    "no surrogate after an escaped backslash": (rb'"\\ud83d"', r"\ud83d"),
    "a surrogate after an escaped backslash": (rb'"\\\ud83d"', "\\\ufffd"),
    "a key that is not UTF-8": (b'{"\xff": 1}', {"\ufffd": 1}),
    "the last of two equal keys": (b'{"a": 1, "a": 2}', {"a": 2}),
    "DEL in a text": (b'"\x7f"', "\x7f"),
}
REFUSED = {
    "nothing": b"",
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "NaN in a list": b"[1, NaN]",
    "a byte order mark": b"\xef\xbb\xbf1",
    "UTF-16": '"a"'.encode("utf-16"),
    "UTF-16 without a mark": '"a"'.encode("utf-16-le"),
    "a number beyond the range": b"1e999",
    "a negative number beyond the range": b"[-1e309]",
    "a whole number beyond the range": b"1" * 310,
    "a number with 5000 digits": b"1" * 5000,
    "a leading zero": b"01",
    "a plus sign": b"+1",
    "a bare fraction": b".5",
    "a tab in a text": b'"a\tb"',
    "an unknown escape": rb'"\x41"',
    "a short escape": rb'"\ud8"',
    "something after the end": b"1 2",
    "a comma at the end": b"[1,]",
    "single quotes": b"'a'",
    "a comment": b"1 // one",
    "another space": b"\xc2\xa01",
    "bytes outside of a text": b"\xff",
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize(("text", "value"), ACCEPTED.values(), ids=ACCEPTED)
def test_document_is_parsed_as_in_go(text: bytes, value: object) -> None:
    assert parse(text) == value
    assert parse(text, doubles=True) == value


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_document_that_go_refuses_is_refused(text: bytes) -> None:
    for doubles in (True, False):
        with pytest.raises(ValueError, match="the body is not JSON, or nested too deep"):
            parse(text, doubles=doubles)


def test_numbers_are_exact_unless_doubles_are_wanted() -> None:
    assert repr(parse(b"[1, 12345678901234567890, 1.0]")) == "[1, 12345678901234567890, 1.0]"
    assert repr(parse(b"[1, 12345678901234567890]", doubles=True)) == "[1.0, 1.2345678901234567e+19]"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.booleans(),
)
def test_any_document_is_parsed_as_by_the_json_module(document: object, ascii: bool) -> None:
    assert parse(json.dumps(document, ensure_ascii=ascii).encode()) == document
