"""Compare our HTTP/2 reader with the libraries that could replace it: verdicts, and CPU per response.

    pip install h2 ngh2          # not needed by anything else
    python -m benchmarks.http2_libraries

The responses are those of the side-by-side tests (tests/peers/http2_cases.py) that need no redirect and no pause. Our
reader's verdicts on them are the original's, apart from those that tests/peers/differences.py lists. A library
that is not installed is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.cpu import cpu_per_call
from probe_exporter.prober.failure import ProbeFailed
from probe_exporter.protocols.http.http2 import OPENING, Http2ResponseReader, request_head
from tests.peers.cases import Case
from tests.peers.http2_cases import GROUPS
from tests.targets import http2 as server
from tests.targets.answers import Answer, End, Part, PortDependent, Repeat

FIELDS = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"example.test"), (b":path", b"/")]
SMALL = b"".join((
    server.OPENING, server.SETTINGS_ACK,
    server.head(200, ("content-type", "text/plain"), ("content-length", "2"), ("server", "nginx"),
                ("date", "Sun, 29 Nov 2026 18:00:00 GMT"), ("cache-control", "no-cache"), ("etag", '"abc"')),
    server.data(b"ok"),
))  # fmt: skip
TINY = server.OPENING + server.SETTINGS_ACK + server.raw_headers(b"\x88" + b"\x90" * 100_000, end=True)
"""A response of 100,000 header fields of one byte each, which the original accepts: they decode to 6 MB."""
MAX_HEADER_BYTES = 10 * 1024 * 1024
"""What the original accepts; the libraries are told so."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out of a response; a status of 0 is a failure before the head."""

    status: int
    body: int
    complete: bool

    def agrees(self, other: Verdict) -> bool:
        """Tell whether a probe would say the same; of a body that fails, the bytes before the fault may differ."""
        return (self.status, self.complete) == (other.status, other.complete) and (
            not self.complete or self.body == other.body
        )


def ours(frames: Sequence[bytes], *, end: bool) -> Verdict:
    """Read a response with the reader of this project."""
    reader = Http2ResponseReader("GET")
    sent = OPENING + request_head(FIELDS, ends=True)
    size = 0
    try:
        for one in frames:
            reader.feed(one)
        sent += reader.take_outgoing()
        if end and not reader.complete:
            reader.feed(b"")
        while piece := reader.take_body():
            size += len(piece)
    except ProbeFailed:
        return Verdict(reader.status if reader.head_complete else 0, size, complete=False)
    return Verdict(reader.status, size, reader.complete)


def with_h2(frames: Sequence[bytes], *, end: bool, strict: bool = True) -> Verdict:
    """Read a response with h2; `strict` leaves its validation of header fields on."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import DataReceived, ResponseReceived, StreamEnded
    from h2.exceptions import ProtocolError

    connection = H2Connection(H2Configuration(client_side=True, validate_inbound_headers=strict))
    connection.initiate_connection()
    connection.decoder.max_header_list_size = MAX_HEADER_BYTES
    connection.send_headers(1, FIELDS, end_stream=True)
    connection.data_to_send()
    status, size, complete = 0, 0, False
    try:
        for event in (event for one in frames for event in connection.receive_data(one)):
            if isinstance(event, ResponseReceived):
                status = _status(event.headers)
            elif isinstance(event, DataReceived):
                size += len(event.data)
                if event.flow_controlled_length:
                    connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, StreamEnded):
                complete = True
        connection.data_to_send()
    except ProtocolError:
        return Verdict(status, size, complete=False)
    return Verdict(status, size, complete)


def with_h2_tolerant(frames: Sequence[bytes], *, end: bool) -> Verdict:
    """Read a response with h2, without its validation of header fields."""
    return with_h2(frames, end=end, strict=False)


def with_ngh2(frames: Sequence[bytes], *, end: bool) -> Verdict:
    """Read a response with ngh2, a binding of nghttp2."""
    import ngh2

    limits = ngh2.Configuration(
        max_inbound_header_list_size=MAX_HEADER_BYTES, max_inbound_header_count=1_000_000, max_continuations=1_000
    )
    connection = ngh2.Connection(ngh2.Role.CLIENT, limits)
    connection.initiate_connection()
    connection.send_request(FIELDS, end_stream=True)
    connection.data_to_send()
    status, size, complete = 0, 0, False
    failed = False
    try:
        for one in frames:
            connection.receive_data(one)
            connection.data_to_send()
    except ngh2.NGH2Error:
        failed = True
    for event in connection.events():
        if isinstance(event, ngh2.ResponseReceived):
            status, complete = _status(event.headers), complete or event.end_stream
        elif isinstance(event, ngh2.DataReceived):
            size, complete = size + len(event.data), complete or event.end_stream
        elif isinstance(event, ngh2.TrailersReceived):
            complete = True
    return Verdict(status, size, complete and not failed)


def _status(headers: Any) -> int:
    """Return the status of a head, 0 if it has none: the caller of a library would have to check that."""
    value = next((value for name, value in headers if name == b":status"), b"")
    return int(value) if value.isdigit() and len(value) == 3 else 0


READERS: dict[str, tuple[str, Callable[..., Verdict]]] = {
    "ours": ("probe-exporter", ours),
    "h2": ("h2", with_h2),
    "h2 without validation": ("h2", with_h2_tolerant),
    "ngh2": ("ngh2", with_ngh2),
}


def responses() -> Iterator[tuple[str, list[bytes], bool]]:
    """Return the name and the frames of each response, and whether the connection ends after it."""
    for case in (case for group in GROUPS.values() for case in group):
        page = case.pages.get("/")
        if page is not None and case.tls is not None and not isinstance(case.tls, Answer) and _is_plain(case, page):
            opening = case.tls.opening
            data = opening + b"".join(_bytes(part) for part in page.parts)
            yield case.name, list(_frames(data)), page.end is not End.HOLD


def _frames(data: bytes) -> Iterator[bytes]:
    """Split at the frames: h2 drops the events of good frames that arrive together with a bad one."""
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        yield data[:size]
        data = data[size:]


def _is_plain(case: Case, page: Answer) -> bool:
    h2_only = case.tls is not None and not isinstance(case.tls, Answer) and case.tls.alpn[:1] == ("h2",)
    plain = all(isinstance(part, bytes | PortDependent | Repeat) for part in page.parts)
    return h2_only and plain and page.parts[:1] == (server.SETTINGS_ACK,) and case.settings.get("method") is None


def _bytes(part: Part) -> bytes:
    """Return what a part of an answer sends."""
    if isinstance(part, PortDependent):
        return part.make(lambda text: text)
    if isinstance(part, Repeat):
        return part.data * part.times
    assert isinstance(part, bytes)
    return part


def installed(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    """Print the table of costs, then each response on which a library disagrees."""
    readers = {name: read for name, (package, read) in READERS.items() if installed(package)}
    cases = list(responses())
    print(f"{'reader':<24}{'version':<10}{'µs/response':>12}{'ms for tiny fields':>20}{'other verdicts':>16}")
    differing = {}
    for name, read in readers.items():
        package = READERS[name][0]
        differing[name] = [
            case for case, frames, end in cases if not read(frames, end=end).agrees(ours(frames, end=end))
        ]
        cost = cpu_per_call(partial(read, [SMALL], end=False))
        begun = time.process_time()
        read([TINY], end=False)
        spent = time.process_time() - begun
        print(
            f"{name:<24}{installed(package):<10}{cost * 1e6:>12.1f}{spent * 1e3:>20.1f}"
            f"{f'{len(differing[name])} of {len(cases)}':>16}"
        )
    for name, found in differing.items():
        for case in found:
            print(f"{name}: {case}")


if __name__ == "__main__":
    main()
