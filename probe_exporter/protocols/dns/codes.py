"""DNS types, classes and response codes by name: those of IANA, and the original's additions."""

from __future__ import annotations

_TYPES = """
None=0 A=1 NS=2 MD=3 MF=4 CNAME=5 SOA=6 MB=7 MG=8 MR=9 NULL=10 PTR=12 HINFO=13 MINFO=14 MX=15 TXT=16 RP=17 AFSDB=18
X25=19 ISDN=20 RT=21 NSAP-PTR=23 SIG=24 KEY=25 PX=26 GPOS=27 AAAA=28 LOC=29 NXT=30 EID=31 NIMLOC=32 SRV=33 ATMA=34
NAPTR=35 KX=36 CERT=37 DNAME=39 OPT=41 APL=42 DS=43 SSHFP=44 IPSECKEY=45 RRSIG=46 NSEC=47 DNSKEY=48 DHCID=49 NSEC3=50
NSEC3PARAM=51 TLSA=52 SMIMEA=53 HIP=55 NINFO=56 RKEY=57 TALINK=58 CDS=59 CDNSKEY=60 OPENPGPKEY=61 CSYNC=62 ZONEMD=63
SVCB=64 HTTPS=65 SPF=99 UINFO=100 UID=101 GID=102 UNSPEC=103 NID=104 L32=105 L64=106 LP=107 EUI48=108 EUI64=109
NXNAME=128 TKEY=249 TSIG=250 IXFR=251 AXFR=252 MAILB=253 MAILA=254 ANY=255 URI=256 CAA=257 AVC=258 AMTRELAY=260
RESINFO=261 TA=32768 DLV=32769 Reserved=65535
"""

TYPES = {name: int(number) for name, _, number in (word.partition("=") for word in _TYPES.split())}
"""Numbers of record types by name."""

CLASSES = {"IN": 1, "CS": 2, "CH": 3, "HS": 4, "NONE": 254, "ANY": 255}

_RCODES = "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSET NOTAUTH NOTZONE DSOTYPENI"
_EXTENDED_RCODES = "BADSIG BADKEY BADTIME BADMODE BADNAME BADALG BADTRUNC BADCOOKIE"
RCODES = {
    **{name: number for number, name in enumerate(_RCODES.split())},
    **{name: number for number, name in enumerate(_EXTENDED_RCODES.split(), start=16)},
    "NOTIMPL": 4,
    "BADVERS": 16,
}
"""Numbers of response codes by name; two codes have a second name."""

TYPE_NAMES = {number: name for name, number in TYPES.items()}
CLASS_NAMES = {number: name for name, number in CLASSES.items()}
RCODE_NAMES = {number: name for name, number in reversed(RCODES.items())}


def type_name(number: int) -> str:
    """Return ``MX``, or ``TYPE65280`` for a type without a name (RFC 3597)."""
    return TYPE_NAMES.get(number) or f"TYPE{number}"


def class_name(number: int) -> str:
    """Return ``IN``, or ``CLASS9`` for a class without a name (RFC 3597)."""
    return CLASS_NAMES.get(number) or f"CLASS{number}"


def rcode_name(number: int) -> str:
    """Return ``NXDOMAIN``, or the number for a code without a name."""
    return RCODE_NAMES.get(number) or str(number)
