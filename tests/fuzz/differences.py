"""Comparisons with other implementations: HTTP/1 with h11 and httptools, DNS with dnspython, HPACK with hpack.

Each disagreement must be one of `KNOWN`, which says why it is right to disagree. A new one fails.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dns.exception
import dns.message
import h11
import hpack
import httptools

from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.protocols.dns import message
from probe_exporter.protocols.dns.wire import Malformed
from probe_exporter.protocols.http.header_block import Decoder
from probe_exporter.protocols.http.http1 import ResponseReader

LIMIT = 65536


class Verdict(NamedTuple):
    """What an implementation makes of the input; None if it refuses it."""

    status: int
    body: bytes


class Known(NamedTuple):
    """A disagreement that is known.

    Attributes:
        why: the reason for it.
        applies: whether the input and both verdicts are of this kind.
    """

    why: str
    applies: Callable[[bytes, Any, Any], object]


def _head(data: bytes) -> bytes:
    """Return the heads of a response, interim ones included, as far as they can be told from the body."""
    head = b""
    while found := re.match(rb"(?s)HTTP/.*?\n\r?\n", data):
        head, data = head + found[0], data[found.end() :]
        if not re.match(rb"HTTP/1\.\d +1(?!01)", found[0]):
            return head
    return head + data


def _ours(data: bytes) -> Verdict | None:
    """Read a response whose connection ends after the data."""
    reader = ResponseReader("GET")
    body = b""
    try:
        for piece in (data, b""):
            reader.feed(piece)
            while taken := reader.take_body():
                body += taken
    except ProbeFailed:
        return None
    return Verdict(reader.status, body) if reader.complete else None


def _of_h11(data: bytes) -> Verdict | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMIT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Verdict(status, body)
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


class _Callbacks:
    """Collects what httptools reads."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = 0
        self.status = 0
        self.parser: Any = None

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        if not 100 <= self.status < 200 or self.status == 101:
            self.complete += 1


def _of_httptools(data: bytes) -> Verdict | None:
    callbacks = _Callbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    try:
        callbacks.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        if not callbacks.complete:
            return None
    return Verdict(callbacks.status, callbacks.body) if callbacks.complete else None


KNOWN_HTTP1: tuple[Known, ...] = (
    Known(
        "Like Go, we read what h11 or llhttp refuse: lines that end in LF, blanks in names, folded lines, bytes beyond "
        "ASCII, repeated Content-Length of the same value, several blanks in the status line, any version 0.0 to 9.9.",
        lambda data, ours, theirs: theirs is None,
    ),
    Known(
        "We refuse control characters, a bare CR, a first line that is folded, names that are no tokens, and a "
        "Transfer-Encoding but `chunked`, as Go does; h11 and llhttp read some of them.",
        lambda data, ours, theirs: ours is None,
    ),
    Known(
        "Transfer-Encoding means nothing before HTTP/1.1 (RFC 9112, section 6.1).",
        lambda data, ours, theirs: re.search(rb"(?i)HTTP/(0|1\.0)(.|\n)*transfer-encoding", _head(data)),
    ),
    Known(
        "After 101 with an Upgrade header another protocol follows, which we pass on.",
        lambda data, ours, theirs: ours is not None and ours.status == 101,
    ),
    Known(
        "An empty Content-Length is none, as in Go.",
        lambda data, ours, theirs: re.search(rb"(?im)^content-length:[ \t]*\r?$", _head(data)),
    ),
    Known(
        "Go reads the codes +12 and -00 of three characters.",
        lambda data, ours, theirs: re.match(rb"HTTP/\S+ +[-+]", data),
    ),
)


def _compare_http1(theirs: Callable[[bytes], Verdict | None]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        _judge(KNOWN_HTTP1, data, _ours(data), theirs(data))

    return target


def _judge(known: tuple[Known, ...], data: bytes, ours: object, theirs: object) -> None:
    if ours != theirs:
        assert any(one.applies(data, ours, theirs) for one in known), f"a new disagreement: {ours!r} and {theirs!r}"


# --- HPACK -------------------------------------------------------------------------------------------------

KNOWN_HPACK: tuple[Known, ...] = (
    Known(
        "We refuse a number of more than five bytes beyond its first, which hpack reads.",
        lambda data, ours, theirs: ours is None and re.search(rb"[\x80-\xff]{5}", data),
    ),
    Known(
        "hpack refuses a change of the table's size after a field; Go reads it, and so do we.",
        lambda data, ours, theirs: theirs is None and any(0x20 <= byte < 0x40 for byte in data),
    ),
    Known(
        "We count a change of the table's size as 32 bytes of the fields.",
        lambda data, ours, theirs: ours is None and any(0x20 <= byte < 0x40 for byte in data),
    ),
)


def _our_hpack(data: bytes) -> object:
    decoder = Decoder(LIMIT)
    try:
        decoder.feed(data)
        return decoder.end()
    except ProbeFailed:
        return None


def _their_hpack(data: bytes) -> object:
    decoder = hpack.Decoder(max_header_list_size=LIMIT)
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(data, raw=True)]
    except hpack.HPACKError:
        return None


def hpack_hpack(data: bytes) -> None:
    """Compare header blocks with those of hpack."""
    _judge(KNOWN_HPACK, data, _our_hpack(data), _their_hpack(data))


# --- DNS ---------------------------------------------------------------------------------------------------

KNOWN_DNS: tuple[Known, ...] = (
    Known(
        "We decode no records of the sections that a count promises beyond the end of the message; dnspython refuses "
        "them. We keep records of unknown or odd content that dnspython refuses.",
        lambda data, ours, theirs: theirs is None,
    ),
    Known(
        "We refuse names of more than 126 pointers and content that the original can't decode.",
        lambda data, ours, theirs: ours is None,
    ),
    Known(
        "dnspython keeps OPT and TSIG apart, merges equal records of a set, and leaves out repeated ones.",
        lambda data, ours, theirs: ours[:2] == theirs[:2] and all(
            mine >= other for mine, other in zip(ours[2], theirs[2], strict=True)
        ),
    ),
)  # fmt: skip


def _our_dns(data: bytes) -> tuple[int, int, tuple[int, int, int]] | None:
    try:
        response = message.decode(data)
    except Malformed:
        return None
    return response.number, response.flags, (len(response.answer), len(response.authority), len(response.additional))


def _their_dns(data: bytes) -> tuple[int, int, tuple[int, int, int]] | None:
    try:
        with contextlib.suppress(dns.message.TrailingJunk):
            read = dns.message.from_wire(data, ignore_trailing=True, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError, KeyError, IndexError, NotImplementedError, UnicodeError):
        return None
    return read.id, int.from_bytes(data[2:4], "big"), (len(read.answer), len(read.authority), len(read.additional))


def dns_dnspython(data: bytes) -> None:
    """Compare the numbers of records with those that dnspython reads."""
    _judge(KNOWN_DNS, data, _our_dns(data), _their_dns(data))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "dns_dnspython": dns_dnspython,
    "hpack_hpack": hpack_hpack,
    "http1_h11": _compare_http1(_of_h11),
    "http1_httptools": _compare_http1(_of_httptools),
}
