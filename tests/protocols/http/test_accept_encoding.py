"""Check Accept-Encoding headers against a configured compression: each line is the original's verdict on the pair."""

from __future__ import annotations

import pytest

from probe_exporter.protocols.http.content import accepts

ALLOWED = [
    "gzip",
    "*",
    "br;q=1, *;q=0.5",
    "gzip;q=0, *",
    "gzip;q=0.0006",
    "gzip; q=0.5",
    "gzip;q=1_0",
    " gzip ",
    "gzip ;q=1",
]
ALLOWED += ["gzip;q=0x1p1", "gzip;q=inf", "gzip;1", "deflate, gzip;q=1.0, *;q=0.5", "*;q=0, gzip;q=0.5", "gzip;q=.5"]
REFUSED = ["", "br", "GZIP", "*;q=0", "*;q=0, gzip;q=0", "gzip;q=0.0004", "gzip;q=-1", "gzip;q=x", "gzip;q= 1"]
REFUSED += ["gzip;x=1;q=1", "gzip;q=0;x=1", "gzip;Q=1", "gzip;", "gzip;q=", "gzip;q=nan", ","]


@pytest.mark.parametrize("header", ALLOWED)
def test_accept_encoding_allows_gzip(header: str) -> None:
    assert accepts(header, "gzip")


@pytest.mark.parametrize("header", REFUSED)
def test_accept_encoding_does_not_allow_gzip(header: str) -> None:
    assert not accepts(header, "gzip")
