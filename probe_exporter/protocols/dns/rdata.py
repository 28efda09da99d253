"""Print DNS records as text, exactly as the original does, because users' regular expressions match that text.

Each type is a row of `FORMS`: the readers of its fields, in order. A reader takes its field from the wire and returns
it as text; blanks separate the fields. A type without a row is printed as RFC 3597 prescribes.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from datetime import UTC, datetime

from probe_exporter.protocols.dns.codes import TYPES, class_name, type_name
from probe_exporter.protocols.dns.wire import STRING_ESCAPES, Malformed, Wire, escaped

Reader = Callable[[Wire], str]


def record_text(owner: str, type_: int, class_: int, ttl: int, data: Wire) -> str:
    """Return a whole record as text.

    Raises:
        Malformed: the data does not fit the type.
    """
    if type_ == _OPT:
        return _opt(class_, ttl, data)
    form = FORMS.get(type_)
    if form is None:
        size = data.end - data.at
        return f"{owner}\t{ttl}\tCLASS{class_}\tTYPE{type_}\t\\# {size} {data.rest().hex()}"
    head = f"{_BEFORE.get(type_, '')}{owner}\t{ttl}\t{class_name(class_)}\t{type_name(type_)}\t"
    if data.at == data.end:
        return head
    text = head + (form[0](data) if len(form) == 1 else " ".join([read(data) for read in form]))
    if data.at != data.end:
        raise Malformed(f"a record of type {type_name(type_)} is longer than its fields")
    return text


# --- fields ------------------------------------------------------------------------------------------------


def _u8(wire: Wire) -> str:
    return str(wire.number(1))


def _u16(wire: Wire) -> str:
    return str(wire.number(2))


def _u32(wire: Wire) -> str:
    return str(wire.number(4))


def _name(wire: Wire) -> str:
    return wire.name()


def _ipv4(wire: Wire) -> str:
    return "%d.%d.%d.%d" % tuple(wire.take(4))  # noqa: UP031  # the fastest way


def _ipv6(wire: Wire) -> str:
    return _ipv6_text(wire.take(16))


def _ipv6_text(packed: bytes) -> str:
    address = ipaddress.IPv6Address(packed)
    return f"::ffff:{address.ipv4_mapped}" if address.ipv4_mapped else str(address)


def _bare(wire: Wire) -> str:
    """Read a string; return it without quotation marks."""
    return escaped(wire.string(), STRING_ESCAPES)


def _quoted(wire: Wire) -> str:
    return f'"{_bare(wire)}"'


def _strings(wire: Wire) -> str:
    """Read all strings up to the end."""
    return _until_end(wire, _quoted)


def _or_empty(read: Reader) -> Reader:
    """Return a reader of a string that may be missing at the end."""
    return lambda wire: read(wire) if wire.at < wire.end else '""'


_ESCAPE = re.compile(rb"\\(\.)|\\([0-9]{3})|\\(.?)|[^\\]+", re.DOTALL)


def _octets(wire: Wire) -> str:
    """Read the rest as one string without a length of its own.

    A backslash on the wire begins an escape sequence, as in the original.
    """
    return f'"{_ESCAPE.sub(_reescape, wire.rest()).decode()}"'


def _reescape(found: re.Match[bytes]) -> bytes:
    if found[1]:
        return found[0]
    data = bytes([int(found[2]) & 255]) if found[2] else found[0] if found[3] is None else found[3]
    return escaped(data, STRING_ESCAPES).encode()


def _base64(wire: Wire) -> str:
    return base64.b64encode(wire.rest()).decode()


def _hex(wire: Wire) -> str:
    return wire.rest().hex()


def _upper_hex(wire: Wire) -> str:
    return wire.rest().hex().upper()


def _until_end(wire: Wire, read: Reader) -> str:
    fields = []
    while wire.at < wire.end:
        fields.append(read(wire))
    return " ".join(fields)


_LAST_MOMENT = 253402300799  # the end of the year 9999; 48 bits reach beyond it


def _moment(wire: Wire, size: int = 4) -> str:
    moment = datetime.fromtimestamp(min(wire.number(size), _LAST_MOMENT), UTC)
    return f"{moment:%Y%m%d%H%M%S}"


def _type(wire: Wire) -> str:
    return type_name(wire.number(2))


def _with_types(*readers: Reader) -> Reader:
    """Return a reader of fields and a list of types at the end; an empty list leaves no blank."""
    return lambda wire: " ".join([read(wire) for read in readers] + _types(wire))


def _types(wire: Wire) -> list[str]:
    """Read bitmaps of types, window by window (RFC 4034, 4.1.2)."""
    found: list[str] = []
    last = -1
    while wire.at < wire.end:
        window, size = wire.number(1), wire.number(1)
        if window <= last or not 0 < size <= 32:
            raise Malformed("the bitmaps of types are out of order")
        last = window
        for octet, bits in enumerate(wire.take(size)):
            found += [type_name(window << 8 | octet << 3 | bit) for bit in range(8) if bits & 0x80 >> bit]
    return found


def _salt(wire: Wire) -> str:
    return wire.string().hex().upper() or "-"


def _hashed_name(wire: Wire) -> str:
    return base64.b32hexencode(wire.string()).decode().rstrip("=")


def _eui(size: int) -> Reader:
    return lambda wire: wire.take(size).hex("-")


def _locator(wire: Wire) -> str:
    """Read 64 bits; return groups of 16 (RFC 6742)."""
    return wire.take(8).hex(":", 2)


# --- records with special forms ------------------------------------------------------------------------------

_CERTIFICATE_TYPES = {
    1: "PKIX", 2: "SPKI", 3: "PGP", 4: "IPIX", 5: "ISPKI", 6: "IPGP", 7: "ACPKIX", 8: "IACPKIX", 253: "URI", 254: "OID",
}  # fmt: skip
_ALGORITHMS = {
    1: "RSAMD5", 2: "DH", 3: "DSA", 5: "RSASHA1", 6: "DSA-NSEC3-SHA1", 7: "RSASHA1-NSEC3-SHA1", 8: "RSASHA256",
    10: "RSASHA512", 12: "ECC-GOST", 13: "ECDSAP256SHA256", 14: "ECDSAP384SHA384", 15: "ED25519", 16: "ED448",
    252: "INDIRECT", 253: "PRIVATEDNS", 254: "PRIVATEOID",
}  # fmt: skip


def _certificate_type(wire: Wire) -> str:
    number = wire.number(2)
    return _CERTIFICATE_TYPES.get(number) or str(number)


def _algorithm(wire: Wire) -> str:
    number = wire.number(1)
    return _ALGORITHMS.get(number) or str(number)


def _address_prefixes(wire: Wire) -> str:
    return _until_end(wire, _address_prefix)


def _address_prefix(wire: Wire) -> str:
    """Read an address prefix: ``!1:192.0.2.0/24`` (RFC 3123)."""
    family, length, size = wire.number(2), wire.number(1), wire.number(1)
    width = {1: 4, 2: 16}.get(family, 0)
    if not width or size & 127 > width or length > width * 8:
        raise Malformed("a prefix has an unknown address family, or is longer than an address")
    sent = wire.take(size & 127)
    packed = sent.ljust(width, b"\0")
    if sent.endswith(b"\0") or int.from_bytes(packed, "big") & (1 << (width * 8 - length)) - 1:
        raise Malformed("a prefix has more bits than its length says")
    address = _ipv6_text(packed) if family == 2 else str(ipaddress.IPv4Address(packed))
    return f"{'!' * (size >> 7)}{family}:{address}/{length}"


def _gateway(wire: Wire, kind: int) -> str:
    readers: dict[int, Reader] = {0: lambda _: ".", 1: _ipv4, 2: _ipv6, 3: _name}
    if kind not in readers:
        raise Malformed("a gateway has an unknown type")
    return readers[kind](wire)


def _ipsec_key(wire: Wire) -> str:
    precedence, kind, algorithm = wire.take(3)
    return f"{precedence} {kind} {algorithm} {_gateway(wire, kind)} {_base64(wire)}"


def _amt_relay(wire: Wire) -> str:
    precedence, kind = wire.take(2)
    return f"{precedence} {kind >> 7} {kind & 127} {_gateway(wire, kind & 127)}"


def _host_identity(wire: Wire) -> str:
    tag_size, algorithm, key_size = wire.number(1), wire.number(1), wire.number(2)
    tag, key = wire.take(tag_size).hex(), base64.b64encode(wire.take(key_size)).decode()
    return " ".join(filter(None, [str(algorithm), tag, key, _until_end(wire, _name)]))


_ARC_SECOND, _ARC_MINUTE, _DEGREE = 1000, 60_000, 3_600_000
_EQUATOR = 1 << 31
_SEA_LEVEL = 10_000_000  # centimetres above the lowest altitude that can be encoded


def _location(wire: Wire) -> str:
    """Read the location of a LOC record of version 0 (RFC 1876)."""
    _, size, horizontal, vertical = wire.take(4)
    latitude, longitude, altitude = wire.number(4), wire.number(4), wire.number(4) - _SEA_LEVEL
    metres = f"{altitude / 100:.2f}m" if altitude % 100 else f"{altitude // 100}m"
    precisions = " ".join(_metres(value) for value in (size, horizontal, vertical))
    return f"{_angle(latitude, 'NS')} {_angle(longitude, 'EW')} {metres} {precisions}"


def _angle(value: int, sides: str) -> str:
    side = sides[0] if value > _EQUATOR else sides[1]
    value = abs(value - _EQUATOR)
    seconds = value % _ARC_MINUTE / _ARC_SECOND
    return f"{value // _DEGREE:02d} {value % _DEGREE // _ARC_MINUTE:02d} {seconds:.3f} {side}"


def _metres(value: int) -> str:
    """Return metres as text; `value` is centimetres as a digit and a power of ten."""
    digit, power = value >> 4, value & 15
    if power < 2:
        return f"0.{digit * 10**power:02d}m"
    return f"{digit}{'0' * (power - 2)}m"


_SERVICE_KEYS = ("mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp")
_IN_ALPN = STRING_ESCAPES | {ord(","): r"\\\044", ord("\\"): r"\\\092", ord(";"): "\\;", ord(" "): "\\ "}
_IN_SERVICE = STRING_ESCAPES | {ord(";"): "\\;", ord(" "): "\\ "}


def _service_key(number: int) -> str:
    return _SERVICE_KEYS[number] if number < len(_SERVICE_KEYS) else f"key{number}"


def _service(wire: Wire) -> str:
    """Read the data of HTTPS and SVCB (RFC 9460)."""
    fields = [_u16(wire), _name(wire)]
    last = -1
    while wire.at < wire.end:
        number, size = wire.number(2), wire.number(2)
        value = Wire(wire.take(size))
        fields.append(f'{_service_key(number)}="{_SERVICE_VALUES.get(number, _plain_value)(value)}"')
        if number <= last or value.at < value.end:
            raise Malformed("the parameters of a service are out of order, or one has extra bytes")
        last = number
    return " ".join(fields)


def _plain_value(wire: Wire) -> str:
    return escaped(wire.rest(), _IN_SERVICE)


def _listed(read: Reader) -> Reader:
    def readers(wire: Wire) -> str:
        values = []
        while wire.at < wire.end:
            values.append(read(wire))
        return ",".join(values)

    return readers


_SERVICE_VALUES: dict[int, Reader] = {
    0: _listed(lambda wire: _service_key(wire.number(2))),
    1: _listed(lambda wire: escaped(wire.string(), _IN_ALPN)),
    2: lambda _: "",
    3: _u16,
    4: _listed(_ipv4),
    5: _base64,
    6: _listed(_ipv6),
}


_BEFORE = {TYPES["NULL"]: ";", TYPES["TKEY"]: ";", TYPES["TSIG"]: "\n;; TSIG PSEUDOSECTION:\n; "}
"""Text before records that have no presentation format."""


def _raw(wire: Wire) -> str:
    return wire.rest().decode("utf-8", "surrogateescape")


def _sized(wire: Wire) -> tuple[int, str]:
    size = wire.number(2)
    return size, wire.take(size).hex()


def _transaction_key(wire: Wire) -> str:
    head = [_name(wire), _moment(wire), _moment(wire), _u16(wire), _u16(wire)]
    return " ".join(["", *head, *(f"{size} {data}" for size, data in (_sized(wire), _sized(wire)))])


def _transaction_signature(wire: Wire) -> str:
    head = [_name(wire), _moment(wire, 6), _u16(wire)]
    size, code = _sized(wire)
    tail = [_u16(wire), _u16(wire), *map(str, _sized(wire))]
    return " ".join(["", *head, str(size), code.upper(), *tail])


# --- OPT ---------------------------------------------------------------------------------------------------

_OPT = TYPES["OPT"]
_DNSSEC_OK = 0x8000


def _opt(class_: int, ttl: int, data: Wire) -> str:
    """Print the pseudo-record OPT (RFC 6891, 6.1), whose class and TTL hold other values."""
    flags = " do" if ttl & _DNSSEC_OK else ""
    lines = ["", ";; OPT PSEUDOSECTION:", f"; EDNS: version {ttl >> 16 & 255}; flags:{flags}; udp: {class_}"]
    while data.at < data.end:
        code, size = data.number(2), data.number(2)
        value = Wire(data.take(size))
        label, read = _OPTIONS.get(code, (f"LOCAL OPT: {code}:0x", _hex))
        lines.append(f"; {label}{read(value)}")
    return "\n".join(lines)


def _server_id(wire: Wire) -> str:
    value = wire.rest()
    return f"{value.hex()}  " + "".join(f"({chr(byte)})" for byte in value)


def _client_subnet(wire: Wire) -> str:
    """Read a client subnet (RFC 7871)."""
    family, length, scope = wire.number(2), wire.number(1), wire.number(1)
    packed = wire.rest()
    if len(packed) > {1: 4, 2: 16}.get(family, 0):
        raise Malformed("the address of a client subnet is too long")
    if family == 1:
        return f"{ipaddress.IPv4Address(packed.ljust(4, bytes(1)))}/{length}/{scope}"
    return f"[{_ipv6_text(packed.ljust(16, bytes(1)))}]/{length}/{scope}"


# From RFC 8914 and the registry of IANA.
_ERRORS = (
    "Other", "Unsupported DNSKEY Algorithm", "Unsupported DS Digest Type", "Stale Answer", "Forged Answer",
    "DNSSEC Indeterminate", "DNSSEC Bogus", "Signature Expired", "Signature Not Yet Valid", "DNSKEY Missing",
    "RRSIGs Missing", "No Zone Key Bit Set", "NSEC Missing", "Cached Error", "Not Ready", "Blocked", "Censored",
    "Filtered", "Prohibited", "Stale NXDOMAIN Answer", "Not Authoritative", "Not Supported", "No Reachable Authority",
    "Network Error", "Invalid Data", "Signature Expired Before Valid", "Too Early",
    "Unsupported NSEC3 Iterations Value",
    "Unable To Conform To Policy", "Synthesized", "Invalid Query Type",
)  # fmt: skip


def _extended_error(wire: Wire) -> str:
    code = wire.number(2)
    named = f" ({_ERRORS[code]})" if code < len(_ERRORS) else ""
    return f"{code}{named}: ({_raw(wire)})"


def _keepalive(wire: Wire) -> str:
    timeout = f"{wire.number(2) * 100}ms" if wire.end else "omitted"
    return f"use tcp keep-alive, timeout {timeout}"


def _seconds(wire: Wire) -> str:
    return _u32(wire) if wire.end else ""


def _lease(wire: Wire) -> str:
    return f"{_u32(wire)} {_u32(wire) if wire.at < wire.end else 0}"


def _long_lived(wire: Wire) -> str:
    return f"{_u16(wire)} {_u16(wire)} {_u16(wire)} {wire.number(8)} {_u32(wire)}"


def _understood(names: dict[int, str]) -> Reader:
    return lambda wire: "".join(f" {names.get(number) or number}" for number in wire.rest())


_DIGESTS = {1: "SHA1", 2: "SHA256", 3: "GOST94", 4: "SHA384", 5: "SHA512"}
_OPTIONS: dict[int, tuple[str, Reader]] = {
    1: ("LONG LIVED QUERIES: ", _long_lived),
    2: ("UPDATE LEASE: ", _lease),
    3: ("NSID: ", _server_id),
    4: ("ESU: ", _raw),
    5: ("DNSSEC ALGORITHM UNDERSTOOD: ", _understood(_ALGORITHMS)),
    6: ("DS HASH UNDERSTOOD: ", _understood(_DIGESTS)),
    7: ("NSEC3 HASH UNDERSTOOD: ", _understood({1: "SHA1"})),
    8: ("SUBNET: ", _client_subnet),
    9: ("EXPIRE: ", _seconds),
    10: ("COOKIE: ", _hex),
    11: ("KEEPALIVE: ", _keepalive),
    12: ("PADDING: ", _hex),
    15: ("EDE: ", _extended_error),
    18: ("REPORT-CHANNEL: ", _name),
}

# --- the table ---------------------------------------------------------------------------------------------

_KEY = (_u16, _u8, _u8, _base64)
_DIGEST = (_u16, _u8, _u8, _upper_hex)
_ASSOCIATION = (_u8, _u8, _u8, _hex)
_PREFERENCE = (_u16, _name)
_SIGNATURE = (_type, _u8, _u8, _u32, _moment, _moment, _u16, _name, _base64)

_FORMS: dict[str, tuple[Reader, ...]] = {
    **dict.fromkeys(("CNAME", "DNAME", "MB", "MD", "MF", "MG", "MR", "NS", "NSAP-PTR", "PTR"), (_name,)),
    **dict.fromkeys(("AFSDB", "KX", "LP", "MX", "RT"), _PREFERENCE),
    **dict.fromkeys(("MINFO", "RP", "TALINK"), (_name, _name)),
    **dict.fromkeys(("AVC", "NINFO", "RESINFO", "SPF", "TXT"), (_strings,)),
    **dict.fromkeys(("CDNSKEY", "DNSKEY", "KEY", "RKEY"), _KEY),
    **dict.fromkeys(("CDS", "DLV", "DS", "TA"), _DIGEST),
    **dict.fromkeys(("SMIMEA", "TLSA"), _ASSOCIATION),
    **dict.fromkeys(("RRSIG", "SIG"), _SIGNATURE),
    **dict.fromkeys(("HINFO", "ISDN"), (_or_empty(_quoted), _or_empty(_quoted))),
    **dict.fromkeys(("NSEC", "NXT"), (_with_types(_name),)),
    **dict.fromkeys(("HTTPS", "SVCB"), (_service,)),
    **dict.fromkeys(("DHCID", "OPENPGPKEY"), (_base64,)),
    **dict.fromkeys(("EID", "NIMLOC"), (_upper_hex,)),
    **dict.fromkeys(("GID", "UID"), (_u32,)),
    **dict.fromkeys(("ANY", "NXNAME"), ()),
    "A": (_ipv4,),
    "AAAA": (_ipv6,),
    "AMTRELAY": (_amt_relay,),
    "APL": (_address_prefixes,),
    "CAA": (_u8, _bare, _octets),
    "CERT": (_certificate_type, _u16, _algorithm, _base64),
    "CSYNC": (_with_types(_u32, _u16),),
    "EUI48": (_eui(6),),
    "EUI64": (_eui(8),),
    "GPOS": (_bare, _bare, _bare),
    "HIP": (_host_identity,),
    "IPSECKEY": (_ipsec_key,),
    "L32": (_u16, _ipv4),
    "L64": (_u16, lambda wire: _locator(wire).upper()),
    "LOC": (_location,),
    "NAPTR": (_u16, _u16, _quoted, _quoted, _quoted, _name),
    "NID": (_u16, _locator),
    "NSEC3": (_with_types(_u8, _u8, _u16, _salt, _hashed_name),),
    "NSEC3PARAM": (_u8, _u8, _u16, _salt),
    "NULL": (_raw,),
    "PX": (_u16, _name, _name),
    "SOA": (_name, _name, _u32, _u32, _u32, _u32, _u32),
    "SRV": (_u16, _u16, _u16, _name),
    "SSHFP": (_u8, _u8, _upper_hex),
    "TKEY": (_transaction_key,),
    "TSIG": (_transaction_signature,),
    "UINFO": (_quoted,),
    "URI": (_u16, _u16, _octets),
    "X25": (_bare,),
    "ZONEMD": (_u32, _u8, _u8, _hex),
}
FORMS: dict[int, tuple[Reader, ...]] = {TYPES[name]: form for name, form in _FORMS.items()}
"""Readers of the fields, by the number of the type."""
