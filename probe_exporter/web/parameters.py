"""Decode a request's query string and headers the way Go's net/http does, so that existing scrape configs keep working.

Every limit here bounds what one request can cost: see `MAX_QUERY_PARAMETERS` and `MAX_TIMEOUT_CHARACTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from sys import getsizeof
from urllib.parse import unquote_to_bytes

from probe_exporter.cache import MAX_USUAL_BYTES, remembered
from probe_exporter.settings.quantities import parse_float

_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")

NO_HEADER_SECONDS = 120.0
"""The scrape timeout of a client that sends none, such as a person with curl."""

MAX_TIMEOUT_SECONDS = 9e9
"""About the longest duration in Go; no Prometheus waits for 285 years."""

MAX_TIMEOUT_CHARACTERS = 64
"""Prometheus writes at most 24. Reading a number takes longer than linear time, so a header of 64 KiB must not be."""

MAX_QUERY_PARAMETERS = 256
"""A module has a few parameters. 64 KiB of short ones would take 1.4 MB in memory."""

MAX_QUERY_CACHE_BYTES = 32 << 20
"""For the queries of 20,000 targets, each some 700 bytes, in one of the two generations of a cache."""

MAX_HEADER_CACHE_BYTES = 256 << 10
"""For the decoded values of one header: a few dozen Prometheus servers send a few dozen values."""


class TooManyParameters(ValueError):
    """A query string has more than `MAX_QUERY_PARAMETERS` parameters."""


def _weight(query: str, parameters: Mapping[str, str]) -> int:
    texts = sum(map(getsizeof, parameters)) + sum(map(getsizeof, parameters.values()))
    return getsizeof(query) + getsizeof(parameters) + texts


@remembered(MAX_QUERY_CACHE_BYTES, _weight, MAX_USUAL_BYTES)  # a Prometheus sends the same queries again and again
def decode_query(query: str) -> Mapping[str, str]:
    """Return the parameters of a raw query string, decoded once; of repeated ones, the first.

    A pair with a raw ``;`` or a malformed ``%`` escape is dropped as a whole, ``+`` is a blank, and bytes that are
    not UTF-8 become U+FFFD.

    Raises:
        TooManyParameters: there are more than `MAX_QUERY_PARAMETERS`.
    """
    parameters: dict[str, str] = {}
    for key, value in _pairs(query):
        parameters.setdefault(key, value)
    return parameters


def is_repeated(query: str, name: str) -> bool:
    """Return whether a raw query string has a parameter more than once."""
    return sum(key == name for key, _ in _pairs(query)) > 1


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    """Yield each parameter's name and value, decoded.

    Raises:
        TooManyParameters: there are more than `MAX_QUERY_PARAMETERS`.
    """
    if query.count("&") >= MAX_QUERY_PARAMETERS:
        raise TooManyParameters(f"The query has more than {MAX_QUERY_PARAMETERS} parameters")
    for pair in query.split("&"):
        if not pair or ";" in pair:
            continue
        if "%" in pair or "+" in pair or not pair.isascii():
            if _BAD_ESCAPE.search(pair):
                continue
            key, _, value = pair.replace("+", " ").partition("=")
            yield _unescape(key), _unescape(value)
        else:
            key, _, value = pair.partition("=")
            yield key, value


def _unescape(text: str) -> str:
    if text.isascii() and "%" not in text:
        return text
    # The server decodes a request line with surrogateescape; encode it the same way to get the original bytes.
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")


@remembered(MAX_HEADER_CACHE_BYTES)
def scrape_timeout(header: str) -> float:
    """Return the seconds in a ``X-Prometheus-Scrape-Timeout-Seconds`` header.

    An empty header, 0, and a number that no clock can count to mean `NO_HEADER_SECONDS`.

    Raises:
        ValueError: the header is not a number.
    """
    text = header.strip(" \t")
    if len(text) > MAX_TIMEOUT_CHARACTERS:
        raise ValueError(f"it has more than {MAX_TIMEOUT_CHARACTERS} characters")
    seconds = parse_float(text) if text else 0.0
    return seconds if seconds and abs(seconds) <= MAX_TIMEOUT_SECONDS else NO_HEADER_SECONDS


def probe_timeout(scrape: float, offset: float, module: float) -> float:
    """Return a probe's timeout in seconds: the scrape timeout minus the offset, or the module's own if that is shorter.

    A scrape timeout below the offset leaves the decision to the module, as in the original. Then, and if the two are
    equal, the result may be 0 or negative, and the probe fails at once.

    Args:
        scrape: the result of `scrape_timeout`.
        offset: ``--timeout-offset``, the seconds reserved for the response to travel.
        module: the module's ``timeout``, 0 if it has none.
    """
    most = scrape - offset
    return module if 0 < module < most or most < 0 else most


@remembered(MAX_HEADER_CACHE_BYTES)
def wants_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header asks for gzip by name."""
    for entry in accept_encoding.split(","):
        coding, *parameters = entry.replace(" ", "").lower().split(";")
        if coding == "gzip":
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False
