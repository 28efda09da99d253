"""The dns prober: its settings. This version checks ``dns`` modules and does not probe them yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

from pydantic import AfterValidator

from probe_exporter.addressing import SourceSettings
from probe_exporter.fields import LateRegexp, Text, nearest
from probe_exporter.prober import Probe, ProbeFailed, Prober, Reason, Settings
from probe_exporter.rules import Absent, Block, required
from probe_exporter.tls import TLSSettings

_TYPE_NAMES = """
A AAAA AFSDB AMTRELAY ANY APL ATMA AVC AXFR CAA CDNSKEY CDS CERT CNAME CSYNC DHCID DLV DNAME DNSKEY DS EID
EUI48 EUI64 GID GPOS HINFO HIP HTTPS IPSECKEY ISDN IXFR KEY KX L32 L64 LOC LP MAILA MAILB MB MD MF MG MINFO MR
MX NAPTR NID NIMLOC NINFO NS NSAP-PTR NSEC NSEC3 NSEC3PARAM NULL NXNAME NXT OPENPGPKEY OPT PTR PX RESINFO RKEY
RP RRSIG RT SIG SMIMEA SOA SPF SRV SSHFP SVCB TA TALINK TKEY TLSA TSIG TXT UID UINFO UNSPEC URI X25 ZONEMD
None Reserved
"""
TYPES = tuple(_TYPE_NAMES.split())
"""The record types that ``query_type`` may name (the last two are the numbers 0 and 65535)."""

CLASSES = ("IN", "CS", "CH", "HS", "NONE", "ANY")

_RCODE_NAMES = """
NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET NOTAUTH NOTZONE DSOTYPENI
"""
_EXTENDED_RCODE_NAMES = "BADSIG BADKEY BADTIME BADMODE BADNAME BADALG BADTRUNC BADCOOKIE"
RCODES = {
    **{name: number for number, name in enumerate(_RCODE_NAMES.split())},
    **{name: number for number, name in enumerate(_EXTENDED_RCODE_NAMES.split(), start=16)},
    "NOTIMPL": 4,
    "BADVERS": 16,
}
"""The response codes that ``valid_rcodes`` may name."""


def _one_of(names: tuple[str, ...], what: str) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name and name not in names:
            raise ValueError(f"unknown {what} {name!r}{nearest(name, names)}")
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


async def probe_dns(probe: Probe, settings: DnsSettings) -> None:
    """Send one query to a DNS server and judge its answer."""
    if not settings.query_name:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, "the module has no query_name")
    raise ProbeFailed(Reason.SETTINGS_UNSUPPORTED, "this version checks dns modules but does not probe them yet")


prober = Prober("dns", DnsSettings, probe_dns)
