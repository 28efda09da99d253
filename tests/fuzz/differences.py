"""Comparisons with other implementations: HTTP/1 with h11 and httptools, DNS with dnspython, HPACK with hpack.

Each disagreement must be one of `KNOWN`, which says why it is right to disagree. A new one fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import dns.message
import h11
import hpack
import httptools

from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.protocols.dns import message
from probe_exporter.protocols.dns.wire import Malformed
from probe_exporter.protocols.http.header_block import Decoder
from probe_exporter.protocols.http.http1 import Http1ResponseReader

LIMIT = 65536


class Verdict(NamedTuple):
    """What an implementation reads of a response."""

    status: int
    body: bytes


class Refused(NamedTuple):
    """An implementation refuses the input, in these words."""

    why: str


Outcome = Verdict | Refused


class Known(NamedTuple):
    """A disagreement that is known.

    Attributes:
        why: the reason for it.
        applies: whether the input and both outcomes are of this kind.
    """

    why: str
    applies: Callable[[bytes, Any, Any], object]


def theirs_refuse(words: str, why: str) -> Known:
    """Return a disagreement: the other implementation refuses the input in such words, and we read it."""
    return Known(why, lambda data, ours, theirs: isinstance(theirs, Refused) and re.search(words, theirs.why))


def we_refuse(words: str, why: str) -> Known:
    """Return a disagreement: we refuse the input in such words, and the other implementation reads it."""
    return Known(why, lambda data, ours, theirs: isinstance(ours, Refused) and re.search(words, ours.why))


def _judge(known: tuple[Known, ...], data: bytes, ours: object, theirs: object) -> None:
    if ours != theirs and not (isinstance(ours, Refused) and isinstance(theirs, Refused)):
        assert any(one.applies(data, ours, theirs) for one in known), f"a new disagreement: {ours!r} and {theirs!r}"


# --- HTTP/1 ------------------------------------------------------------------------------------------------


def _ours(data: bytes) -> Outcome:
    """Read a response whose connection ends after the data."""
    reader = Http1ResponseReader("GET")
    body = b""
    try:
        for piece in (data, b""):
            reader.feed(piece)
            while taken := reader.take_body():
                body += taken
    except ProbeFailed as failed:
        return Refused(failed.message)
    return Verdict(reader.status, body) if reader.complete else Refused("it is not complete")


def _of_h11(data: bytes) -> Outcome:
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
                return Refused("it is not complete")
    except h11.RemoteProtocolError as error:
        return Refused(str(error))


class _Callbacks:
    """Collects what httptools reads."""

    def __init__(self) -> None:
        self.body = b""
        self.complete = False
        self.status = 0
        self.parser: Any = None

    def on_headers_complete(self) -> None:
        if not self.complete:
            self.status = self.parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = self.complete or not 100 <= self.status < 200 or self.status == 101


def _of_httptools(data: bytes) -> Outcome:
    callbacks = _Callbacks()
    callbacks.parser = httptools.HttpResponseParser(callbacks)
    why = "it is not complete"
    try:
        callbacks.parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        why = str(error)
    return Verdict(callbacks.status, callbacks.body) if callbacks.complete else Refused(why)


_AS_GO = "We read what Go reads: "

KNOWN_H11: tuple[Known, ...] = (
    theirs_refuse("without a pending proposal", "A 101 without a request to upgrade is an ordinary status for us."),
    theirs_refuse("illegal status line", f"{_AS_GO}any version of two digits, several blanks, a CR within the reason."),
    theirs_refuse("illegal header line", f"{_AS_GO}blanks within a name."),
    theirs_refuse("bad Content-Length", f"{_AS_GO}an empty Content-Length is none."),
    theirs_refuse("conflicting Content-Length", f"{_AS_GO}what overrides it makes Content-Length irrelevant."),
    theirs_refuse(
        "Transfer-Encoding|closed connection|illegal chunk|^it is not complete",
        "Transfer-Encoding means nothing before HTTP/1.1 (RFC 9112, section 6.1); h11 follows it in HTTP/1.0.",
    ),
    theirs_refuse("too long|LocalProtocolError|no request body", f"{_AS_GO}h11 holds less of a head, and of a line."),
    we_refuse("control character", "Like Go, we refuse control characters in values, which h11 takes."),
    we_refuse("not a chunk|chunk", "Like Go, we refuse a CR within the line of a chunk, and long extensions."),
    we_refuse("Content-Length", "Like Go, we look at Content-Length where the coding overrides it, too."),
    we_refuse("is not a header|continues", "Like Go, we refuse names that are no tokens, also of trailers."),
    we_refuse("headers|trailer", "Like Go, we bound trailers, and want a whole head."),
    Known(
        "Transfer-Encoding means nothing before HTTP/1.1 (RFC 9112, section 6.1).",
        lambda data, ours, theirs: re.search(rb"(?i)HTTP/(0|1\.0)(.|\n)*transfer-encoding", data),
    ),
)

KNOWN_HTTPTOOLS: tuple[Known, ...] = (
    theirs_refuse(
        "^it is not complete",
        "We know that the connection has ended; httptools has no call for it, and so no end of a body without length.",
    ),
    theirs_refuse("whitespace after header value|Unexpected space", f"{_AS_GO}folded lines."),
    theirs_refuse("Missing expected|Expected LF|Expected CR", f"{_AS_GO}lines that end in LF alone, CR in a reason."),
    theirs_refuse(
        "[Ii]nvalid status|response status|HTTP version|Expected", f"{_AS_GO}any version, the codes +12, -00."
    ),
    theirs_refuse("chunk", f"{_AS_GO}no coding before HTTP/1.1, and extensions of any characters."),
    theirs_refuse("Content-Length", f"{_AS_GO}Content-Length beside a coding, or the same one twice, or an empty one."),
    theirs_refuse("header|Header", f"{_AS_GO}blanks within a name, and any bytes in a value."),
    theirs_refuse("Pause|Upgrade|after `Connection", f"{_AS_GO}what follows the end does not matter."),
    we_refuse("transfer coding", "Like Go, we know no coding but `chunked`; llhttp reads what ends in it."),
    we_refuse("control character", "Like Go, we refuse control characters in values."),
    we_refuse("chunk", "Like Go, we refuse a CR within the line of a chunk, and long extensions."),
    we_refuse("Content-Length", "Like Go, we look at Content-Length where the coding overrides it, too."),
    we_refuse("header|trailer|status line|begin", "Like Go, we bound trailers, and refuse names that are no tokens."),
    Known(
        "After 101 with an Upgrade header another protocol follows, which we pass on.",
        lambda data, ours, theirs: ours.status == 101,
    ),
    Known(
        "Transfer-Encoding means nothing before HTTP/1.1 (RFC 9112, section 6.1).",
        lambda data, ours, theirs: re.search(rb"(?i)HTTP/(0|1\.0)(.|\n)*transfer-encoding", data),
    ),
)


# --- HPACK -------------------------------------------------------------------------------------------------

KNOWN_HPACK: tuple[Known, ...] = (
    we_refuse("does not end", "We refuse a number of more than five bytes beyond its first, which hpack reads."),
    we_refuse("its headers are too large|table is to hold", "We count a change of the table's size as 32 bytes."),
    theirs_refuse("[Ss]ize", "hpack wants a change of the table's size at the start of a block; we allow it anywhere."),
)


def _our_hpack(data: bytes) -> object:
    decoder = Decoder(LIMIT)
    try:
        decoder.feed(data)
        decoder.end()
        return decoder.take()
    except ProbeFailed as failed:
        return Refused(failed.message)


def _their_hpack(data: bytes) -> object:
    decoder = hpack.Decoder(max_header_list_size=LIMIT)
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(data, raw=True)]
    except hpack.HPACKError as error:
        return Refused(f"{type(error).__name__}: {error}")


# --- DNS ---------------------------------------------------------------------------------------------------

KNOWN_DNS: tuple[Known, ...] = (
    theirs_refuse(
        "^(FormError|UnexpectedEnd|TrailingJunk|ShortHeader)",
        "dnspython decodes the content of more types, and wants all records that a count promises.",
    ),
    theirs_refuse("^(BadEDNS|BadTSIG|UnknownTSIGKey)", "We print whatever stands where OPT and TSIG should not."),
    theirs_refuse(
        "^PointerChainTooLong", "We follow 126 pointers, one for each label that a name can have, as Go does."
    ),
    theirs_refuse("^BadPointer", "We allow pointers that point forward; a loop ends at 126 pointers."),
    theirs_refuse(
        "^(BadLabelType|LabelTooLong|NameTooLong|EmptyLabel|SyntaxError|ValueError|UnicodeDecodeError|IndexError"
        "|NotImplementedError|InvalidLocation|DNSException|error|OverflowError|Unknown)",
        "We print content that dnspython finds absurd, as the original does.",
    ),
    we_refuse("longer than its fields", "Some types that dnspython does not decode are decoded here."),
    we_refuse("ends too early", "Where a record is cut, dnspython may have read a type that it does not decode."),
    we_refuse("name", "We refuse names in the content of types that dnspython does not decode."),
    Known(
        "dnspython keeps OPT and TSIG apart, and records of a set once.",
        lambda data, ours, theirs: (
            ours[:2] == theirs[:2] and all(mine >= other for mine, other in zip(ours[2], theirs[2], strict=True))
        ),
    ),
)


def _our_dns(data: bytes) -> object:
    try:
        response = message.decode(data)
    except Malformed as error:
        return Refused(str(error))
    return response.number, response.flags, (len(response.answer), len(response.authority), len(response.additional))


def _their_dns(data: bytes) -> object:
    try:
        read = dns.message.from_wire(data, ignore_trailing=True, one_rr_per_rrset=True)
    except Exception as error:  # any kind: dnspython lets the exceptions of its parts pass
        return Refused(f"{type(error).__name__}: {error}")
    return read.id, int.from_bytes(data[2:4], "big"), (len(read.answer), len(read.authority), len(read.additional))


def _compare(
    known: tuple[Known, ...], ours: Callable[[bytes], object], theirs: Callable[[bytes], object]
) -> Callable[[bytes], None]:
    return lambda data: _judge(known, data, ours(data), theirs(data))


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "dns_dnspython": _compare(KNOWN_DNS, _our_dns, _their_dns),
    "hpack_hpack": _compare(KNOWN_HPACK, _our_hpack, _their_hpack),
    "http1_h11": _compare(KNOWN_H11, _ours, _of_h11),
    "http1_httptools": _compare(KNOWN_HTTPTOOLS, _ours, _of_httptools),
}
