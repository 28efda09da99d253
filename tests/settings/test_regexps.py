"""Matches of regular expressions: the same as the library's, and as Go reads bytes that are not UTF-8."""

from __future__ import annotations

import gc

import pytest
import re2  # type: ignore[import-untyped]  # it has neither stubs nor annotations
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.settings.regexps import MAX_REMEMBERED_BYTES, Regexp, replace_invalid

EXPRESSIONS = ("", "b", "(a)|(b)", "(?P<first>a+)(b)?", "^a*$", ".é")


@pytest.mark.parametrize("text", EXPRESSIONS)
@given(data=st.text("abé", max_size=8))
def test_match_has_the_groups_of_the_library(text: str, data: str) -> None:
    ours, theirs = Regexp(text).search(data.encode()), re2.compile(text).search(data.encode())
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert ours.groups() == theirs.groups()
        assert [ours.span(n) for n in range(theirs.re.groups + 1)] == [
            theirs.span(n) for n in range(theirs.re.groups + 1)
        ]


@pytest.mark.parametrize(("data", "rest"), [(b"id=7;", b""), (b"\xff\xffid=7;\xff", b"\xff")])
def test_group_has_the_bytes_received_by_number_and_by_name(data: bytes, rest: bytes) -> None:
    found = Regexp("id=(?P<id>[0-9]+);(.?)(x)?").search(data)
    assert found is not None
    assert (found.group("id"), found.group(1), found.group(2), found.group(3)) == (b"7", b"7", rest, None)


@given(
    st.lists(st.sampled_from((b"\xed", b"\xa0", b"\xb2", b"\xbf", b"\x80", b"\xf0\x9f", "é€𝄞\ufffd".encode(), b"a")))
)
def test_each_invalid_byte_becomes_one_replacement_character(parts: list[bytes]) -> None:
    data = b"".join(parts)
    escaped = data.decode("utf-8", "surrogateescape")
    expected = "".join("\ufffd" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in escaped)
    assert replace_invalid(data) == expected.encode()


@pytest.mark.parametrize("text", [*EXPRESSIONS, "\N{REPLACEMENT CHARACTER}"])
@given(data=st.binary(max_size=4) | st.text("abé", max_size=8).map(str.encode))
def test_matches_tells_whether_search_finds_a_match(text: str, data: bytes) -> None:
    assert Regexp(text).matches(data) is (Regexp(text).search(data) is not None)


def test_matches_answers_for_the_data_at_hand_however_often_they_change() -> None:
    regexp = Regexp("^b|\N{REPLACEMENT CHARACTER}")
    for data, answer in ((b"b", True), (b"b", True), (b"a", False), (b"a", False), (b"", False), (b"a\xff", True)) * 2:
        assert regexp.matches(data) is answer


def test_search_finds_in_the_data_at_hand_however_often_they_change() -> None:
    regexp = Regexp("(b)|(\N{REPLACEMENT CHARACTER}c)")
    for data, spans in (
        (b"ab", [(1, 2), (1, 2), (-1, -1)]),
        (bytes(bytearray(b"ab")), [(1, 2), (1, 2), (-1, -1)]),  # equal, and another object
        (b"aa", None),
        (b"\xff\xff\xffc", [(2, 4), (-1, -1), (2, 4)]),
        (b"", None),
        (bytes(MAX_REMEMBERED_BYTES) + b"b", [(MAX_REMEMBERED_BYTES, MAX_REMEMBERED_BYTES + 1)] * 2 + [(-1, -1)]),
    ) * 2:
        for _ in range(2):
            found = regexp.search(data)
            assert (found and [found.span(group) for group in range(3)]) == spans
            assert not found or found.group() == data[slice(*found.span())]
            assert regexp.matches(data) is (found is not None)


def test_short_data_are_remembered_and_no_others() -> None:
    regexp = Regexp("a")
    short, long = bytes(MAX_REMEMBERED_BYTES), bytes(MAX_REMEMBERED_BYTES) + b"a"
    assert not regexp.matches(short)
    assert regexp.matches(long)
    assert long not in gc.get_referents(regexp._last)
    assert short in gc.get_referents(regexp._last)
    grows = b"\xff" * (MAX_REMEMBERED_BYTES // 2)  # by replacement characters of three bytes
    assert not regexp.matches(grows)
    assert grows not in gc.get_referents(regexp._last)
