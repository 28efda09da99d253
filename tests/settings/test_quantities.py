"""Tests of durations and sizes: they are parsed and printed as Go does it, and round-trip."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.settings.quantities import format_duration, format_size, parse_duration, parse_float, parse_size

# --- durations ---------------------------------------------------------------------------------------------

GO_DURATIONS = {
    "0": 0.0,
    "-0": 0.0,
    "5s": 5.0,
    "1.5s": 1.5,
    ".5s": 0.5,
    "5.s": 5.0,
    "-5s": -5.0,
    "+5s": 5.0,
    "1h2m3s": 3723.0,
    "1s2ms": 1.002,
    "3s1h": 3603.0,
    "100us": 1e-4,
    "100\N{MICRO SIGN}s": 1e-4,
    "100\N{GREEK SMALL LETTER MU}s": 1e-4,
    "7ns": 7e-9,
    "0.3ns": 0.0,
    "9223372036854775807ns": 9223372036.854775807,
    "-9223372036854775808ns": -9223372036.854775808,
}
GO_REFUSES_DURATIONS = [
    "",
    "5",
    "1d",
    "1w",
    "1y",
    " 5s",
    "5s ",
    "5 s",
    "s",
    ".s",
    "1.5.5s",
    "5S",
    "1e3s",
    "0x5s",
    "--5s",
]
GO_PRINTS = {
    0.0: "0s",
    1e-9: "1ns",
    1e-4: "100µs",
    0.0015: "1.5ms",
    0.9: "900ms",
    1.5: "1.5s",
    60.0: "1m0s",
    90.0: "1m30s",
    3600.0: "1h0m0s",
    5445.25: "1h30m45.25s",
    -1.5: "-1.5s",
}


@pytest.mark.parametrize(("text", "seconds"), GO_DURATIONS.items())
def test_parse_duration_reads_as_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize("text", [*GO_REFUSES_DURATIONS, "9223372037s", "9223372036854775808ns"])
def test_parse_duration_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), GO_PRINTS.items())
def test_format_duration_prints_as_go(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_duration_round_trips_to_the_nanosecond(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds / 1e9)) == nanoseconds / 1e9


@given(st.text(alphabet="0123456789.+-nuµmshd ", max_size=12))
def test_parse_duration_accepts_or_refuses_any_text(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert abs(seconds) <= 9223372036.9


# --- sizes -------------------------------------------------------------------------------------------------

SIZES = {
    "0": 0,
    "10B": 10,
    "1KB": 1024,
    "1KiB": 1024,
    "10MB": 10 << 20,
    "1.5MB": 3 << 19,
    "1MB512KB": 3 << 19,
    "1MiB512KiB": 3 << 19,
    "1GB": 1 << 30,
    "1TB": 1 << 40,
    "1PB": 1 << 50,
    "8EB": 1 << 63,
    "-1KB": 0,
}
GO_REFUSES_SIZES = ["", "10", "1024", "10kb", "10K", "1 MB", "1MB1KiB", "1ZB", "KB", "9EB", "16EB", "0x10B", "1e3B"]


@pytest.mark.parametrize(("text", "size"), SIZES.items())
def test_parse_size_uses_powers_of_1024(text: str, size: int) -> None:
    """A negative number means no limit, as in the original."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", [*GO_REFUSES_SIZES, "9223372036854775807B"])
def test_parse_size_refuses_other_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|unit|large|digits"):
        parse_size(text)


@given(st.integers(0, 1 << 50))
def test_size_round_trips(size: int) -> None:
    assert parse_size(format_size(size)) == size


def test_format_size_prints_sums() -> None:
    assert [format_size(size) for size in (0, 10 << 20, 5 << 19, 1025)] == ["0B", "10MiB", "2MiB512KiB", "1KiB1B"]


# --- numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("-1.5", -1.5),
        ("+2", 2.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e1", 10.0),
        ("1E+2", 100.0),
        ("1_0", 10.0),
        ("0x1p3", 8.0),
        ("0X.8P1", 1.0),
        ("0x_1p3", 8.0),
        ("inf", math.inf),
        ("+Infinity", math.inf),
        ("-INF", -math.inf),
        ("1e-400", 0.0),
    ],
)
def test_parse_float_accepts_what_go_accepts(text: str, value: float) -> None:
    assert parse_float(text) == value


def test_parse_float_accepts_nan() -> None:
    assert math.isnan(parse_float("NaN"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        " 1",
        "1 ",
        "abc",
        "1s",
        "1,5",
        "0x1",
        "0x",
        "_1",
        "1_",
        "1__0",
        "1_.5",
        "1._5",
        "e5",
        ".",
        "+nan",
        "1e400",
        "-1e400",
        "0x1p5000",
        "٣",
        "1e",
        "--1",
        "infin",
    ],
)
def test_parse_float_refuses_what_go_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number|is out of range"):
        parse_float(text)
