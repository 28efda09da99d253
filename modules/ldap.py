"""LDAP directories: a server that lets us in, and a search that finds as much as it should (LDAPv3, RFC 4511).

What is said is BER (X.690) with definite lengths, as RFC 4511, 5.1 narrows it: a tag of one byte, a length, a value.
Without a `base` the search reads the root DSE, in which a server describes itself and which needs no rights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Literal, NamedTuple

from annotated_types import Ge, Le
from pydantic import AfterValidator

from probe_exporter import (
    Connection,
    ConnectSettings,
    Metric,
    OwnReason,
    Probe,
    ProbeFailed,
    Prober,
    Reason,
    Secret,
    Text,
    connect,
    exclusive,
    host_and_port,
    needs,
    start_tls,
    with_server_name,
)

PORT, TLS_PORT = 389, 636
LONGEST_MESSAGE = 256 * 1024
LONGEST_LABEL = 128
MOST_CONTEXTS = 100
MOST_REFERENCES = 10_000
DEEPEST_FILTER = 50

DURATION = Metric("probe_ldap_duration_seconds", "How long each phase took.", ("phase",))
CODE = Metric(
    "probe_ldap_result_code", "How the server ended an operation, as RFC 4511 numbers it: 0 is success.", ("operation",)
)
ENTRIES = Metric("probe_ldap_entries", "How many entries the search found.")
REFERENCES = Metric("probe_ldap_references", "How many parts of the tree the search was sent elsewhere for.")
SERVER = Metric("probe_ldap_server_info", "What the server says of itself.", ("vendor", "version"), type="info")
CONTEXT = Metric(
    "probe_ldap_naming_context_info", "The top of a tree that the server holds.", ("naming_context",), type="info"
)

NO_SUCH_OBJECT = OwnReason("ldap_no_such_object", "Nothing is at `base`, or nothing that this user may see.")
REFERRAL = OwnReason("ldap_referral", "The server sends us to another one for this part of the tree.")
CONFIDENTIALITY = OwnReason("ldap_confidentiality_required", "The server wants TLS before it does that.")

# Tags (RFC 4511, appendix B).
_INTEGER, _OCTETS, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x0A, 0x01, 0x30
_BIND, _BOUND, _UNBIND = 0x60, 0x61, 0x42
_SEARCH, _ENTRY, _DONE, _REFERENCE = 0x63, 0x64, 0x65, 0x73
_EXTENDED, _EXTENDED_DONE = 0x77, 0x78
_START_TLS = b"1.3.6.1.4.1.1466.20037"

_SCOPES = {"base": 0, "one": 1, "sub": 2}
_ROOT_ATTRIBUTES = (b"namingContexts", b"vendorName", b"vendorVersion")
_NO_ATTRIBUTES = (b"1.1",)  # RFC 4511, 4.5.1.8

_SIZE_LIMIT = 4
_CODES: dict[int, tuple[str, Reason | OwnReason]] = {
    7: ("authMethodNotSupported", Reason.AUTHENTICATION),
    8: ("strongerAuthRequired", Reason.AUTHENTICATION),
    10: ("referral", REFERRAL),
    13: ("confidentialityRequired", CONFIDENTIALITY),
    14: ("saslBindInProgress", Reason.AUTHENTICATION),
    32: ("noSuchObject", NO_SUCH_OBJECT),
    48: ("inappropriateAuthentication", Reason.AUTHENTICATION),
    49: ("invalidCredentials", Reason.AUTHENTICATION),
    50: ("insufficientAccessRights", Reason.AUTHENTICATION),
    51: ("busy", Reason.TARGET_NOT_READY),
    52: ("unavailable", Reason.TARGET_NOT_READY),
}
"""Results that say more than that something is wrong; any other is an error of the target's."""


def _checked(text: str) -> str:
    """The text of a filter; compiled at load, so that one that is none is refused there."""
    compile_filter(text)
    return text


class LdapSettings(ConnectSettings):
    """The ``ldap`` block of a module."""

    rules = (
        exclusive("tls", "starttls"),
        needs(("password",), ("bind_dn",), "a `password` needs a `bind_dn`"),
        # With a name alone a server lets anybody in, as nobody (RFC 4513, 5.1.2): that would prove nothing.
        needs(("bind_dn",), ("password",), "a `bind_dn` needs a `password`"),
    )
    starttls: bool = False
    bind: bool = True
    bind_dn: Text = ""
    password: Secret = Secret("")
    base: Text = ""
    scope: Literal["base", "one", "sub"] = "base"
    filter: Annotated[Text, AfterValidator(_checked)] = "(objectClass=*)"
    min_entries: Annotated[int, Ge(0), Le(10_000)] = 1
    max_entries: Annotated[int, Ge(0), Le(10_000)] = 1000

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.min_entries > self.max_entries:
            yield "min_entries", "more than `max_entries`: every probe of this module will fail"
        if self.bind_dn and not self.bind:
            yield "bind_dn", "has no effect with `bind: false`"

    @property
    def reads_root(self) -> bool:
        """Whether the search is for what the server says of itself."""
        return not self.base and self.scope == "base"


async def probe_ldap(probe: Probe, settings: LdapSettings) -> None:
    """Binds to an LDAP directory and searches it; without a base, reads what the server says of itself."""
    host, port = host_and_port(probe.target, TLS_PORT if settings.tls else PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        talk = _Talk(probe, connection)
        if settings.starttls:
            await _start_tls(probe, talk, settings, connection, host)
        if settings.bind:
            with probe.phase("bind", DURATION):
                await _bind(talk, settings)
        with probe.phase("search", DURATION):
            await _search(probe, talk, settings)
        talk.ask(_element(_UNBIND))


class Element(NamedTuple):
    """A tag, and what it stands before."""

    tag: int
    value: bytes


class Outcome(NamedTuple):
    """How the server ended an operation: a number, and its own words."""

    code: int
    words: str


class _Talk:
    """Operations on one connection, each with the next number, and what the server says to the last of them."""

    def __init__(self, probe: Probe, connection: Connection) -> None:
        self._probe = probe
        self._connection = connection
        self._number = 0

    def ask(self, operation: bytes) -> None:
        """Begin an operation."""
        self._number += 1
        self._connection.send(_element(_SEQUENCE, _integer(self._number), operation))

    async def answer(self) -> Element:
        """What the server says to it.

        Raises:
            ProbeFailed: it is no LDAP, not for us, or a goodbye.
        """
        first, operation, *_ = _elements(await self._receive(), at_least=2)
        number = int.from_bytes(first.value, "big")
        if number == 0 and operation.tag == _EXTENDED_DONE:  # a notice that it hangs up: RFC 4511, 4.4.1
            raise _failure("the connection", _outcome(operation))
        if first.tag != _INTEGER or number != self._number:
            raise _malformed("an answer has the number of no question of ours")
        return operation

    async def end(self, name: str, tag: int) -> Outcome:
        """The answer that ends an operation, where nothing else may come before."""
        return self.ended(name, tag, await self.answer())

    def ended(self, name: str, tag: int, operation: Element) -> Outcome:
        """How it ended, reported under its name."""
        if operation.tag != tag:
            raise _malformed(f"an answer to {name} is of another kind, {operation.tag:#x}")
        outcome = _outcome(operation)
        self._probe.set(CODE, outcome.code, name)
        return outcome

    async def _receive(self) -> bytes:
        tag, size = await self._connection.exactly(2)
        if tag != _SEQUENCE or not (size < 0x80 or 0x81 <= size <= 0x84):
            raise _malformed("it does not begin with a message")
        if size > 0x80:
            size = int.from_bytes(await self._connection.exactly(size - 0x80), "big")
        if size > LONGEST_MESSAGE:
            raise _malformed(f"a message has {size} bytes")
        return await self._connection.exactly(size)


async def _start_tls(probe: Probe, talk: _Talk, settings: LdapSettings, connection: Connection, host: str) -> None:
    """RFC 4511, 4.14."""
    with probe.phase("starttls", DURATION):
        talk.ask(_element(_EXTENDED, _element(0x80, _START_TLS)))
        outcome = await talk.end("starttls", _EXTENDED_DONE)
        if outcome.code:
            raise ProbeFailed(Reason.TLS_REQUIRED, f"the server does not start TLS: {outcome.words}", code=outcome.code)
        if connection.waiting:  # what comes in clear would be taken for what the server says inside TLS
            raise _malformed("the server goes on in clear after it agreed to TLS")
    await start_tls(probe, connection, settings.tls_config, host, seconds=DURATION)


async def _bind(talk: _Talk, settings: LdapSettings) -> None:
    """A simple bind: with the module's name and password, or as nobody."""
    password = settings.password.reveal().encode("utf-8", "surrogateescape")
    talk.ask(_element(_BIND, _integer(3), _octets(settings.bind_dn), _element(0x80, password)))
    outcome = await talk.end("bind", _BOUND)
    if outcome.code:
        raise _failure("bind", outcome)


async def _search(probe: Probe, talk: _Talk, settings: LdapSettings) -> None:
    """Count what the search finds, and hold it against what the module expects."""
    talk.ask(_search_request(settings, math.ceil(max(probe.remaining, 1))))
    entries = references = 0
    while (answer := await talk.answer()).tag in (_ENTRY, _REFERENCE):
        entries += answer.tag == _ENTRY
        references += answer.tag == _REFERENCE
        if entries > settings.max_entries + 1 or references > MOST_REFERENCES:
            raise _malformed("the search finds more than it was to look for")
        if answer.tag == _ENTRY and settings.reads_root:
            _report_server(probe, answer.value)
    outcome = talk.ended("search", _DONE, answer)
    probe.set(ENTRIES, entries)
    probe.set(REFERENCES, references)
    if outcome.code and not (outcome.code == _SIZE_LIMIT and entries > settings.max_entries):
        raise _failure("search", outcome)
    if entries > settings.max_entries:
        raise ProbeFailed(Reason.EXPECTATION, f"more than {settings.max_entries} entries")
    if entries < settings.min_entries:
        raise ProbeFailed(Reason.EXPECTATION, f"{entries} entries, fewer than {settings.min_entries}")


def _search_request(settings: LdapSettings, seconds: int) -> bytes:
    """RFC 4511, 4.5.1: one entry more than there may be, aliases as they are, and the attributes that we show."""
    attributes = _ROOT_ATTRIBUTES if settings.reads_root else _NO_ATTRIBUTES
    return _element(
        _SEARCH,
        _octets(settings.base),
        _element(_ENUMERATED, bytes([_SCOPES[settings.scope]])),
        _element(_ENUMERATED, b"\0"),
        _integer(settings.max_entries + 1),
        _integer(seconds),
        _element(_BOOLEAN, b"\0"),
        compile_filter(settings.filter),
        _element(_SEQUENCE, *[_element(_OCTETS, name) for name in attributes]),
    )


def _report_server(probe: Probe, entry: bytes) -> None:
    _, attributes, *_ = _elements(entry, at_least=2)
    known: dict[bytes, list[str]] = {}
    for attribute in _elements(attributes.value):
        name, values, *_ = _elements(attribute.value, at_least=2)
        known[name.value.lower()] = [_label(one.value) for one in _elements(values.value)]
    for context in known.get(b"namingcontexts", [])[:MOST_CONTEXTS]:
        probe.set(CONTEXT, 1, context)
    described = ["".join(known.get(name, [])[:1]) for name in (b"vendorname", b"vendorversion")]
    if any(described):
        probe.set(SERVER, 1, *described)


def _label(value: bytes) -> str:
    return value.decode("utf-8", "replace")[:LONGEST_LABEL]


# --- outcomes ----------------------------------------------------------------------------------------------


def _outcome(operation: Element) -> Outcome:
    code, _, words, *_ = _elements(operation.value, at_least=3)
    if code.tag != _ENUMERATED or len(code.value) not in (1, 2):
        raise _malformed("an answer has no result")
    return Outcome(int.from_bytes(code.value, "big"), words.value.decode("utf-8", "replace").rstrip("\0")[:200])


def _failure(operation: str, outcome: Outcome) -> ProbeFailed:
    name, reason = _CODES.get(outcome.code, (f"result {outcome.code}", Reason.TARGET_ERROR))
    words = f": {outcome.words}" if outcome.words else ""
    return ProbeFailed(reason, f"{operation}: the server answers with {name}{words}", code=outcome.code)


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.PROTOCOL_ERROR, f"the answer is not of LDAP: {what}")


# --- BER ---------------------------------------------------------------------------------------------------


def _element(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(long)]) + long + value


def _integer(number: int) -> bytes:
    """One that is not negative, with room for the sign."""
    return _element(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _octets(text: str) -> bytes:
    return _element(_OCTETS, text.encode("utf-8", "surrogateescape"))


def _elements(data: bytes, at_least: int = 0) -> list[Element]:
    """The elements that stand one after another in `data`.

    Raises:
        ProbeFailed: they are cut, or fewer than `at_least`.
    """
    found: list[Element] = []
    place = 0
    while place < len(data):
        tag, size = data[place], data[place + 1] if place + 1 < len(data) else 0x80
        place += 2
        if size & 0x80:
            long = size & 0x7F
            size = int.from_bytes(data[place : place + long], "big") if 1 <= long <= 4 else len(data)
            place += long
        if place + size > len(data):
            raise _malformed("a part is longer than the whole")
        found.append(Element(tag, data[place : place + size]))
        place += size
    if len(found) < at_least:
        raise _malformed("something is missing in a message")
    return found


# --- filters -----------------------------------------------------------------------------------------------

_SETS = {b"&": 0xA0, b"|": 0xA1, b"!": 0xA2}
_COMPARISONS = {b"=": 0xA3, b">=": 0xA5, b"<=": 0xA6, b"~=": 0xA8}
_SUBSTRINGS, _PRESENT, _EXTENSIBLE = 0xA4, 0x87, 0xA9

_OID = rb"(?:[A-Za-z][A-Za-z0-9-]*|[0-9]+(?:\.[0-9]+)*)"
_NAME = rb"(?P<name>" + _OID + rb"(?:;[A-Za-z0-9-]+)*)"
_ITEM = re.compile(_NAME + rb"(?P<kind>[~<>]?=)(?P<value>[^(\0]*)")
_EXTENSIBLE_ITEM = re.compile(
    _NAME + rb"?(?P<dn>:dn)?(?::(?P<rule>" + _OID + rb"))?:=(?P<value>[^(*\0]*)", re.IGNORECASE
)
_VALUE = re.compile(rb"(?:[^\\]|\\[0-9A-Fa-f]{2})*", re.DOTALL)
_ESCAPE = re.compile(rb"\\(..)")


@lru_cache(maxsize=256)
def compile_filter(text: str) -> bytes:
    """A filter as RFC 4515 writes it, in BER; blanks between its parts are allowed.

    Raises:
        ValueError: it is none.
    """
    data = text.strip().encode("utf-8", "surrogateescape")
    encoded, end = _compile(data, 0, 0)
    if end != len(data):
        raise _no_filter("it goes on after its end", end)
    return encoded


def _compile(data: bytes, place: int, depth: int) -> tuple[bytes, int]:
    """The filter that begins at `place`, and where it ends."""
    if data[place : place + 1] != b"(":
        raise _no_filter("a `(` belongs", place)
    if depth > DEEPEST_FILTER:
        raise _no_filter("it is nested too deep", place)
    kind = data[place + 1 : place + 2]
    if kind not in _SETS:
        end = data.find(b")", place)
        if end < 0:
            raise _no_filter("there is no `)` for the `(`", place)
        return _compile_item(data[place + 1 : end], place), end + 1
    parts: list[bytes] = []
    here = _skip_blanks(data, place + 2)
    while data[here : here + 1] == b"(":
        part, here = _compile(data, here, depth + 1)
        parts.append(part)
        here = _skip_blanks(data, here)
    if data[here : here + 1] != b")":
        raise _no_filter("a `(` or a `)` belongs", here)
    if kind == b"!" and len(parts) != 1:
        raise _no_filter("`!` takes one filter", place)
    return _element(_SETS[kind], *parts), here + 1


def _compile_item(item: bytes, place: int) -> bytes:
    if found := _ITEM.fullmatch(item):
        name, kind, value = found.group("name", "kind", "value")
        if kind == b"=" and value == b"*":
            return _element(_PRESENT, name)
        if kind == b"=" and b"*" in value:
            return _element(_SUBSTRINGS, _element(_OCTETS, name), _element(_SEQUENCE, *_pieces(value, place)))
        if b"*" not in value:
            return _element(_COMPARISONS[kind], *[_element(_OCTETS, one) for one in (name, _plain(value, place))])
    elif (found := _EXTENSIBLE_ITEM.fullmatch(item)) and (found["name"] or found["rule"]):
        parts = [_element(0x81, found["rule"])] if found["rule"] else []
        parts += [_element(0x82, found["name"])] if found["name"] else []
        parts += [_element(0x83, _plain(found["value"], place))]
        parts += [_element(0x84, b"\xff")] if found["dn"] else []
        return _element(_EXTENSIBLE, *parts)
    raise _no_filter("no comparison begins", place)


def _pieces(value: bytes, place: int) -> Iterator[bytes]:
    """What the asterisks of a value part: its beginning, what is in between, its end."""
    pieces = value.split(b"*")
    last = len(pieces) - 1
    if not all(pieces[1:-1]):
        raise _no_filter("two asterisks follow each other", place)
    for number, piece in enumerate(pieces):
        if piece:
            yield _element(0x80 if number == 0 else 0x82 if number == last else 0x81, _plain(piece, place))


def _plain(value: bytes, place: int) -> bytes:
    r"""A value without its escapes (``\28`` for a parenthesis)."""
    if not _VALUE.fullmatch(value):
        raise _no_filter("a backslash wants two hexadecimal digits after it", place)
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), value)


def _skip_blanks(data: bytes, place: int) -> int:
    while data[place : place + 1].isspace():
        place += 1
    return place


def _no_filter(what: str, place: int) -> ValueError:
    return ValueError(f"not an LDAP filter such as (uid=probe): {what} at character {place + 1}")


prober = Prober(
    "ldap",
    LdapSettings,
    probe_ldap,
    with_hostname=with_server_name,
    reasons=(NO_SUCH_OBJECT, REFERRAL, CONFIDENTIALITY),
)
