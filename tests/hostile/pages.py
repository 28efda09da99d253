"""Pages of metrics, against the exporter prober."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.hostile.bodies import body
from tests.hostile.cases import MEBIBYTE, SUCCESS, TIMED_OUT, Case, Clients, Flood, Make, Part, against, ends
from tests.hostile.peers import tcp

CLIENTS: Clients = {
    "exporter": {
        "target": "http://127.0.0.1:{port}/metrics",
        "settings": {
            "require": {"lint": True},
            "formats": ["protobuf", "openmetrics", "text"],
            "reexpose": {"names": ["*"]},
            "metrics": [{"name": "a", "help": "A.", "from": {"regexp": "a (.*)"}}],
        },
        "ends": ends(
            "exporter_malformed", "exporter_too_many_samples", "exporter_lint", "http_body_too_large", "value_missing"
        )
        | {SUCCESS}
        | TIMED_OUT,
        "memory": 256 * MEBIBYTE,
        "timeout": 5.0,
    }
}


def _page(media: bytes, make: Make) -> dict[str, Any]:
    def parts() -> Sequence[Part]:
        return body(*make(), headers=b"Content-Type: " + media + b"\r\n")()

    return {"start": tcp(parts)}


def _labels(number: int) -> bytes:
    return b"a{" + b",".join(b'l%d="1"' % label for label in range(number)) + b"} 1\n"


_TEXT, _OPEN = b"text/plain; version=0.0.4", b"application/openmetrics-text; version=1.0.0"
_PROTO = b"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"


def _varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes((low | 128,)) + _varint(rest) if rest else bytes((low,))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _message(content: bytes) -> bytes:
    return _varint(len(content)) + content


_PAIR = _field(1, b"l") + _field(2, b"v")

PEERS: dict[str, dict[str, Any]] = {
    "24,000 labels a line": _page(_TEXT, lambda: [Flood(_labels(24_000), 40)]),
    "24,000 labels a line, OpenMetrics": _page(_OPEN, lambda: [Flood(_labels(24_000), 40), b"# EOF\n"]),
    "lines of 250 KB": _page(_TEXT, lambda: [Flood(b'a{l="' + b"x" * 250_000 + b'"} 1\n', 100)]),
    "lines of 250 KB of escapes": _page(_TEXT, lambda: [Flood(b'a{l="' + b"\\n" * 125_000 + b'"} 1\n', 100)]),
    "quotes without end": _page(_TEXT, lambda: [Flood(b'a{l="' + b'\\"' * 120_000 + b"} 1\n", 100)]),
    "braces": _page(_TEXT, lambda: [Flood(b"a" + b"{" * 250_000 + b"\n", 100)]),
    "commas": _page(_TEXT, lambda: [Flood(b"a{" + b"," * 250_000 + b"} 1\n", 100)]),
    "a line without end": _page(_TEXT, lambda: [Flood(b"x" * 65536, 512)]),
    "4 MB of newlines": _page(_TEXT, lambda: [Flood(b"\n", 4_000_000)]),
    "a million families": _page(_TEXT, lambda: [b"".join(b"a%d 1\n" % number for number in range(1_000_000))]),
    "a million TYPE lines": _page(
        _TEXT, lambda: [b"".join(b"# TYPE a%d gauge\n" % number for number in range(1_000_000))]
    ),
    "a million TYPE lines, OpenMetrics": _page(
        _OPEN, lambda: [b"".join(b"# TYPE a%d gauge\n" % number for number in range(1_000_000)), b"# EOF\n"]
    ),
    "a million comments": _page(_TEXT, lambda: [Flood(b"# x\n", 1_000_000)]),
    "HELP of 250 KB": _page(
        _TEXT, lambda: [b"".join(b"# HELP a%d %b\n" % (number, b"x" * 250_000) for number in range(200))]
    ),
    "100,000 duplicates": _page(_TEXT, lambda: [Flood(b'a{l="1"} 1\n', 100_000)]),
    "450,000 series": _page(_TEXT, lambda: [b"".join(b'a{l="%d"} 1\n' % number for number in range(450_000))]),
    "1,000 families of 1,000 labels": _page(
        _TEXT, lambda: [b"".join(_labels(1000).replace(b"a{", b"a%d{" % number, 1) for number in range(1000))]
    ),
    "numbers of 250 KB": _page(_TEXT, lambda: [Flood(b"a " + b"1" * 250_000 + b"\n", 100)]),
    "exponents of 250 KB": _page(_TEXT, lambda: [Flood(b"a 1e" + b"1" * 250_000 + b"\n", 100)]),
    "hexadecimal numbers of 250 KB": _page(_TEXT, lambda: [Flood(b"a 0x" + b"f" * 250_000 + b"\n", 100)]),
    "blanks of 250 KB": _page(_TEXT, lambda: [Flood(b"a" + b" " * 250_000 + b"1\n", 100)]),
    "exemplars of 250 KB": _page(
        _OPEN,
        lambda: [b"# TYPE a counter\n", Flood(b"a_total 1 # {" + b'l="' + b"x" * 250_000 + b'"} 1\n', 50), b"# EOF\n"],
    ),
    "a histogram of 150,000 buckets": _page(
        _TEXT,
        lambda: [b"# TYPE a histogram\n", b"".join(b'a_bucket{le="%d"} 1\n' % number for number in range(150_000))],
    ),
    "invalid UTF-8": _page(_TEXT, lambda: [Flood(b"a 1\n", 1000), Flood(b"\xff\n", 1_000_000)]),
    "protobuf: empty messages": _page(_PROTO, lambda: [Flood(b"\0", 16_000_000)]),
    "protobuf: a family of a million labels": _page(
        _PROTO, lambda: [_message(_field(1, b"a") + _field(4, b"".join([_field(1, _PAIR)] * 1_000_000)))]
    ),
    "protobuf: a family of a million metrics": _page(
        _PROTO, lambda: [_message(_field(1, b"a") + b"".join([_field(4, b"")] * 1_000_000))]
    ),
    "protobuf: a million unknown fields": _page(_PROTO, lambda: [_message(_field(1, b"a") + b"\x78\x01" * 1_000_000)]),
    "protobuf: long varints": _page(_PROTO, lambda: [Flood(b"\xff", 16_000_000)]),
    "protobuf: a million buckets": _page(
        _PROTO,
        lambda: [
            _message(
                _field(1, b"a") + b"\x18\x04" + _field(4, _field(7, b"".join([_field(3, b"\x08\x01")] * 1_000_000)))
            )
        ],
    ),
}

MANY = ("a million TYPE lines", "protobuf: a million buckets")
"""Pages that several probes read at once, which share the turns of the event loop."""


def cases() -> Iterator[Case]:
    """Yield the cases of this file."""
    yield from against(CLIENTS, PEERS)
    small: Clients = {"exporter": {**CLIENTS["exporter"], "settings": {}}}
    plain = {"text without demands": {**PEERS["24,000 labels a line"], "ends": CLIENTS["exporter"]["ends"] | {SUCCESS}}}
    yield from against(small, plain)
    copying = {**small["exporter"], "settings": {"reexpose": {"names": ["*"], "limit": 20_000}}}
    families = _page(_TEXT, lambda: [b"".join(b"a%d 1\n" % number for number in range(20_000))])
    yield from against({"exporter that copies all": copying}, {"20,000 families": families})
    at_once = {f"{peer}, 10 probes": {**PEERS[peer], "probes": 10} for peer in MANY}
    yield from against({"exporter": {**CLIENTS["exporter"], "memory": 512 * MEBIBYTE}}, at_once)
