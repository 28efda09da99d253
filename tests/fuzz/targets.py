"""A fuzz target for each parser: a function of bytes that raises if the parser breaks a promise.

A parser may refuse its input with the errors that it declares, and with no others. Where the format allows it, a target
also checks a property: pieces are read as the whole is, what was read can be written, and written again is the same.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from probe_exporter import runner
from probe_exporter.config import document, loading, one_module
from probe_exporter.config.loading import file_model
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import TEXT
from probe_exporter.network.connection import Connection
from probe_exporter.network.stream_socket import StreamSocket
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, Samples
from probe_exporter.probers import certificate_file
from probe_exporter.protocols.dns import message
from probe_exporter.protocols.dns.codes import TYPES
from probe_exporter.protocols.dns.wire import Malformed as MalformedMessage
from probe_exporter.protocols.dns.wire import name_to_wire
from probe_exporter.protocols.http import field_section, url
from probe_exporter.protocols.http.frames import MAX_PAYLOAD_BYTES, FrameReader, frame
from probe_exporter.protocols.http.header_block import Decoder
from probe_exporter.protocols.http.http1 import Http1ResponseReader
from probe_exporter.protocols.pki import renewal
from probe_exporter.scrape import openmetrics, protobuf, text
from probe_exporter.scrape.page import Malformed, Page, Selection, TooManySamples
from probe_exporter.tls import certificate_details, crl, ocsp
from probe_exporter.tls.certificates import UNREADABLE, Certificate
from probe_exporter.tls.quic import stapled_in
from probe_exporter.web.parameters import TooManyParameters, decode_query
from tests.fuzz import differences
from tests.fuzz.__main__ import CORPUS

Target = Callable[[bytes], None]

PROBERS = loader.load_probers([])


def cuts(data: bytes) -> list[bytes]:
    """Cut data into pieces; the lengths depend on the data, so that a fuzzer can choose them."""
    if not data:
        return []
    length = data[-1] % 7 + 1
    return [data[start : start + length] for start in range(0, len(data), length)]


# --- HTTP --------------------------------------------------------------------------------------------------


def read_http1(pieces: list[bytes]) -> tuple[object, ...]:
    """Return what a reader makes of a response in pieces: the head, the body, and the reason of a failure."""
    reader = Http1ResponseReader("GET")
    body, failure = b"", ""
    try:
        for piece in [*pieces, b""]:
            reader.feed(piece)
            while taken := reader.take_body():
                body += taken
    except ProbeFailed as failed:
        failure = failed.reason
    return reader.status, reader.version, tuple(reader.headers), body, failure


def http1(data: bytes) -> None:
    """Read a response in one piece and in several: the result is the same."""
    whole, pieces = read_http1([data] if data else []), read_http1(cuts(data))
    if whole[-1] != pieces[-1] or not whole[-1]:
        assert whole == pieces


def _read_frames(pieces: list[bytes]) -> tuple[list[tuple[int, int, int, bytes]], bool]:
    """Return the frames in the pieces, and whether they are all good."""
    reader, found = FrameReader(), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (one := reader.next()) is not None:
                found.append(one)
    except ProbeFailed:
        return found, False
    return found, True


def frames(data: bytes) -> None:
    """Read HTTP/2 frames, in one piece and in several; write them again."""
    whole, good = _read_frames([data])
    assert _read_frames(cuts(data)) == (whole, good) or not data
    for kind, flags, stream, payload in whole:
        assert len(payload) <= MAX_PAYLOAD_BYTES
        assert _read_frames([frame(kind, flags, stream, payload)]) == ([(kind, flags, stream, payload)], True)


def hpack(data: bytes) -> None:
    """Read a header block, in one piece and in several."""

    def read(pieces: list[bytes]) -> object:
        decoder = Decoder(65536)
        try:
            for piece in pieces:
                decoder.feed(piece)
            decoder.end()
            return decoder.take()
        except ProbeFailed:
            return None

    assert read([data]) == read(cuts(data))


def qpack(data: bytes) -> None:
    """Read a field section; write its fields, and read them again."""
    try:
        fields = field_section.decode(data, 65536)
    except ValueError:
        return
    assert field_section.decode(field_section.encode(fields), 65536) == fields


def urls(data: bytes) -> None:
    """Parse a target; join a location to it."""
    target, _, location = data.decode("utf-8", "surrogateescape").partition("\n")
    try:
        parsed = url.parse_target(target)
    except ValueError:
        return
    assert parsed.port >= 0
    try:
        joined = parsed.join(location)
    except ValueError:
        return
    if location.startswith("/") and not location.startswith("//"):
        assert "/../" not in joined.path.partition("?")[0]


# --- DNS ---------------------------------------------------------------------------------------------------


def dns(data: bytes) -> None:
    """Decode a message; every record has a text, and that of a SOA record has a serial number."""
    try:
        response = message.decode(data)
    except MalformedMessage:
        return
    for record in (*response.answer, *response.authority, *response.additional):
        assert record.text
        if record.type == TYPES["SOA"]:
            assert record.serial >= 0


def dns_name(data: bytes) -> None:
    """Encode a name as people write it."""
    try:
        wire = name_to_wire(data)
    except ValueError:
        return
    assert 0 < len(wire) <= 255


# --- metrics -----------------------------------------------------------------------------------------------


def _read_page(read: Callable[[bytes, Page], object], data: bytes) -> Page | None:
    page = Page(1000, Selection(lambda _: True, lambda _: True, 100))
    try:
        for _ in cast("Any", read(data, page)):
            pass
    except (Malformed, TooManySamples):
        return None
    return page


def metrics_text(data: bytes) -> None:
    """Read a page of text."""
    _read_page(text.read, data)


def metrics_openmetrics(data: bytes) -> None:
    """Read a page of OpenMetrics."""
    _read_page(openmetrics.read, data)


def metrics_protobuf(data: bytes) -> None:
    """Read a page of protocol buffers."""
    _read_page(protobuf.read, data)


_LABELLED = Metric("fuzz_labelled", "A metric.", ("one", "two"))


def exposition(data: bytes) -> None:
    """Write samples, and read them again."""
    samples = Samples()
    expected: dict[tuple[str, str], float] = {}
    for number, line in enumerate(data.split(b"\n")[:50]):
        one, _, two = line.decode("utf-8", "replace").partition("=")
        samples.set(_LABELLED, number, one, two)
        expected[one, two] = number
    kept: dict[tuple[str, str], float] = {}
    page = Page(1000, Selection(lambda _: True, lambda _: True, 1000))
    selection = page._selections[0]
    for _ in text.read(encode(samples, TEXT), page):
        pass
    for sample in selection.kept:
        labels = dict(sample.labels)
        kept[labels.get("one", ""), labels.get("two", "")] = sample.value
    assert kept == expected


# --- configuration and queries -----------------------------------------------------------------------------


@cache
def _model() -> type[Any]:
    return file_model(PROBERS)


def yaml(data: bytes) -> None:
    """Read a configuration file: it is good, or has problems with places."""
    read = document.read(data, "fuzz.yml", _model())
    if not read.problems:
        loading.validated(read, _model())
    for problem in read.problems:
        assert problem.message


def query(data: bytes) -> None:
    """Decode a query string."""
    try:
        parameters = decode_query(data.decode("utf-8", "surrogateescape"))
    except TooManyParameters:
        return
    for key, value in parameters.items():
        assert isinstance(key, str)
        assert isinstance(value, str)


# --- the library's protocols -------------------------------------------------------------------------------

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "ldap": {},
    "memcached": {},
    "mqtt": {"version": "5.0", "topic": "a", "qos": 1},
    "mysql": {"user": "u", "password": "p"},
    "postgres": {"user": "u", "password": "p"},
    "redis": {},
    "ssh": {},
}


class _DiscardingSocket(StreamSocket):
    """A socket that forgets what is sent, and receives nothing."""

    def __init__(self) -> None:
        self.closing = False

    @property
    def unsent(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


def conversation(name: str) -> Target:
    """Return the target of one of the library's probers: a server that sends the data, ignores requests, and closes.

    A failure may have any reason but `internal_error`: that is an exception that the prober does not declare.
    """
    module = one_module.with_settings(PROBERS[name], repr(dict(_SETTINGS[name])).encode(), name)

    def target(data: bytes) -> None:
        async def connect(*_: object, **__: object) -> Connection:
            connection = Connection()
            connection._socket = _DiscardingSocket()
            connection.data_received(data)
            connection.eof_received()
            return connection

        spoken = cast("Any", module.prober.probe).__globals__
        before, spoken["connect"] = spoken["connect"], connect
        try:
            with asyncio.Runner() as loop:
                result = loop.run(runner.run(module, "peer.test", 60.0))
        finally:
            spoken["connect"] = before
        failure = result.failure
        assert failure is None or failure.reason is not Reason.INTERNAL_ERROR, failure

    return target


def ldap_filter(data: bytes) -> None:
    """Compile a filter, in BER."""
    compile_filter = cast("Any", PROBERS["ldap"].probe).__globals__["compile_filter"]
    try:
        encoded = compile_filter(data.decode("utf-8", "surrogateescape"))
    except ValueError:
        return
    assert encoded[0] & 0x80


# --- certificates ------------------------------------------------------------------------------------------


def certificate(data: bytes) -> None:
    """Read certificates as a file has them, and everything that probers want to know of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what authorities should not issue
        found = certificate_file.parse_pem(data) if b"-----BEGIN" in data else certificate_file.parse_der(data)
        if isinstance(found, str):
            return
        chain = certificate_file.read_chain(found)
        for position, der in enumerate(found):
            named = position == 0 and not isinstance(chain, str)
            _examine(Certificate(x509.load_der_x509_certificate(der)), named=named)


def _examine(one: Certificate, *, named: bool) -> None:
    """Read a certificate.

    Args:
        named: its names can be read, as `read_chain` says of the first certificate of a file.
    """
    with suppress(*([] if named else [ProbeFailed])):
        assert all(isinstance(label, str) for label in one.labels)
    assert one.summary.not_before is not None
    assert one.is_for("www.example.test") is one.is_for("WWW.example.test")
    assert isinstance(one.is_for("127.0.0.1"), bool)
    assert isinstance(one.has_alternative_names and one.has_readable_extensions, bool)
    assert isinstance(one.is_for_servers and one.is_for_anything, bool)
    points = crl.points_of(one.x509)
    assert set(points.urls) <= set(points.names)
    assert all(url.lower().startswith("http") for url in (*points.urls, *ocsp.responders_of(one.x509)))
    assert isinstance(ocsp.must_staple(one.x509), bool)
    assert all(len(log_id) == 44 for log_id in certificate_details.logs_of(one.x509))
    with suppress(ValueError):
        assert renewal.identifier(one.x509).isascii()
    with suppress(*UNREADABLE):
        assert ocsp.identify(one.x509, one.x509)
        assert ocsp.request_for(one.x509, one.x509)
    with suppress(ValueError, UnsupportedAlgorithm):
        assert isinstance(crl.read_list(b"", crl.public_key_of(one.x509)), str)


def stapled(data: bytes) -> None:
    """Find a stapled response in the extensions of a certificate over QUIC, and read it."""
    response = stapled_in(data)
    assert response in data
    if response:
        assert ocsp.read_response(response, _authority(), _authority()).status in (
            *ocsp.STATUSES.values(),
            ocsp.UNUSABLE,
        )


@cache
def _authority() -> x509.Certificate:
    """Return the certificate that the responses of the corpus are about and whose key signs them."""
    return x509.load_der_x509_certificate((CORPUS / "certificate" / "root.der").read_bytes())


TARGETS: Mapping[str, Target] = {
    "certificate": certificate,
    "dns": dns,
    "dns_name": dns_name,
    "exposition": exposition,
    "frames": frames,
    "hpack": hpack,
    "http1": http1,
    "ldap_filter": ldap_filter,
    "metrics_openmetrics": metrics_openmetrics,
    "metrics_protobuf": metrics_protobuf,
    "metrics_text": metrics_text,
    "qpack": qpack,
    "stapled": stapled,
    "query": query,
    "urls": urls,
    "yaml": yaml,
    **{name: conversation(name) for name in _SETTINGS},
    **differences.TARGETS,
}
"""By name; the corpus of a target is the directory of its name."""
