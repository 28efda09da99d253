"""BIND 9 (named): an unsigned zone with a record of every type, and a signed one, over UDP, TCP and TLS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.servers import NOBODY, Room, having_said, server

CONFIG = """
options {{
  directory "{directory}";
  pid-file none;
  session-keyfile none;
  managed-keys-directory "{directory}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on port {tls_port} tls own {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  recursion no;
  allow-transfer {{ none; }};
  minimal-responses no;
  dnssec-validation no;
  notify no;
}};
tls own {{ cert-file "{certificate}"; key-file "{key}"; }};
controls {{ }};
zone "{plain}" {{ type primary; file "{plain}"; }};
zone "{signed}" {{ type primary; file "{signed}.signed"; }};
zone "{example}" {{ type primary; file "{example}"; }};
"""

PLAIN, SIGNED = "plain.test", "signed.test"
EXAMPLE = "example.com"
"""The zone that the shipped modules query."""

SERIAL = 2026112201

DATA = {
    "A": ["192.0.2.1", "192.0.2.2"],
    "AAAA": ["2001:db8::1"],
    "AFSDB": ["1 afs.plain.test."],
    "AMTRELAY": ["10 0 2 2001:db8::1"],
    "APL": ["1:192.0.2.0/24 !1:192.0.2.64/28 2:2001:db8::/32"],
    "AVC": ['"app-name:x"'],
    "CAA": ['0 issue "ca.example.test"', '128 iodef "mailto:who@example.test"'],
    "CDNSKEY": ["257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ=="],
    "CDS": ["60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
    "CERT": ["PKIX 12345 RSASHA256 AwEAAQ=="],
    "CNAME": ["Target.Plain.test."],
    "CSYNC": ["66 3 A NS AAAA"],
    "DHCID": ["AAIBY2/AuCccgoJbsaxcQc9TUapptP69lOjxfNuVAA2kjEA="],
    "DLV": ["60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
    "DNAME": ["elsewhere.test."],
    "DS": ["60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
    "EUI48": ["00-00-5e-00-53-2a"],
    "EUI64": ["00-00-5e-ef-10-00-00-2a"],
    "GPOS": ["-22.6882 116.8652 250.0"],
    "HINFO": ['"cpu x" "os"'],
    "HIP": ["2 200100107b1a74df365639cc39f1d578 AwEAAbdxyhNuSutc5EMzxTs9LBPCIkOF rvs.plain.test."],
    "HTTPS": ['1 . alpn="h2,h3" port="8443" ipv4hint="192.0.2.1" ipv6hint="2001:db8::1"'],
    "IPSECKEY": ["10 1 2 192.0.2.38 AQNRU3mG7TVTO2BkR47usntb102uFJtugbo6BSGvgqt4AQ=="],
    "ISDN": ['"150862028003217" "004"'],
    "KX": ["10 kx.plain.test."],
    "L32": ["10 10.1.2.0"],
    "L64": ["10 2001:0DB8:1140:1000"],
    "LOC": ["52 22 23.000 N 04 53 32.000 E -2m 1m 10000m 10m"],
    "LP": ["10 l64.plain.test."],
    "MB": ["mb.plain.test."],
    "MG": ["mg.plain.test."],
    "MINFO": ["a.plain.test. b.plain.test."],
    "MR": ["mr.plain.test."],
    "MX": ["10 mail.plain.test.", "20 mail2.plain.test."],
    "NAPTR": ['100 10 "U" "E2U+sip" "!^.*$!sip:x@y!" .'],
    "NID": ["10 0014:4fff:ff20:ee64"],
    "NINFO": ['"foo" "bar"'],
    "OPENPGPKEY": ["AwEAAQ=="],
    "PTR": ["host.plain.test."],
    "PX": ["65535 foo.plain.test. bar.plain.test."],
    "RKEY": ["0 255 1 AwEAAQ=="],
    "RP": ["a.plain.test. b.plain.test."],
    "RT": ["0 rt.plain.test."],
    "SMIMEA": ["3 1 1 0c72ac70b745ac19998811b131d662c9ac69dbdbe7cb23e5b514b56664c5d3d6"],
    "SPF": ['"v=spf1 -all"'],
    "SRV": ["1 2 443 host.plain.test."],
    "SSHFP": ["1 1 123456789ABCDEF67890123456789ABCDEF67890"],
    "SVCB": ['16 foo.plain.test. alpn="h2" port="53"'],
    "TA": ["60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"],
    "TALINK": [". talink.plain.test."],
    "TLSA": ["3 1 1 0c72ac70b745ac19998811b131d662c9ac69dbdbe7cb23e5b514b56664c5d3d6"],
    "TXT": [r'"v=spf1 -all" "two \"q\" \\ ; \195\169"', '""'],
    "URI": ['10 1 "https://x/y z"'],
    "X25": ["311061700956"],
    "ZONEMD": [f"{SERIAL} 1 1 {'c68090d90a7aed71' * 6}"],
}  # fmt: skip
"""The data of the records of each type, as blackbox_exporter prints them; each type has its own owner name."""

LARGE = [f'"{letter * 200}"' for letter in "abcdefgh"]
"""The TXT records of ``large``: too large for a datagram without EDNS."""

DELEGATION = ("cut\t300\tIN\tNS\tns.cut", "ns.cut\t300\tIN\tA\t192.0.2.53")


@dataclass(frozen=True)
class Bind:
    """A running named: the port of UDP and TCP, and that of DNS over TLS."""

    port: int
    tls_port: int


@server
def bind(room: Room) -> Iterator[Bind]:
    room.needs("named", "dnssec-keygen", "dnssec-signzone")
    made = Bind(room.port(), room.port())
    room.write(PLAIN, zone(PLAIN, *DATA))
    room.write(SIGNED, zone(SIGNED, "A", "AAAA", "MX", "TXT"))
    room.write(EXAMPLE, zone(EXAMPLE) + "www 300 IN A 192.0.2.80\n@ 300 IN MX 10 mail\n")
    for flags in ((), ("-f", "KSK")):
        room.run("dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", *flags, SIGNED)
    room.run("dnssec-signzone", "-S", "-o", SIGNED, SIGNED)
    certificate, key = room.certificate()
    config = room.write(
        "named.conf",
        CONFIG.format(directory=room.directory, port=made.port, tls_port=made.tls_port, certificate=certificate,
                      key=key, plain=PLAIN, signed=SIGNED, example=EXAMPLE),
    )  # fmt: skip
    # named listens before it has loaded its zones, so wait for a line of its log.
    ready = having_said(" running\n", room.log("named"))
    with room.running("named", "-g", "-c", config, ready=ready, user=NOBODY):
        yield made


def owner(type_: str, zone: str = PLAIN) -> str:
    """Return the owner name of the records of a type."""
    return f"{type_.lower()}.{zone}."


def zone(name: str, *types: str) -> str:
    """Return a zone file with the records of these types."""
    lines = [f"$ORIGIN {name}.", f"@ 300 IN SOA ns host {SERIAL} 7200 3600 1209600 300", "@ 300 IN NS ns"]
    lines += ["ns 300 IN A 127.0.0.1", *DELEGATION, *(f"large 30 IN TXT {text}" for text in LARGE)]
    lines += [f"{owner(type_, name)}\t300\tIN\t{type_}\t{one}" for type_ in types for one in DATA[type_]]
    return "\n".join([*lines, ""])
