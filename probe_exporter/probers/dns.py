"""The dns prober: send one query to a DNS server, and check its response against the module's settings."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from probe_exporter.addresses import literals
from probe_exporter.addresses.endpoints import host_and_port
from probe_exporter.network import opening
from probe_exporter.network.address_choice import choose_address
from probe_exporter.network.connection import Connection, Secure
from probe_exporter.network.settings import SourceSettings
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import LabelledSeries, Metric
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.dialogue.steps import shown
from probe_exporter.protocols.dns.codes import CLASSES, RCODES, TYPES, rcode_name
from probe_exporter.protocols.dns.message import Query, Response, Section, decode, decode_after_id, has_id
from probe_exporter.protocols.dns.wire import Malformed
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text, encode, nearest
from probe_exporter.settings.regexps import LateRegexp, Regexp
from probe_exporter.settings.rules import Absent, Block, required
from probe_exporter.tls import loading, metrics
from probe_exporter.tls.settings import CertificateSettings, TLSSettings

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
    """Regular expressions for the records of one section of a response.

    ``fail_if_all_match_regexp`` passes if every record matches every expression, and fails otherwise. Its name says
    the opposite; the original's meaning is kept for existing configurations.

    Args:
        fail_if_matches_regexp: fail if a record matches one of these.
        fail_if_all_match_regexp: fail if every record matches one of these.
        fail_if_not_matches_regexp: fail if a record matches none of these.
        fail_if_none_matches_regexp: fail if no record matches any of these.
    """

    fail_if_matches_regexp: tuple[LateRegexp, ...] = ()
    fail_if_all_match_regexp: tuple[LateRegexp, ...] = ()
    fail_if_not_matches_regexp: tuple[LateRegexp, ...] = ()
    fail_if_none_matches_regexp: tuple[LateRegexp, ...] = ()

    @property
    def demands_nothing(self) -> bool:
        """Whether no expression is set."""
        return not any(getattr(self, key) for key in type(self).model_fields)

    def cautions(self) -> Iterator[tuple[str, str]]:
        for key in type(self).model_fields:
            for regexp in getattr(self, key):
                if regexp.error:
                    yield key, f"{regexp.error}: probes that use it will fail"


class Check(NamedTuple):
    """The expressions for one section."""

    section: str
    validator: RRValidator
    reason: Reason  # of a failure


def _name_where_written(block: Block) -> Iterator[tuple[str, str]]:
    """Require a name in a `dns` block. A module without the block loads, as in the original, and its probes fail."""
    return iter(()) if isinstance(block, Absent) else iter(required("query_name")(block))


class DnsSettings(CertificateSettings, SourceSettings):
    """The ``dns`` block of a module.

    Args:
        query_name: the name to query. Without it, every probe fails.
        query_type: the type of the query, such as ``A`` or ``SOA``.
        query_class: the class of the query: ``IN``, ``CH``, ``HS`` or ``ANY``.
        recursion_desired: set the RD flag of the query.
        transport_protocol: ``udp`` or ``tcp``.
        dns_over_tls: query over TLS (RFC 7858); needs ``transport_protocol: tcp``.
        tls_config: settings of that TLS.
        valid_rcodes: response codes that pass; without them only ``NOERROR`` does.
        validate_answer_rrs: checks of the records in the answer section.
        validate_authority_rrs: checks of the records in the authority section.
        validate_additional_rrs: checks of the records in the additional section.
    """

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
        """The encoded query.

        Raises:
            ProbeFailed: `query_name` is not a domain name.
        """
        try:
            return Query.make(
                encode(self.query_name),
                TYPES.get(self.query_type, TYPES["ANY"]),
                CLASSES.get(self.query_class, CLASSES["IN"]),
                recursion_desired=self.recursion_desired,
            )
        except ValueError as error:
            raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"query_name is not a domain name: {error}") from None

    @cached_property
    def codes(self) -> frozenset[int]:
        """The numbers of the valid response codes.

        Raises:
            ProbeFailed: one of `valid_rcodes` is no response code.
        """
        valid = ("NOERROR",) if self.valid_rcodes is None else self.valid_rcodes
        for name in valid:
            if name not in RCODES:
                raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"valid_rcodes: there is no response code {name!r}")
        return frozenset(RCODES[name] for name in valid)

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """The checks of the sections for which there are expressions."""
        every = (
            Check("answer", self.validate_answer_rrs, Reason.DNS_ANSWER_MISMATCH),
            Check("authority", self.validate_authority_rrs, Reason.DNS_AUTHORITY_MISMATCH),
            Check("additional", self.validate_additional_rrs, Reason.DNS_ADDITIONAL_MISMATCH),
        )
        return tuple(check for check in every if not check.validator.demands_nothing)


# --- metrics -----------------------------------------------------------------------------------------------

DURATION = Metric("probe_dns_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=3)
ANSWER_RRS = Metric("probe_dns_answer_rrs", "Number of records in the answer section.")
AUTHORITY_RRS = Metric("probe_dns_authority_rrs", "Number of records in the authority section.")
ADDITIONAL_RRS = Metric("probe_dns_additional_rrs", "Number of records in the additional section.")
QUERY_SUCCEEDED = Metric("probe_dns_query_succeeded", "Whether the server answered the query, with any response code.")
TRUNCATED = Metric(
    "probe_dns_response_truncated", "Whether the server truncated the response (flag TC); 0 without a response."
)
SERIAL = Metric("probe_dns_serial", "Serial number of the zone, from the last SOA record of the answer section.")

_WITHOUT_PHASES: LabelledSeries = {(DURATION, (phase,)): 0 for phase in ("resolve", "connect", "request")}
_WITHOUT_RESPONSE = dict.fromkeys((ANSWER_RRS, AUTHORITY_RRS, ADDITIONAL_RRS, QUERY_SUCCEEDED, TRUNCATED), 0)

# --- the probe ---------------------------------------------------------------------------------------------

PORT, PORT_OF_TLS = 53, 853

MAX_INLINE_BYTES = 2048
"""Size of a message up to which it is decoded and checked on the event loop. Larger ones are decoded in a thread: a
response of 64 KiB can hold thousands of records, and each regular expression is tried on each of them."""

MAX_INLINE_TEXT_BYTES = 32 * 1024
"""Size of the records of one section, as text, up to which expressions are tried on the event loop."""

MAX_LOGGED_STRAYS = 10
"""Log lines about datagrams with another id; the following ones are only counted."""


async def probe_dns(probe: Probe, settings: DnsSettings) -> None:
    """Sends one query to a DNS server, and checks its response."""
    if not settings.query_name:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "the module has no query_name")
    probe.samples.series.update(_WITHOUT_PHASES)
    probe.samples.plain.update(_WITHOUT_RESPONSE)
    if settings.transport_protocol not in ("", "udp", "tcp"):
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "transport_protocol is neither udp nor tcp")
    default = PORT_OF_TLS if settings.dns_over_tls else PORT
    host, port = host_and_port(probe.target, default, settings.transport_protocol or "udp")
    address = await choose_address(probe, host, settings, DURATION)
    _check_usable(settings)
    if settings.transport_protocol == "tcp":
        response = await _ask_over_tcp(probe, settings, host, address, port)
    else:
        response = await _ask_over_udp(probe, settings, address, port)
    _report(probe, settings, response)
    with probe.phase("validation"):
        await _check(probe, settings, response)


def _check_usable(settings: DnsSettings) -> None:
    """Raise `ProbeFailed` for unusable settings before anything is sent."""
    if settings.dns_over_tls and settings.transport_protocol != "tcp":
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "DNS over TLS needs transport_protocol: tcp")
    source = settings.source_ip_address
    if source and literals.literal(source) is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"source_ip_address {source!r} is not an IP address")


# The query. The durations are reported even if it fails.


async def _ask_over_udp(probe: Probe, settings: DnsSettings, address: str, port: int) -> Response:
    """Send the query in a datagram. Skip responses to other queries, as the original does: they may just be late."""
    query, number = settings.query, os.urandom(2)
    with probe.phase("connect", DURATION):
        datagrams = await opening.dial_udp(probe, address, port, source=settings.source_ip_address)
    strays = 0
    try:
        with probe.phase("request", DURATION):
            datagrams.send(query.message(number))
            while not _has_id(message := await datagrams.read(), number):
                strays += 1
                if strays <= MAX_LOGGED_STRAYS:
                    probe.log("Skipping a response with another id", bytes=len(message))
                if strays % MAX_LOGGED_STRAYS == 0:
                    await pause()  # a flood of them must not hold the event loop
            return await _decode(message, query)
    except asyncio.CancelledError:
        probe.fail(_unanswered(strays))  # only the first failure counts: the deadline, or a client that disconnected
        raise
    finally:
        datagrams.close()


async def _ask_over_tcp(probe: Probe, settings: DnsSettings, host: str, address: str, port: int) -> Response:
    """Send the query over TCP or TLS (RFC 7766, RFC 7858)."""
    query, number = settings.query, os.urandom(2)
    secure = None
    if settings.dns_over_tls:
        server_name = settings.tls_config.server_name or host
        secure = Secure(await loading.client_context(settings.tls_config), server_name)
    with probe.phase("connect", DURATION):
        connection = await opening.dial(probe, [address], port, source=settings.source_ip_address, secure=secure)
    if connection.handshake is not None:
        metrics.report_handshake(probe, connection.handshake)
    try:
        with probe.phase("request", DURATION):
            message = query.message(number)
            connection.send(len(message).to_bytes(2, "big") + message)
            received = await _read_message(connection)
            if not _has_id(received, number):
                raise _unanswered(1)
            return await _decode(received, query)
    except asyncio.CancelledError:
        probe.fail(_unanswered(0))
        raise
    finally:
        connection.close()


async def _read_message(connection: Connection) -> bytes:
    """Read one message, which has its length before it (RFC 1035, 4.2.2)."""
    received, size = b"", 2
    while len(received) < size:
        data = await connection.read()
        if not data:
            raise ProbeFailed(Reason.CONNECT_CLOSED, "the server closed the connection before it answered")
        received += data
        if len(received) >= 2:
            size = 2 + int.from_bytes(received[:2], "big")
    return received[2:size]


def _unanswered(strangers: int) -> ProbeFailed:
    if strangers:
        return ProbeFailed(Reason.DNS_RESPONSE_WRONG_ID, "responses came, but none has the id of the query")
    return ProbeFailed(Reason.DNS_QUERY_TIMEOUT, "no answer to the query in time")


def _has_id(message: bytes, number: bytes) -> bool:
    try:
        return has_id(message, number)
    except Malformed as error:
        raise ProbeFailed(Reason.DNS_RESPONSE_MALFORMED, f"the answer is not DNS: {error}") from None


async def _decode(message: bytes, query: Query) -> Response:
    """Decode a message that must be the response to the query."""
    try:
        if len(message) <= MAX_INLINE_BYTES:
            response = decode_after_id(message[2:])
        else:
            response = await asyncio.to_thread(decode, message)
    except Malformed as error:
        raise ProbeFailed(Reason.DNS_RESPONSE_MALFORMED, f"the response can't be decoded: {error}") from None
    if not response.is_response:
        raise ProbeFailed(Reason.DNS_RESPONSE_NO_FLAG, "the server sent a query, not a response: flag QR is missing")
    if not response.answers(query):
        raise ProbeFailed(Reason.DNS_RESPONSE_WRONG_QUESTION, "the response is to another question")
    return response


# The checks.


def _report(probe: Probe, settings: DnsSettings, response: Response) -> None:
    answers = len(response.answer)
    plain = probe.samples.plain  # `set` would check what these are
    plain[ANSWER_RRS] = answers
    plain[AUTHORITY_RRS] = len(response.authority)
    plain[ADDITIONAL_RRS] = len(response.additional)
    plain[QUERY_SUCCEEDED] = 1
    plain[TRUNCATED] = 1 if response.is_truncated else 0
    if settings.query_type == "SOA":
        zones = [record for record in response.answer if record.type == TYPES["SOA"]]
        probe.set(SERIAL, zones[-1].serial if zones else 0)
    probe.log("Got response", rcode=rcode_name(response.rcode), answers=answers)


async def _check(probe: Probe, settings: DnsSettings, response: Response) -> None:
    """Check the response code, then each section."""
    if response.rcode not in settings.codes:
        raise ProbeFailed(Reason.DNS_RCODE, f"the response code {rcode_name(response.rcode)} is not a valid one")
    for check in settings.checks:
        name, validator, reason = check
        section: Section = getattr(response, name)
        probe.log("Validating records", section=name, records=section.texts)
        if section.passed is not None and section.passed() is validator:
            continue
        mismatch = await _find_mismatch(validator, section.lines)
        if mismatch is not None:
            what = f"the {name} section: {mismatch.what}{_hint(settings, response)}"
            raise ProbeFailed(reason, what, **mismatch.fields)
        section.passed = weakref.ref(validator)


def _hint(settings: DnsSettings, response: Response) -> str:
    """Return what a truncated response may have to do with a mismatch, for the end of a sentence."""
    if not response.is_truncated:
        return ""
    over_udp = settings.transport_protocol != "tcp"
    return "; the response is truncated (flag TC)" + (
        ", `transport_protocol: tcp` gets all records" if over_udp else ""
    )


class _Mismatch(NamedTuple):
    """A check that the records of a section fail."""

    what: str
    fields: dict[str, str]  # the record and the regular expression that decided, if there are such


async def _find_mismatch(validator: RRValidator, records: Sequence[bytes]) -> _Mismatch | None:
    """Return the first check that the records fail. Much text is searched in a thread."""
    if sum(map(len, records)) <= MAX_INLINE_TEXT_BYTES:
        return _mismatch(validator, records)
    return await asyncio.to_thread(_mismatch, validator, records)


def _mismatch(validator: RRValidator, records: Sequence[bytes]) -> _Mismatch | None:
    for key, outcome in (("fail_if_matches_regexp", True), ("fail_if_all_match_regexp", False)):
        if records and (found := _first(validator, key, records, outcome)):
            return found
    if validator.fail_if_not_matches_regexp:
        if not records:
            return _Mismatch("it has no record, and `fail_if_not_matches_regexp` requires one", {})
        if found := _first(validator, "fail_if_not_matches_regexp", records, False):
            return found
    if validator.fail_if_none_matches_regexp:
        if not records:
            return _Mismatch("it has no record, and `fail_if_none_matches_regexp` requires one", {})
        wanted = [_compiled(regexp) for regexp in validator.fail_if_none_matches_regexp]
        if not any(regexp.search(record) for record in records for regexp in wanted):
            return _Mismatch("no record matches any expression of `fail_if_none_matches_regexp`", {})
    return None


def _first(validator: RRValidator, key: str, records: Sequence[bytes], outcome: bool) -> _Mismatch | None:
    """Return the first pair of a record and an expression of `key` where the search has this outcome."""
    regexps = [_compiled(regexp) for regexp in getattr(validator, key)]
    for record in records:
        for regexp in regexps:
            if (regexp.search(record) is not None) is outcome:
                verb = "matches" if outcome else "does not match"
                fields = {"record": shown(record), "regexp": regexp.text}
                return _Mismatch(f"a record {verb} an expression of `{key}`", fields)
    return None


def _compiled(regexp: LateRegexp) -> Regexp:
    if regexp.regexp is None:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, regexp.error)
    return regexp.regexp


prober = Prober("dns", DnsSettings, probe_dns)
