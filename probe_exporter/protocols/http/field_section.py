"""HTTP/3's field sections (QPACK, RFC 9204) without a dynamic table: fields to bytes and back, without I/O.

We allow a server no dynamic table and make no use of its own, as Go's client does: one request has no need of it, no
stream waits for another, and a few bytes can't grow into a large head.
"""

from __future__ import annotations

from collections.abc import Iterable

from hpack import HPACKError
from hpack.huffman_table import decode_huffman

from probe_exporter.protocols.http.header_block import integer

Field = tuple[bytes, bytes]

# Appendix A: a name and, after a blank, perhaps a value.
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

_LONGEST_INTEGER = 5
"""Bytes of a number beyond its first: enough for 2^35, and no number that means anything is larger."""


class SectionTooLarge(ValueError):
    """The fields are larger than allowed."""


def encode(fields: Iterable[Field]) -> bytes:
    """A field section. What the static table does not have whole goes as a literal that nobody on the way may index
    (section 7.1.3): any header may hold a secret."""
    section = bytearray(2)  # no entry of the dynamic table is referred to
    for field in fields:
        index = _ENTRIES.get(field)
        if index is not None:
            section += integer(index, 6, 0xC0)
            continue
        name, value = field
        index = _NAMES.get(name)
        section += integer(len(name), 3, 0x30) + name if index is None else integer(index, 4, 0x70)
        section += integer(len(value), 7) + value
    return bytes(section)


def decode(section: bytes, limit: int) -> list[Field]:
    """The fields of a section.

    Args:
        section: whole.
        limit: the size that all fields may have, counted as in RFC 9114, section 4.2.2.

    Raises:
        SectionTooLarge: they are larger.
        ValueError: it is not QPACK, or refers to a dynamic table.
    """
    fields: list[Field] = []
    try:
        inserted, at = _read_integer(section, 0, 8)
        _, at = _read_integer(section, at, 7)
        if inserted:
            raise ValueError("a header refers to the dynamic table")
        while at < len(section):
            name, value, at = _read_field(section, at)
            limit -= len(name) + len(value) + 32
            if limit < 0:
                raise SectionTooLarge("its headers are too large")
            fields.append((name, value))
    except IndexError:
        raise ValueError("a header is cut, or refers to what is in no table") from None
    except HPACKError as error:
        raise ValueError(str(error)) from None
    return fields


def _read_field(section: bytes, at: int) -> tuple[bytes, bytes, int]:
    """One field (section 4.5), and the place after it."""
    first = section[at]
    if first & 0x80 and first & 0x40:
        index, at = _read_integer(section, at, 6)
        return *STATIC_TABLE[index], at
    if first & 0x40 and first & 0x10 and not first & 0x80:
        index, at = _read_integer(section, at, 4)
        name = STATIC_TABLE[index][0]
    elif first & 0x20 and not first & 0xC0:
        name, at = _read_string(section, at, 3)
    else:
        raise ValueError("a header refers to the dynamic table")
    value, at = _read_string(section, at, 7)
    return name, value, at


def _read_string(section: bytes, at: int, prefix: int) -> tuple[bytes, int]:
    """A string whose length stands in the low bits of a byte, below a bit that says whether it is in Huffman's code."""
    huffman = section[at] >> prefix & 1
    size, at = _read_integer(section, at, prefix)
    if at + size > len(section):
        raise IndexError
    text = section[at : at + size]
    return (decode_huffman(text) if huffman else text), at + size


def _read_integer(section: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The number that begins in the low bits of a byte, and the place after it."""
    most = (1 << prefix) - 1
    value = section[at] & most
    at += 1
    if value < most:
        return value, at
    for shift in range(0, 7 * _LONGEST_INTEGER, 7):
        byte = section[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in a header does not end")
