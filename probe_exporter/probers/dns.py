"""The dns prober: one question to one server, and what its answer must be like."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Annotated

from pydantic import AfterValidator

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import host_and_port
from probe_exporter.network import opening
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dns.codes import CLASSES, RCODES, TYPES, rcode_name
from probe_exporter.protocols.dns.message import Query, Response, decode, number_of
from probe_exporter.protocols.dns.wire import Malformed
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text, encode, nearest
from probe_exporter.settings.regexps import LateRegexp, Regexp
from probe_exporter.settings.rules import Absent, Block, required
from probe_exporter.tls import context, handshake
from probe_exporter.tls.settings import TLSSettings

# --- settings ----------------------------------------------------------------------------------------------


_LONG_NAMES = {"CHAOS": "CH", "CHAOSNET": "CH", "CSNET": "CS", "HESIOD": "HS", "INTERNET": "IN"}
"""Classes as RFC 1035 calls them (section 3.2.4), for messages: a configuration has the short names."""


def _one_of(names: Iterable[str], what: str) -> Callable[[str], str]:
    known = tuple(names)

    def check(name: str) -> str:
        if name and name not in known:
            meant = _LONG_NAMES.get(name.upper(), "")
            raise ValueError(f"unknown {what} {name!r}{nearest(meant if meant in known else name, known)}")
        return name

    return check


class RRValidator(Settings):
    """What the records of one section of an answer must be like.

    ``fail_if_all_match_regexp`` passes if every record matches every expression, and fails otherwise: its name
    says the contrary, and its meaning is kept for the configurations that rely on it.
    """

    fail_if_matches_regexp: tuple[LateRegexp, ...] = ()
    fail_if_all_match_regexp: tuple[LateRegexp, ...] = ()
    fail_if_not_matches_regexp: tuple[LateRegexp, ...] = ()
    fail_if_none_matches_regexp: tuple[LateRegexp, ...] = ()

    @cached_property
    def demands_nothing(self) -> bool:
        """Whether there is nothing to look at."""
        return not any(getattr(self, key) for key in type(self).model_fields)

    def cautions(self) -> Iterator[tuple[str, str]]:
        for key in type(self).model_fields:
            for regexp in getattr(self, key):
                if regexp.error:
                    yield key, f"{regexp.error}: probes that use it will fail"


def _name_where_written(block: Block) -> Iterator[tuple[str, str]]:
    """A block needs a name to ask for. A module without a block loads, as it always has, and can't probe."""
    return iter(()) if isinstance(block, Absent) else iter(required("query_name")(block))


class DnsSettings(SourceSettings):
    """The ``dns`` block of a module."""

    rules = (_name_where_written,)
    query_name: Text = ""
    query_type: Annotated[Text, AfterValidator(_one_of(TYPES, "query type"))] = "ANY"
    query_class: Annotated[Text, AfterValidator(_one_of(CLASSES, "query class"))] = "IN"
    recursion_desired: bool = True
    transport_protocol: Text = "udp"
    dns_over_tls: bool = False
    tls_config: TLSSettings = TLSSettings()
    valid_rcodes: tuple[Text, ...] | None = None
    validate_answer_rrs: RRValidator = RRValidator()
    validate_authority_rrs: RRValidator = RRValidator()
    validate_additional_rrs: RRValidator = RRValidator()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if not self.query_name:
            yield "query_name", "`query_name` is required: every probe of this module will fail"
        if self.transport_protocol not in ("", "udp", "tcp"):
            yield "transport_protocol", "neither udp nor tcp: every probe of this module will fail"
        elif self.dns_over_tls and self.transport_protocol != "tcp":
            yield "dns_over_tls", "DNS over TLS needs `transport_protocol: tcp`: every probe will fail"
        for name in self.valid_rcodes or ():
            if name not in RCODES:
                yield "valid_rcodes", f"unknown response code {name!r}{nearest(name, list(RCODES))}; probes will fail"

    @cached_property
    def query(self) -> Query:
        """The question, as bytes.

        Raises:
            ProbeFailed: `query_name` is no name.
        """
        try:
            return Query.make(
                encode(self.query_name),
                TYPES.get(self.query_type, TYPES["ANY"]),
                CLASSES.get(self.query_class, CLASSES["IN"]),
                recursion_desired=self.recursion_desired,
            )
        except ValueError as error:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"query_name can't be asked for: {error}") from None


# --- metrics -----------------------------------------------------------------------------------------------

DURATION = Metric("probe_dns_duration_seconds", "How long each phase took.", ("phase",))
ANSWER_RRS = Metric("probe_dns_answer_rrs", "How many records the answer section has.")
AUTHORITY_RRS = Metric("probe_dns_authority_rrs", "How many records the authority section has.")
ADDITIONAL_RRS = Metric("probe_dns_additional_rrs", "How many records the additional section has.")
QUERY_SUCCEEDED = Metric("probe_dns_query_succeeded", "Whether a response to the query came, whatever it says.")
SERIAL = Metric("probe_dns_serial", "The serial number of the zone, of the last SOA record in the answer.")

# --- the story ---------------------------------------------------------------------------------------------

PORT, PORT_OF_TLS = 53, 853


async def probe_dns(probe: Probe, settings: DnsSettings) -> None:
    """Sends one query to a DNS server and holds its answer against the module's demands."""
    if not settings.query_name:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "the module has no query_name")
    for phase in ("resolve", "connect", "request"):
        probe.set(DURATION, 0, phase)
    for metric in (ANSWER_RRS, AUTHORITY_RRS, ADDITIONAL_RRS, QUERY_SUCCEEDED):
        probe.set(metric, 0)
    if settings.transport_protocol not in ("", "udp", "tcp"):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "transport_protocol is neither udp nor tcp")
    default = PORT_OF_TLS if settings.dns_over_tls else PORT
    host, port = host_and_port(probe.target, default, settings.transport_protocol or "udp")
    address = await opening.resolve(
        probe, host, preferred=settings.preferred_ip_protocol, fallback=settings.ip_protocol_fallback
    )
    probe.set(DURATION, probe.samples.get(opening.LOOKUP_TIME), "resolve")
    _check_usable(settings)
    if settings.transport_protocol == "tcp":
        response = await _ask_over_tcp(probe, settings, host, address, port)
    else:
        response = await _ask_over_udp(probe, settings, address, port)
    _report(probe, settings, response)
    with probe.phase("validation"):
        _judge(probe, settings, response)


def _check_usable(settings: DnsSettings) -> None:
    """Find out what can't be used before anything is sent."""
    if settings.dns_over_tls and settings.transport_protocol != "tcp":
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "DNS over TLS needs transport_protocol: tcp")
    source = settings.source_ip_address
    if source and literals.literal(source) is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_ip_address {source!r} is not an IP address")


# Asking. The durations are reported wherever it ends.


@contextmanager
def _timed(probe: Probe, name: str) -> Iterator[None]:
    """A phase whose duration is reported, also if it fails."""
    phase = probe.phase(name)
    try:
        with phase:
            yield
    finally:
        probe.set(DURATION, round(phase.seconds, 9), name)


async def _ask_over_udp(probe: Probe, settings: DnsSettings, address: str, port: int) -> Response:
    """Ask by a datagram. Answers to other queries are passed over, as the original does: they may be late ones."""
    query, number = settings.query, secrets.randbits(16)
    with _timed(probe, "connect"):
        datagrams = await opening.dial_udp(probe, address, port, source=settings.source_ip_address)
    strangers = 0
    try:
        with _timed(probe, "request"):
            datagrams.send(query.message(number))
            while _number_of(message := await datagrams.read()) != number:
                strangers += 1
                probe.log("Passing over an answer with another id", bytes=len(message))
            return _understand(message, query)
    except asyncio.CancelledError:
        probe.fail(_unanswered(strangers))  # in time, should this be the deadline and not a client that left
        raise
    finally:
        datagrams.close()


async def _ask_over_tcp(probe: Probe, settings: DnsSettings, host: str, address: str, port: int) -> Response:
    """Ask over a connection, plain or TLS (RFC 7766, RFC 7858)."""
    query, number = settings.query, secrets.randbits(16)
    secure = None
    if settings.dns_over_tls:
        server_name = settings.tls_config.server_name or host
        secure = Secure(context.client_context(settings.tls_config), server_name)
    with _timed(probe, "connect"):
        connection = await opening.dial(probe, [address], port, source=settings.source_ip_address, secure=secure)
    if connection.handshake is not None:
        handshake.report(probe, connection.handshake)
    try:
        with _timed(probe, "request"):
            message = query.message(number)
            connection.send(len(message).to_bytes(2, "big") + message)
            received = await _read_message(connection)
            if _number_of(received) != number:
                raise _unanswered(1)
            return _understand(received, query)
    except asyncio.CancelledError:
        probe.fail(_unanswered(0))
        raise
    finally:
        connection.close()


async def _read_message(connection: Connection) -> bytes:
    """One message, after its length (RFC 1035, 4.2.2)."""
    received, size = b"", 2
    while len(received) < size:
        data = await connection.read()
        if not data:
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the server closed the connection before it had answered")
        received += data
        if len(received) >= 2:
            size = 2 + int.from_bytes(received[:2], "big")
    return received[2:size]


def _unanswered(strangers: int) -> ProbeFailed:
    if strangers:
        return ProbeFailed(Reason.DNS_RESPONSE_WRONG_ID, "what came answers another query: its id is not the query's")
    return ProbeFailed(Reason.DNS_QUERY_TIMEOUT, "no answer to the query in time")


def _number_of(message: bytes) -> int:
    try:
        return number_of(message)
    except Malformed as error:
        raise ProbeFailed(Reason.DNS_RESPONSE_MALFORMED, f"the answer is not DNS: {error}") from None


def _understand(message: bytes, query: Query) -> Response:
    """The message as a response to the query."""
    try:
        response = decode(message)
    except Malformed as error:
        raise ProbeFailed(Reason.DNS_RESPONSE_MALFORMED, f"the answer can't be decoded: {error}") from None
    if not response.is_response:
        raise ProbeFailed(Reason.DNS_RESPONSE_NO_FLAG, "what came is a query, not a response: it lacks the QR flag")
    if not response.answers(query):
        raise ProbeFailed(Reason.DNS_RESPONSE_WRONG_QUESTION, "the response is to another question")
    return response


# Judging.


def _report(probe: Probe, settings: DnsSettings, response: Response) -> None:
    probe.set(ANSWER_RRS, len(response.answer))
    probe.set(AUTHORITY_RRS, len(response.authority))
    probe.set(ADDITIONAL_RRS, len(response.additional))
    probe.set(QUERY_SUCCEEDED, 1)
    if settings.query_type == "SOA":
        zones = [record for record in response.answer if record.type == TYPES["SOA"]]
        probe.set(SERIAL, zones[-1].serial if zones else 0)
    probe.log("Got response", rcode=rcode_name(response.rcode), answers=len(response.answer))


def _judge(probe: Probe, settings: DnsSettings, response: Response) -> None:
    """Hold the response against the module's demands, in their order."""
    valid = ("NOERROR",) if settings.valid_rcodes is None else settings.valid_rcodes
    for name in valid:
        if name not in RCODES:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"valid_rcodes: there is no response code {name!r}")
    if response.rcode not in [RCODES[name] for name in valid]:
        raise ProbeFailed(Reason.DNS_RCODE, f"the response code {rcode_name(response.rcode)} is none of the valid ones")
    sections = (
        ("answer", response.answer, settings.validate_answer_rrs, Reason.DNS_ANSWER_MISMATCH),
        ("authority", response.authority, settings.validate_authority_rrs, Reason.DNS_AUTHORITY_MISMATCH),
        ("additional", response.additional, settings.validate_additional_rrs, Reason.DNS_ADDITIONAL_MISMATCH),
    )
    for name, records, validator, reason in sections:
        if validator.demands_nothing:
            continue
        probe.log("Validating records", section=name, records=[record.text for record in records])
        if broken := _broken(validator, [encode(record.text) for record in records]):
            raise ProbeFailed(reason, f"the {name} section: {broken}")


def _broken(validator: RRValidator, records: Sequence[bytes]) -> str:
    """What the records of one section break; empty if nothing."""
    forbidden = [_compiled(regexp) for regexp in validator.fail_if_matches_regexp] if records else []
    if any(regexp.search(record) for record in records for regexp in forbidden):
        return "a record matches an expression that none may match"
    demanded = [_compiled(regexp) for regexp in validator.fail_if_all_match_regexp] if records else []
    if not all(regexp.search(record) for record in records for regexp in demanded):
        return "not every record matches every expression of fail_if_all_match_regexp"
    if validator.fail_if_not_matches_regexp:
        if not records:
            return "there is no record to match"
        demanded = [_compiled(regexp) for regexp in validator.fail_if_not_matches_regexp]
        if not all(regexp.search(record) for record in records for regexp in demanded):
            return "a record does not match what every one must match"
    if validator.fail_if_none_matches_regexp:
        if not records:
            return "there is no record to match"
        wanted = [_compiled(regexp) for regexp in validator.fail_if_none_matches_regexp]
        if not any(regexp.search(record) for record in records for regexp in wanted):
            return "no record matches what one must match"
    return ""


def _compiled(regexp: LateRegexp) -> Regexp:
    if regexp.regexp is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, regexp.error)
    return regexp.regexp


prober = Prober("dns", DnsSettings, probe_dns)
