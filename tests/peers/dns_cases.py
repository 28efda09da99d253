"""The dns cases: each form of a target, each setting, each rule for a section, and each kind of bad response.

Cases state no expectation: the comparison and the golden files do. The text of records is compared for each type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from probe_exporter.protocols.dns import codes
from tests.peers.cases import AMPLE, LATE, SHORT, Case
from tests.targets import Pause, Tls
from tests.targets.dns import (
    DnsServer,
    Says,
    Script,
    echo,
    garbage,
    name,
    one_after_another,
    opt,
    record,
    silence,
)
from tests.targets.dns_records import BROKEN, OPTIONS, OWNER, RECORDS

NAME = "www.example.test"
A, AAAA = record(NAME, "A", "192.0.2.1"), record(NAME, "AAAA", "2001:db8::1")
MX = record(NAME, "MX", "10 mail.example.test.", 3600)
NS = record("example.test", "NS", "ns1.example.test.", 3600)
SOA = record("example.test", "SOA", "ns1.test. host.test. 2024010101 7200 3600 1209600 300", 3600)
NEWER = record("example.test", "SOA", "ns1.test. host.test. 4294967295 7200 3600 1209600 300", 3600)
OK = Says([A])
FULL = Says([A, AAAA], [NS], [MX, opt()])
LOCAL = "127.0.0.1:{port}"
TLS: dict[str, Any] = {"transport_protocol": "tcp", "dns_over_tls": True}
TRUST = {"ca_file": "pki/root.pem"}


def dns(
    words: str,
    script: Script = OK,
    target: str = LOCAL,
    *,
    timeout: str = AMPLE,
    tls: Tls | None = None,
    raw: bool = False,
    hang_up: bool = False,
    pinned: bool = True,
    **settings: Any,
) -> Case:
    """Return a case of a query and the server's response."""
    asked = {"query_name": NAME, "query_type": "A", **settings}
    server = DnsServer(script, tls, raw=raw, hang_up=hang_up)
    return Case(f"dns {words}", asked, target, dns=server, timeout=timeout, prober="dns", pinned=pinned)


def over_both(words: str, script: Script, *, timeout: str = AMPLE, **settings: Any) -> tuple[Case, Case]:
    """Return the same case over UDP and over TCP."""
    over_tcp: dict[str, Any] = {**settings, "transport_protocol": "tcp"}
    return (
        dns(f"{words} over udp", script, timeout=timeout, **settings),
        dns(f"{words} over tcp", script, timeout=timeout, **over_tcp),
    )


ASKING = (
    dns("plain"),
    *over_both("all sections", FULL),
    dns("transport empty", transport_protocol=""),
    dns("transport sctp", transport_protocol="sctp"),
    dns("transport UDP in capitals", transport_protocol="UDP"),
    dns("over IPv6", target="[::1]:{port}"),
    dns("of a name", target="localhost:{port}", preferred_ip_protocol="ip4", pinned=False),
    dns("of a name that is none", target="a..b:{port}"),
    dns("of the wrong family", preferred_ip_protocol="ip6", ip_protocol_fallback=False),
    dns("of the right family", preferred_ip_protocol="ip4", ip_protocol_fallback=False),
    dns("target with a large port", target="127.0.0.1:65536"),
    dns("target with a port of letters", target="127.0.0.1:abc"),
    dns("target with an empty port", target="127.0.0.1:"),
    dns("target with a port of zero", target="127.0.0.1:0"),
    dns("target with a signed port", target="127.0.0.1:+{port}"),
    dns("target with a named port", target="127.0.0.1:TELNET", transport_protocol="tcp"),
    dns("target with a named port of udp", target="127.0.0.1:telnet"),
    dns("target with an unknown named port", target="127.0.0.1:nosuchservice"),
    dns("target without a host", target=":{port}"),
    dns("target of a URL", target="udp://127.0.0.1:{port}"),
    dns("target with a zone", target="[::1%lo]:{port}"),
    dns("target with a zone over tcp", target="[::1%lo]:{port}", transport_protocol="tcp"),
    dns("target of a mapped address", target="[::ffff:127.0.0.1]:{port}"),
    dns("target of a blank", target=" "),
    dns("target without a port", target="127.0.0.1", transport_protocol="tcp"),
    dns("target IPv6 without a port", target="::1", transport_protocol="tcp"),
    dns("target IPv6 in brackets without a port", target="[::1]", transport_protocol="tcp"),
    dns("nobody listens over udp", target="127.0.0.1:{dead}"),
    dns("nobody listens over tcp", target="127.0.0.1:{dead}", transport_protocol="tcp"),
    dns("no recursion", recursion_desired=False),
    dns("source address", source_ip_address="127.0.0.1"),
    dns("source address over tcp", source_ip_address="127.0.0.1", transport_protocol="tcp"),
    dns("source address of another family", source_ip_address="::1"),
    dns("source address of another host", source_ip_address="192.0.2.1"),
    dns("source address that is none", source_ip_address="eth0"),
    dns("query name absolute", query_name=f"{NAME}."),
    dns("query name in capitals", query_name=NAME.upper()),
    dns("query name of the root", query_name="."),
    dns("query name escaped", query_name=r"a\.b\032c.test"),
    dns("query name with an underscore", query_name="_dmarc.example.test"),
    dns("query name beyond ASCII", query_name="grün.test"),
    dns("query name with an empty label", query_name="a..b"),
    dns("query name with a long label", query_name="a" * 64),
    dns("query name too long", query_name=".".join(["a" * 63] * 4), timeout=SHORT),
    *(dns(f"query type {type_}", query_type=type_) for type_ in ("ANY", "AAAA", "CAA", "NSAP-PTR", "OPT", "Reserved")),
    *(dns(f"query type {type_} too", query_type=type_, pinned=False) for type_ in codes.TYPES),
    dns("query name beyond ASCII escaped", query_name=r"gr\195\188n.test"),
    dns("query name beyond ASCII in punycode", query_name="xn--grn-hoa.test"),
    dns("query name with blanks", query_name=" a b .test"),
    dns("query name of bytes that are no text", query_name=b"a\xff\xfe.test"),
    dns("query name ending in an escape", query_name="a.test\\"),
    dns("preferred protocol that is none", preferred_ip_protocol="ipv4"),
    dns(
        "preferred protocol that is none of IPv6",
        target="[::1]:{port}",
        preferred_ip_protocol="ipv6",
        ip_protocol_fallback=False,
    ),
    dns("source address of IPv6", target="[::1]:{port}", source_ip_address="::1"),
    dns("source address that is mapped", source_ip_address="::ffff:127.0.0.1"),
    dns("source address of another host over tcp", source_ip_address="192.0.2.1", transport_protocol="tcp"),
    *(dns(f"query class {class_}", query_class=class_) for class_ in ("CH", "HS", "NONE", "ANY")),
)


def default(words: str, script: Script = OK, target: str = LOCAL, *, pinned: bool = True, **settings: Any) -> Case:
    """Return a case of a module with a query name and no settings but these."""
    asked = {"query_name": NAME, **settings}
    return Case(f"dns default {words}", asked, target, dns=DnsServer(script), prober="dns", pinned=pinned)


def targets(words: str, target: str, *, pinned: bool = True) -> Case:
    """Return a case of a spelling of the target, over TCP, whose refusal ends a probe at once."""
    return default(f"target of {words}", target=target, transport_protocol="tcp", pinned=pinned)


def validate(value: Any, sections: Sequence[str] = ("answer", "authority", "additional")) -> dict[str, Any]:
    """Return the settings with the same validation of several sections."""
    return {f"validate_{section}_rrs": value for section in sections}


SETTINGS = (
    "query_type", "query_class", "transport_protocol", "dns_over_tls", "tls_config", "source_ip_address",
    "preferred_ip_protocol", "ip_protocol_fallback", "recursion_desired", "valid_rcodes", "validate_answer_rrs",
    "validate_authority_rrs", "validate_additional_rrs",
)  # fmt: skip
EMPTY_SETTINGS = ("query_type", "query_class", "transport_protocol", "source_ip_address", "preferred_ip_protocol")
KEYS = (
    "fail_if_matches_regexp",
    "fail_if_all_match_regexp",
    "fail_if_not_matches_regexp",
    "fail_if_none_matches_regexp",
)

DEFAULTS = (
    default("of everything", FULL),
    default("of everything without records", Says()),
    Case("dns default without a block", dns=DnsServer(FULL), target=LOCAL, prober="dns", block=False),
    *(default(f"{key} null", FULL, **dict[str, Any]({key: None})) for key in SETTINGS),
    *(default(f"{key} empty", FULL, **dict[str, Any]({key: ""})) for key in EMPTY_SETTINGS),
    default("tls_config empty", FULL, tls_config={}),
    default("validation empty", FULL, **validate({})),
    *(
        default(f"{key} {words} {given}", script, **validate({key: value}))
        for key in KEYS
        for words, value in (("null", None), ("empty", []), ("of an empty regexp", [""]))
        for given, script in (("with records", FULL), ("without records", Says()))
    ),
    default("valid_rcodes of NXDOMAIN", Says(flags=0x8183)),
    default("valid_rcodes null of NXDOMAIN", Says(flags=0x8183), valid_rcodes=None),
    default("query_type of a serial", Says([SOA], [NEWER])),
    default("query_type empty of a serial", Says([SOA], [NEWER]), query_type=""),
    default("transport tcp", FULL, transport_protocol="tcp"),
    default("recursion", recursion_desired=True),
)

NO_FALLBACK: dict[str, Any] = {"ip_protocol_fallback": False}
DEFAULT_TARGETS = (
    default("protocol to IPv4"),
    default("protocol to IPv6", target="[::1]:{port}"),
    default("protocol to IPv4 without fallback", **NO_FALLBACK),
    default("protocol to IPv6 without fallback", target="[::1]:{port}", **NO_FALLBACK),
    default("protocol null to IPv4 without fallback", preferred_ip_protocol=None, **NO_FALLBACK),
    default("protocol empty to IPv4 without fallback", preferred_ip_protocol="", **NO_FALLBACK),
    default("protocol ip4 to IPv6 without fallback", target="[::1]:{port}", preferred_ip_protocol="ip4", **NO_FALLBACK),
    default("protocol ip4 to IPv6", target="[::1]:{port}", preferred_ip_protocol="ip4"),
    *(
        default(f"protocol {protocol} to a name {words} fallback", target="localhost:{port}", pinned=False,
                preferred_ip_protocol=protocol, ip_protocol_fallback=fallback)
        for protocol in (None, "ip4", "ip6") for words, fallback in (("with", True), ("without", False), ("null", None))
    ),
    targets("a name", "localhost:{port}", pinned=False),
    targets("a name in capitals", "LOCALHOST:{port}", pinned=False),
    targets("a name in brackets", "[localhost]:{port}", pinned=False),
    targets("a name without a port", "localhost", pinned=False),
    targets("an unknown name", "nobody.invalid:{port}", pinned=False),
    targets("an unknown name with a dot", "nobody.invalid.:{port}", pinned=False),
    targets("an unknown name without a port", "nobody.invalid", pinned=False),
    targets("a dot", ".", pinned=False),
    targets("an address with a dot", "127.0.0.1.:{port}", pinned=False),
    targets("an address with a dot and without a port", "127.0.0.1.", pinned=False),
    targets("an address in brackets", "[127.0.0.1]:{port}"),
    targets("an address in brackets without a port", "[127.0.0.1]"),
    targets("an address of two numbers", "127.1:{port}", pinned=False),
    targets("an address of one number", "2130706433:{port}", pinned=False),
    targets("an address in hexadecimal", "0x7f000001:{port}", pinned=False),
    targets("an address with leading zeros", "127.0.0.001:{port}", pinned=False),
    targets("any address", "0.0.0.0:{port}"),
    targets("any address of IPv6", "[::]:{port}"),
    targets("IPv6 in full", "[0:0:0:0:0:0:0:1]:{port}"),
    targets("IPv6 without brackets", "::1:{port}"),
    targets("IPv6 with an empty port", "[::1]:"),
    targets("IPv6 with a zone and without a port", "::1%lo"),
    targets("IPv6 with a zone that is not there", "[::1%nowhere0]:{port}"),
    targets("a mapped address without a port", "::ffff:127.0.0.1"),
    targets("brackets with nothing in them", "[]:{port}"),
    targets("half a bracket", "[::1:{port}"),
    targets("the other half", "::1]:{port}"),
    targets("a colon", ":"),
    targets("two ports", "127.0.0.1:{port}:53"),
    targets("an address after a blank", " 127.0.0.1:{port}"),
    targets("a port before a blank", "127.0.0.1:{port} "),
    targets("a port before a path", "127.0.0.1:{port}/"),
    targets("a port with leading zeros", "127.0.0.1:00{port}"),
    default("target of an address without a port", target="127.0.0.1"),
    default("target of IPv6 without a port", target="::1"),
    default("tls to IPv6", target="::1", **TLS),
    default("tls to IPv6 in brackets", target="[::1]", **TLS),
    default("tls to a name", target="localhost", pinned=False, **TLS),
    default("tls to an empty port", target="127.0.0.1:", **TLS),
)  # fmt: skip

SERIALS = (
    dns("serial", Says([SOA]), query_type="SOA"),
    dns("serial of the last SOA", Says([SOA, NEWER]), query_type="SOA"),
    dns("serial in the authority section", Says(authority=[SOA]), query_type="SOA"),
    dns("serial of no answer", Says(), query_type="SOA"),
    dns("serial with a refusal", Says(flags=0x8185), query_type="SOA"),
    dns("serial of silence", silence, query_type="SOA", timeout=SHORT),
    dns("serial not asked for", Says([SOA]), query_type="ANY"),
)

RCODES = (
    *(dns(f"rcode {code}", Says(flags=0x8180 | code)) for code in (1, 2, 3, 4, 5, 9, 11, 12, 15)),
    dns("rcode NXDOMAIN wanted", Says(flags=0x8183), valid_rcodes=["NXDOMAIN"]),
    dns("rcode NOTIMP wanted", Says(flags=0x8184), valid_rcodes=["NOTIMP"]),
    dns("rcode NOTIMPL wanted", Says(flags=0x8184), valid_rcodes=["NOTIMPL"]),
    dns("rcode NXDOMAIN wanted and not given", valid_rcodes=["NXDOMAIN"]),
    dns("rcode one of several", Says(flags=0x8185), valid_rcodes=["NOERROR", "REFUSED"]),
    dns("rcode none of nothing", valid_rcodes=[]),
    dns("rcode of no name", valid_rcodes=["NOERROR", "BOGUS"]),
    dns("rcode of no name first", valid_rcodes=["BOGUS", "NOERROR"]),
    dns("rcode extended", Says(additional=[opt(ttl=0x01000000)])),
    dns("rcode BADSIG wanted", Says(additional=[opt(ttl=0x01000000)]), valid_rcodes=["BADSIG"]),
    dns("rcode BADVERS wanted", Says(additional=[opt(ttl=0x01000000)]), valid_rcodes=["BADVERS"]),
    dns("rcode BADCOOKIE wanted", Says(flags=0x8187, additional=[opt(ttl=0x01000000)]), valid_rcodes=["BADCOOKIE"]),
    dns("rcode without a question", Says(flags=0x8185, question=b"")),
    dns("rcode lower case", valid_rcodes=["noerror"]),
    *(
        dns(
            f"rcode named {rcode}",
            Says(flags=0x8180 | number & 15, additional=[opt(ttl=number >> 4 << 24)]),
            valid_rcodes=[rcode],
            pinned=False,
        )
        for rcode, number in codes.RCODES.items()
        if rcode != "BADVERS"
    ),
    *(
        dns(
            f"rcode of number {number}",
            Says(flags=0x8180 | number & 15, additional=[opt(ttl=number >> 4 << 24)]),
            valid_rcodes=list(codes.RCODES.keys() - {"BADVERS"}),
            pinned=False,
        )
        for number in (12, 24, 4095)
    ),
)

OTHER = name("other.test") + b"\0\1\0\1"
LONG = [record(NAME, "TXT", f'"{"x" * 200}"')] * 4
WRONG = (
    *over_both("silence", silence, timeout=SHORT),
    *over_both("another id", Says([A], number=1), timeout=SHORT),
    dns("another id, then the right one", one_after_another(Says([A, A], number=1), OK)),
    *over_both("another question", Says([A], question=OTHER)),
    *over_both("the question in capitals", Says([A], question=name(NAME.upper()) + b"\0\1\0\1")),
    *over_both("no question", Says([A], question=b"")),
    *over_both("no response flag", Says([A], flags=0x0180)),
    *over_both("an echo", echo),
    *over_both("garbage", garbage(b"\xff" * 40)),
    *over_both("five bytes", garbage(b"\xff" * 5)),
    *over_both("nothing at all", garbage(b""), timeout=SHORT),
    *over_both("a header alone", Says(question=b"", counts=(0, 0, 0, 0))),
    *over_both("a header that promises", Says(question=b"", counts=(1, 1, 1, 1))),
    *over_both("fewer records than promised", Says([A], counts=(1, 3, 2, 1))),
    *over_both("more records than promised", Says([A, A], counts=(1, 1, 0, 0))),
    *over_both("a record that is cut", Says([A], cut=1)),
    *over_both("a record without data", Says([A], cut=4)),
    *over_both("bytes behind the message", Says([A], after=b"abc")),
    *over_both("truncated", Says([A], flags=0x8380)),
    *over_both("large", Says(LONG)),
    dns("late", one_after_another(LATE, OK), timeout=SHORT),
    dns("slow", one_after_another(Pause(0.2), OK)),
    dns("hung up at once over tcp", silence, hang_up=True, transport_protocol="tcp"),
    dns("a length and nothing over tcp", garbage(b"\0\x40"), raw=True, hang_up=True, transport_protocol="tcp"),
    dns("a length and silence over tcp", garbage(b"\0\x40"), raw=True, transport_protocol="tcp", timeout=SHORT),
)

SECURE = (
    dns("tls", tls=Tls(), target="127.0.0.1:{tls_port}", tls_config=TRUST, **TLS),
    dns("tls of a stranger", tls=Tls(), target="127.0.0.1:{tls_port}", **TLS),
    dns("tls not verified", tls=Tls(), target="127.0.0.1:{tls_port}",
        tls_config={"insecure_skip_verify": True}, **TLS),
    dns("tls server name", tls=Tls(), target="127.0.0.1:{tls_port}",
        tls_config={**TRUST, "server_name": "www.example.test"}, **TLS),
    dns("tls wrong server name", tls=Tls(), target="127.0.0.1:{tls_port}",
        tls_config={**TRUST, "server_name": "wrong.test"}, **TLS),
    dns("tls with a file that is missing", tls=Tls(), target="127.0.0.1:{tls_port}",
        tls_config={"ca_file": "nowhere.pem"}, **TLS),
    dns("tls of a plain server", target="127.0.0.1:{port}", timeout=SHORT, **TLS),
    dns("tls and silence", silence, tls=Tls(), target="127.0.0.1:{tls_port}", timeout=SHORT,
        tls_config=TRUST, **TLS),
    dns("tls over IPv6", tls=Tls(), target="[::1]:{tls_port}", tls_config=TRUST, **TLS),
    dns("tls by a name", tls=Tls("localhost_only"), target="localhost:{tls_port}", tls_config=TRUST,
        preferred_ip_protocol="ip4", **TLS),
    dns("tls by another name", tls=Tls("localhost_only"), target="127.0.0.1:{tls_port}", tls_config=TRUST, **TLS),
    dns("tls expired", tls=Tls("expired"), target="127.0.0.1:{tls_port}", tls_config=TRUST, **TLS),
    dns("tls self-signed", tls=Tls("self_signed"), target="127.0.0.1:{tls_port}", tls_config=TRUST, **TLS),
    dns("tls without the intermediate", tls=Tls("no_intermediate"), target="127.0.0.1:{tls_port}",
        tls_config=TRUST, **TLS),
    dns("tls with the intermediate as CA", tls=Tls("no_intermediate"), target="127.0.0.1:{tls_port}",
        tls_config={"ca_file": "pki/intermediate.pem"}, **TLS),
    dns("tls with minimum above maximum", tls=Tls(), target="127.0.0.1:{tls_port}",
        tls_config={**TRUST, "min_version": "TLS13", "max_version": "TLS12"}, **TLS),
    dns("tls from an address", tls=Tls(), target="127.0.0.1:{tls_port}", tls_config=TRUST,
        source_ip_address="127.0.0.9", **TLS),
    dns("tls on a dead port", target="127.0.0.1:{dead}", tls_config=TRUST, **TLS),
    dns("tls with a demand", FULL, tls=Tls(), target="127.0.0.1:{tls_port}", tls_config=TRUST,
        validate_answer_rrs={"fail_if_matches_regexp": ["AAAA"]}, **TLS),
    dns("tls over udp", dns_over_tls=True),
    dns("tls without a port", target="127.0.0.1", **TLS),
    dns("tls_config without tls", tls_config={"ca_file": "nowhere.pem"}),
)  # fmt: skip


def demands(section: str, key: str, regexps: Sequence[str]) -> dict[str, Any]:
    """Return the settings with one rule for one section."""
    return {f"validate_{section}_rrs": {key: list(regexps)}}


REGEXPS = {
    "that all match": ["IN"],
    "that one matches": ["AAAA"],
    "that none matches": ["nothing"],
    "of which each has its own": ["192", "2001"],
    "that is none": ["("],
}
VALIDATED = (
    *(
        dns(f"{key} {words}", FULL, **demands("answer", key, regexps))
        for key in KEYS
        for words, regexps in REGEXPS.items()
    ),
    *(dns(f"{key} without records", Says(), **demands("answer", key, ["a"])) for key in KEYS),
    *(dns(f"{key} bad without records", Says(), **demands("answer", key, ["("])) for key in KEYS),
    *(
        dns(
            f"{section} {'good' if good else 'bad'}", FULL, **demands(section, KEYS[2] if good else KEYS[0], ["IN|OPT"])
        )
        for section in ("authority", "additional")
        for good in (True, False)
    ),
    dns("validation after a bad rcode", Says([A], flags=0x8182), **demands("answer", KEYS[0], ["IN"])),
)


def _plain(text: str) -> bool:
    return text.replace("\t", "").replace("\n", "").isprintable() and text.isascii()


def exactly(texts: Sequence[str]) -> str:
    """Return a regular expression that matches any of these texts in full."""
    return "^(" + "|".join(re.sub(r"([^\w\s])", r"\\\1", text) for text in texts) + ")$"


def _texts() -> Sequence[Case]:
    rows = sorted(
        ((str(type_), type_, data, text) for type_, data, text in RECORDS if _plain(text)), key=lambda r: r[0]
    )
    cases = []
    for type_, group in groupby(rows, key=lambda row: row[0]):
        some = list(group)
        script = Says([record(OWNER, one[1], one[2]) for one in some])
        demand = demands("answer", KEYS[2], [exactly([one[3] for one in some])])
        cases.append(dns(f"text of type {type_}", script, transport_protocol="tcp", **demand))
    for number, (data, text) in enumerate(one for one in OPTIONS if _plain(one[1])):
        demand = demands("additional", KEYS[2], [exactly([text])])
        cases.append(dns(f"text of options {number}", Says(additional=[opt(data)]), **demand))
    return cases


TEXTS = (
    *_texts(),
    *(
        dns(f"broken record {number}", Says([record(OWNER, type_, data)]))
        for number, (type_, data) in enumerate(BROKEN)
    ),
)

GROUPS: dict[str, tuple[Case, ...]] = {
    "dns_asking": ASKING,
    "dns_defaults": DEFAULTS,
    "dns_default_targets": DEFAULT_TARGETS,
    "dns_serials": SERIALS,
    "dns_rcodes": RCODES,
    "dns_wrong": WRONG,
    "dns_tls": SECURE,
    "dns_validated": VALIDATED,
    "dns_texts": TEXTS,
}
"""Every case, by its golden file."""
