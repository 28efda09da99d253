"""Encode and decode HTTP/3 field sections (QPACK, RFC 9204), without I/O and without a dynamic table.

We allow no dynamic table and use none, as Go's client does: one request does not profit from it, no stream waits for
another, and few bytes can't become a large head. A section is decoded in one turn of the event loop, so bytes, fields
and Huffman-coded bytes have limits.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import HPACKError
from hpack.huffman_table import decode_huffman

from probe_exporter.protocols.http.header_block import MAX_FIELDS, MAX_HUFFMAN_BYTES, integer

Field = tuple[bytes, bytes]

# RFC 9204, appendix A: a name and an optional value after a blank.
_TABLE = """\
:authority
:path /
age 0
content-disposition
content-length 0
cookie
date
etag
if-modified-since
if-none-match
last-modified
link
location
referer
set-cookie
:method CONNECT
:method DELETE
:method GET
:method HEAD
:method OPTIONS
:method POST
:method PUT
:scheme http
:scheme https
:status 103
:status 200
:status 304
:status 404
:status 503
accept */*
accept application/dns-message
accept-encoding gzip, deflate, br
accept-ranges bytes
access-control-allow-headers cache-control
access-control-allow-headers content-type
access-control-allow-origin *
cache-control max-age=0
cache-control max-age=2592000
cache-control max-age=604800
cache-control no-cache
cache-control no-store
cache-control public, max-age=31536000
content-encoding br
content-encoding gzip
content-type application/dns-message
content-type application/javascript
content-type application/json
content-type application/x-www-form-urlencoded
content-type image/gif
content-type image/jpeg
content-type image/png
content-type text/css
content-type text/html; charset=utf-8
content-type text/plain
content-type text/plain;charset=utf-8
range bytes=0-
strict-transport-security max-age=31536000
strict-transport-security max-age=31536000; includesubdomains
strict-transport-security max-age=31536000; includesubdomains; preload
vary accept-encoding
vary origin
x-content-type-options nosniff
x-xss-protection 1; mode=block
:status 100
:status 204
:status 206
:status 302
:status 400
:status 403
:status 421
:status 425
:status 500
accept-language
access-control-allow-credentials FALSE
access-control-allow-credentials TRUE
access-control-allow-headers *
access-control-allow-methods get
access-control-allow-methods get, post, options
access-control-allow-methods options
access-control-expose-headers content-length
access-control-request-headers content-type
access-control-request-method get
access-control-request-method post
alt-svc clear
authorization
content-security-policy script-src 'none'; object-src 'none'; base-uri 'none'
early-data 1
expect-ct
forwarded
if-range
origin
purpose prefetch
server
timing-allow-origin *
upgrade-insecure-requests 1
user-agent
x-forwarded-for
x-frame-options deny
x-frame-options sameorigin
"""
STATIC_TABLE: tuple[Field, ...] = tuple(
    (name, value) for name, _, value in (row.partition(b" ") for row in _TABLE.encode("ascii").splitlines())
)
_ENTRIES = {field: index for index, field in enumerate(STATIC_TABLE)}
_NAMES = {name: index for index, (name, _) in reversed([*enumerate(STATIC_TABLE)])}

_MAX_INTEGER_BYTES = 5
"""Bytes of a number after its first: enough for 2^35, more than any valid number needs."""


class SectionTooLarge(ValueError):
    """The fields exceed a limit."""


def encode(fields: Iterable[Field]) -> bytes:
    """Encode a field section.

    Fields that are not in the static table are literals, without the bit that forbids intermediaries to index them
    (section 7.1.3): older servers with quic-go, such as Caddy 2.6, take it for a reference to the dynamic table.
    """
    section = bytearray(2)  # no references to a dynamic table
    for field in fields:
        index = _ENTRIES.get(field)
        if index is not None:
            section += integer(index, 6, 0xC0)
            continue
        name, value = field
        index = _NAMES.get(name)
        section += integer(len(name), 3, 0x20) + name if index is None else integer(index, 4, 0x50)
        section += integer(len(value), 7) + value
    return bytes(section)


def decode(section: bytes, limit: int) -> list[Field]:
    """Decode a complete section.

    Args:
        limit: the size of all fields, counted as in RFC 9114, section 4.2.2.

    Raises:
        SectionTooLarge: they are larger, or more than `MAX_FIELDS`, or too many bytes are Huffman-coded.
        ValueError: it is not QPACK, or refers to a dynamic table.
    """
    fields: list[Field] = []
    coded = 0
    try:
        inserted, at = _read_integer(section, 0, 8)
        _, at = _read_integer(section, at, 7)
        if inserted:
            raise ValueError("a header refers to the dynamic table")
        while at < len(section):
            name, value, at, huffman = _read_field(section, at)
            limit -= len(name) + len(value) + 32
            coded += huffman
            if limit < 0 or coded > MAX_HUFFMAN_BYTES or len(fields) > MAX_FIELDS:
                raise SectionTooLarge("its headers are too large or too many")
            fields.append((name, value))
    except IndexError:
        raise ValueError("a header is incomplete, or refers to no entry of the static table") from None
    except HPACKError as error:
        raise ValueError(str(error)) from None
    return fields


def _read_field(section: bytes, at: int) -> tuple[bytes, bytes, int, int]:
    """Decode one field (section 4.5).

    Returns:
        Name, value, the offset after them, and how many bytes were Huffman-coded.
    """
    first = section[at]
    huffman = 0
    if first & 0x80 and first & 0x40:
        index, at = _read_integer(section, at, 6)
        return *STATIC_TABLE[index], at, 0
    if first & 0x40 and first & 0x10 and not first & 0x80:
        index, at = _read_integer(section, at, 4)
        name = STATIC_TABLE[index][0]
    elif first & 0x20 and not first & 0xC0:
        name, at, huffman = _read_string(section, at, 3)
    else:
        raise ValueError("a header refers to the dynamic table")
    value, at, of_value = _read_string(section, at, 7)
    return name, value, at, huffman + of_value


def _read_string(section: bytes, at: int, prefix: int) -> tuple[bytes, int, int]:
    """Decode a string. Its length is in the low bits of a byte, below a bit for Huffman's code.

    Returns:
        The string, the offset after it, and how many bytes were Huffman-coded.
    """
    huffman = section[at] >> prefix & 1
    size, at = _read_integer(section, at, prefix)
    if at + size > len(section):
        raise IndexError
    text = section[at : at + size]
    if not huffman:
        return text, at + size, 0
    if size > MAX_HUFFMAN_BYTES:
        raise SectionTooLarge("its headers are too large or too many")
    return decode_huffman(text), at + size, size


def _read_integer(section: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Decode the number in the low bits of a byte and after it; return the offset after it too."""
    most = (1 << prefix) - 1
    value = section[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _MAX_INTEGER_BYTES, 7):
        byte = section[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in a header is too long")
