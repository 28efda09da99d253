"""What a request says, decoded the way Go decodes it: no I/O, nothing but text and numbers.

People's scrape configs were written against a Go program; what that took, dropped or refused is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from probe_exporter.settings.quantities import parse_float

_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

NO_HEADER_SECONDS = 120.0
"""The scrape timeout of a client that names none, such as a person with curl."""

LONGEST_SECONDS = 9e9
"""About as far as Go's durations reach; no Prometheus waits for 285 years."""


@lru_cache(maxsize=4096)  # a Prometheus asks the same again and again
def decode_query(query: str) -> Mapping[str, str]:
    """The parameters of a raw query string, decoded once; of repeated ones, the first.

    A pair with a raw ``;`` or a malformed ``%`` escape is dropped as a whole, ``+`` is a blank, and bytes that are
    not UTF-8 become U+FFFD.
    """
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        if not pair or ";" in pair:
            continue
        if "%" in pair or "+" in pair or not pair.isascii():
            if _BAD_ESCAPE.search(pair):
                continue
            key, _, value = pair.replace("+", " ").partition("=")
            parameters.setdefault(_unescape(key), _unescape(value))
        else:
            key, _, value = pair.partition("=")
            parameters.setdefault(key, value)
    return parameters


def _unescape(text: str) -> str:
    if text.isascii() and "%" not in text:
        return text
    # The server decodes a request line with surrogateescape: what is not UTF-8 comes out as it came in.
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


@lru_cache(maxsize=256)
def scrape_timeout(header: str) -> float:
    """The seconds that ``X-Prometheus-Scrape-Timeout-Seconds`` grants.

    Without the header, with 0, and with what no clock can count to, it is `NO_HEADER_SECONDS`.

    Raises:
        ValueError: the header is not a number.
    """
    text = header.strip(" \t")
    seconds = parse_float(text) if text else 0.0
    return seconds if seconds and abs(seconds) <= LONGEST_SECONDS else NO_HEADER_SECONDS


def probe_timeout(scrape: float, offset: float, module: float) -> float:
    """The seconds that a probe gets: the scrape timeout less the offset, or the module's own if that is shorter.

    A scrape timeout below the offset leaves the decision to the module, as the original does; then, and where the
    two are equal, the result may be 0 or negative, and the probe fails at once.

    Args:
        scrape: what `scrape_timeout` says.
        offset: ``--timeout-offset``, the time kept for the answer to travel.
        module: the module's ``timeout``, 0 if it has none.
    """
    most = scrape - offset
    return module if 0 < module < most or most < 0 else most


@lru_cache(maxsize=256)
def wants_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header asks for gzip by name."""
    for entry in accept_encoding.split(","):
        coding, *parameters = entry.replace(" ", "").lower().split(";")
        if coding == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False
