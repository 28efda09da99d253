"""Test query strings, scrape timeouts and Accept-Encoding, as the original reads them."""

from __future__ import annotations

from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.cache import Cache, size_of
from probe_exporter.web.parameters import (
    MAX_QUERY_PARAMETERS,
    TooManyParameters,
    decode_query,
    is_repeated,
    probe_timeout,
    scrape_timeout,
    wants_gzip,
)
from tests.cost import costs_at_most


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("target=x", {"target": "x"}),
        ("target=x&module=y", {"target": "x", "module": "y"}),
        ("target=a&target=b", {"target": "a"}),
        ("target=http%3A%2F%2Fx%2F%3Fa%3D1%26b%3D2", {"target": "http://x/?a=1&b=2"}),
        ("target=http://x/?a=1", {"target": "http://x/?a=1"}),
        ("target=a+b%2Bc", {"target": "a b+c"}),
        ("target=caf%C3%A9", {"target": "café"}),
        ("target=caf\udcc3\udca9", {"target": "café"}),  # raw bytes as surrogates, as aiohttp passes them
        ("target=caf%E9", {"target": "caf\ufffd"}),
        ("target", {"target": ""}),
        ("target=", {"target": ""}),
        ("=x", {"": "x"}),
        ("&&target=x&", {"target": "x"}),
        ("t%61rget=x", {"target": "x"}),
        # Dropped entirely:
        ("target=a;b", {}),
        ("target=a&module=x;y", {"target": "a"}),
        ("target=a;target=b&target=c", {"target": "c"}),
        ("target=%zz", {}),
        ("target=%", {}),
        ("target=100%&target=b", {"target": "b"}),
        ("t%=x", {}),
        ("target=a%3Bb", {"target": "a;b"}),  # an escaped semicolon is an ordinary character
    ],
)
def test_query_is_decoded_as_go_does(query: str, parameters: dict[str, str]) -> None:
    assert decode_query(query) == parameters


@given(st.text())
def test_query_value_is_decoded_once(value: str) -> None:
    """This is the behaviour of the original 0.28.0; its development version unescapes the target twice."""
    assert decode_query(f"target={quote(quote(value))}") == {"target": quote(value)}
    assert decode_query(f"target={quote_plus(value)}") == {"target": value}


@given(st.text())
def test_query_decoder_accepts_any_text(query: str) -> None:
    for value in decode_query(query).values():
        value.encode()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("", 120.0),
        ("  ", 120.0),
        ("0", 120.0),
        ("10", 10.0),
        (" 10\t", 10.0),
        ("1e1", 10.0),
        ("0x1p3", 8.0),
        ("1_0", 10.0),
        ("-3", -3.0),
        ("inf", 120.0),
        ("1e300", 120.0),
        ("-1e300", 120.0),
        ("9e9", 9e9),
        ("-Inf", 120.0),
        ("nan", 120.0),
    ],
)
def test_scrape_timeout_header_is_read_as_the_original_does(header: str, seconds: float) -> None:
    assert scrape_timeout(header) == seconds


@pytest.mark.parametrize(
    ("header", "module", "offset", "effective"),
    [  # as in the original, except inf and nan, which it mishandles
        ("", 0, 0.5, 119.5),
        ("", 0, 0, 120),
        ("", 10, 0.5, 10),
        ("15", 0, 0.5, 14.5),
        ("15", 20, 0.5, 14.5),
        ("15", 5, 0.5, 5),
        ("10", 10, 0.5, 9.5),
        ("0.5", 5, 0.5, 0),
        ("0.4", 5, 0.5, 5),
        ("0.4", 0, 0.5, 0),
        ("-3", 5, 0.5, 5),
        ("inf", 0, 0.5, 119.5),
        ("nan", 5, 0.5, 5),
        ("10", 0, -1, 11),
        ("10", -2, 0.5, 9.5),
        ("0.4", -2, 0.5, -2),
    ],
)
def test_probe_timeout_follows_from_header_offset_and_module(
    header: str, module: float, offset: float, effective: float
) -> None:
    assert probe_timeout(scrape_timeout(header), offset, module) == pytest.approx(effective)


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("br, gzip;q=0.1", True),
        ("gzip, deflate, br, zstd", True),
        ("gzip ; q=1", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("br", False),
        ("*", False),
        ("x-gzip", False),
        ("identity;q=1, *;q=0", False),
    ],
)
def test_gzip_is_used_only_if_named_in_accept_encoding(header: str, wanted: bool) -> None:
    assert wants_gzip(header) is wanted


@pytest.mark.parametrize(
    ("query", "repeated"),
    [
        ("target=a", False),
        ("target=a&target=b", True),
        ("t%61rget=a&target=a", True),
        ("target=a&xtarget=b", False),
        ("target=a&target=%zz", False),
        ("", False),
    ],
)
def test_repeated_parameter_is_found_whatever_its_spelling(query: str, repeated: bool) -> None:
    assert is_repeated(query, "target") is repeated


# --- what a stranger sends ---------------------------------------------------------------------------------


def test_number_of_parameters_is_limited() -> None:
    names = [f"p{number}=" for number in range(MAX_QUERY_PARAMETERS)]
    assert len(decode_query("&".join(names))) == MAX_QUERY_PARAMETERS
    with pytest.raises(TooManyParameters, match="more than 256 parameters"):
        decode_query("&".join([*names, "one=more"]))


def test_cache_of_queries_is_bounded_in_bytes_and_keeps_no_bad_request() -> None:
    cache = getattr(decode_query, "__self__", None)
    assert isinstance(cache, Cache)
    for number in range(1000):
        decode_query(f"{number}=&" + "&".join(f"{'x' * 100}{key}={'y' * 100}" for key in range(200)))
        with pytest.raises(TooManyParameters):
            decode_query(f"{number}=&" + "&".join(f"p{key}=" for key in range(1000)))
    assert size_of(dict(cache)) + size_of(cache.old) < 6 << 20


@pytest.mark.parametrize(
    "header",
    ["1" * 65_000 + "x", "0x" + "1" * 65_000, "1_" * 32_000 + "x", "." * 65_000, "1e" + "1" * 65_000, " " * 65_000],
)
def test_timeout_header_of_any_length_is_read_in_linear_time(header: str) -> None:
    with costs_at_most(1):
        for _ in range(10):
            try:
                scrape_timeout(header)
            except ValueError as error:
                assert len(str(error)) < 200  # noqa: PT017  (blank headers are good)


@pytest.mark.parametrize(
    "header", ["gzip;" * 13_000, ";q=0.0" * 10_000, "," * 65_000, "gzip;q=0." + "0" * 65_000 + "x"]
)
def test_accept_encoding_of_any_length_is_read_in_linear_time(header: str) -> None:
    with costs_at_most(3):
        wants_gzip(header)
