"""The ldap prober: bind to an LDAP directory and count the entries that a search finds (LDAPv3, RFC 4511).

* Messages are BER (X.690) with definite lengths (RFC 4511, 5.1): a tag of one byte, a length, a value.
* `_Session` numbers the requests; every response has the number of its request.
* Without a `base` the search reads the root DSE, in which a server describes itself; this needs no rights.
* `compile_filter` turns the text of a filter (RFC 4515) into BER when the configuration is loaded.
* The elements of a response are parsed one by one, and only as many as the prober uses: a message may have 256 KiB.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
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
MAX_MESSAGE_BYTES = 256 * 1024
MAX_LABEL_CHARACTERS = 128
MAX_TEXT_BYTES = 1000
MAX_ATTRIBUTES = 16  # of the root DSE; the prober asks for three
MAX_NAMING_CONTEXTS = 100
MAX_REFERENCES = 10_000
MAX_FILTER_DEPTH = 50

DURATION = Metric("probe_ldap_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=6)
CODE = Metric(
    "probe_ldap_result_code", "Result code of an operation, as RFC 4511 defines it: 0 is success.", ("operation",)
)
ENTRIES = Metric("probe_ldap_entries", "Number of entries that the search found.")
REFERENCES = Metric("probe_ldap_references", "Number of references to other servers that the search returned.")
SERVER = Metric("probe_ldap_server_info", "Vendor and version of the server.", ("vendor", "version"), type="info")
CONTEXT = Metric(
    "probe_ldap_naming_context_info", "Naming context that the server holds.", ("naming_context",), type="info"
)

NO_SUCH_OBJECT = OwnReason(
    "ldap_no_such_object",
    "The `base` does not exist, or this user may not see it.",
    advice=(
        "Check the spelling of `base` and the access rules of the user: `ldapsearch -H ldap://HOST -b BASE -s base`."
    ),
)
REFERRAL = OwnReason(
    "ldap_referral",
    "The server refers to another server for this part of the tree.",
    advice="Probe the server that the message names, or set a `base` that this server holds.",
)
CONFIDENTIALITY = OwnReason(
    "ldap_confidentiality_required",
    "The server requires TLS for this operation.",
    advice="Set `tls: true` for ldaps, or `starttls: true`.",
)

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
"""Result codes with a more specific reason than `target_error`."""


def _checked(text: str) -> str:
    """Return the text of a filter. Raise ValueError if it is invalid, so that loading the configuration fails."""
    compile_filter(text)
    return text


class LdapSettings(ConnectSettings):
    """The ``ldap`` block of a module.

    Args:
        starttls: StartTLS on the plain port, with the same ``tls_config``; if it fails, nothing else is sent.
        bind: false searches without a bind, for servers that refuse anonymous binds.
        bind_dn: name to bind with; empty for an anonymous bind.
        password: password to bind with.
        base: entry where the search begins; empty for the root DSE.
        scope: the entry itself (``base``), the entries directly below it (``one``), or the whole tree (``sub``).
        filter: search filter (RFC 4515).
        min_entries: fewer entries fail the probe.
        max_entries: more entries fail the probe.
    """

    rules = (
        exclusive("tls", "starttls"),
        needs(("password",), ("bind_dn",), "a `password` needs a `bind_dn`"),
        # A name without a password is an unauthenticated bind (RFC 4513, 5.1.2): servers accept it from anyone.
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
        """Whether the search reads the root DSE."""
        return not self.base and self.scope == "base"


async def probe_ldap(probe: Probe, settings: LdapSettings) -> None:
    """Binds to an LDAP directory and searches it; without a base, reads the root DSE."""
    host, port = host_and_port(probe.target, TLS_PORT if settings.tls else PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        session = _Session(probe, connection)
        if settings.starttls:
            await _start_tls(probe, session, settings, connection, host)
        if settings.bind:
            with probe.phase("bind", DURATION):
                await _bind(session, settings)
        with probe.phase("search", DURATION):
            await _search(probe, session, settings)
        session.request(_element(_UNBIND))


class Element(NamedTuple):
    """A BER element: its tag and its value."""

    tag: int
    value: bytes


class Outcome(NamedTuple):
    """How the server ended an operation: result code and diagnostic message."""

    code: int
    words: str


class _Session:
    """Requests on one connection, numbered, and the responses to the last of them."""

    def __init__(self, probe: Probe, connection: Connection) -> None:
        self._probe = probe
        self._connection = connection
        self._number = 0

    def request(self, operation: bytes) -> None:
        """Send a request with the next number."""
        self._number += 1
        self._connection.send(_element(_SEQUENCE, _integer(self._number), operation))

    async def response(self) -> Element:
        """Return the next response to the last request.

        Raises:
            ProbeFailed: the message is not LDAP, has another number, or announces that the server disconnects.
        """
        first, operation = _elements(await self._receive(), 2)
        number = int.from_bytes(first.value[:8], "big")
        if number == 0 and operation.tag == _EXTENDED_DONE:  # notice of disconnection: RFC 4511, 4.4.1
            raise _failure("the connection", _outcome(operation))
        if first.tag != _INTEGER or number != self._number:
            raise _malformed("a response has the number of no request")
        return operation

    async def outcome(self, name: str, tag: int) -> Outcome:
        """Return how an operation ended that has a single response."""
        return self.outcome_of(name, tag, await self.response())

    def outcome_of(self, name: str, tag: int, operation: Element) -> Outcome:
        """Return how an operation ended, and report its result code.

        Raises:
            ProbeFailed: the response is of another kind than `tag`.
        """
        if operation.tag != tag:
            raise _malformed(f"the response to {name} is of another kind, {operation.tag:#x}")
        outcome = _outcome(operation)
        self._probe.set(CODE, outcome.code, name)
        return outcome

    async def _receive(self) -> bytes:
        tag, size = await self._connection.exactly(2)
        if tag != _SEQUENCE or not (size < 0x80 or 0x81 <= size <= 0x84):
            raise _malformed("it does not begin with a message")
        if size > 0x80:
            size = int.from_bytes(await self._connection.exactly(size - 0x80), "big")
        if size > MAX_MESSAGE_BYTES:
            raise _malformed(f"a message has {size} bytes")
        return await self._connection.exactly(size)


async def _start_tls(
    probe: Probe, session: _Session, settings: LdapSettings, connection: Connection, host: str
) -> None:
    """Change to TLS by StartTLS (RFC 4511, 4.14)."""
    with probe.phase("starttls", DURATION):
        session.request(_element(_EXTENDED, _element(0x80, _START_TLS)))
        outcome = await session.outcome("starttls", _EXTENDED_DONE)
        if outcome.code:
            raise ProbeFailed(Reason.TLS_REQUIRED, f"the server does not start TLS: {outcome.words}", code=outcome.code)
        if connection.waiting:  # plaintext that follows could be injected
            raise _malformed("the server sent plaintext after it agreed to TLS")
    await start_tls(probe, connection, settings.tls_config, host, seconds=DURATION)


async def _bind(session: _Session, settings: LdapSettings) -> None:
    """Send a simple bind, with the module's name and password or anonymously.

    Raises:
        ProbeFailed: the server refuses it.
    """
    password = settings.password.reveal().encode("utf-8", "surrogateescape")
    session.request(_element(_BIND, _integer(3), _octets(settings.bind_dn), _element(0x80, password)))
    outcome = await session.outcome("bind", _BOUND)
    if outcome.code:
        raise _failure("bind", outcome)


async def _search(probe: Probe, session: _Session, settings: LdapSettings) -> None:
    """Count the entries that the search finds, and check the number against the module's settings."""
    session.request(_search_request(settings, math.ceil(max(probe.remaining, 1))))
    entries = references = 0
    while (answer := await session.response()).tag in (_ENTRY, _REFERENCE):
        entries += answer.tag == _ENTRY
        references += answer.tag == _REFERENCE
        if entries > settings.max_entries + 1 or references > MAX_REFERENCES:
            raise _malformed("the search returns more entries than its limit")
        if settings.reads_root and answer.tag == _ENTRY and entries == 1:
            _report_server(probe, answer.value)
    outcome = session.outcome_of("search", _DONE, answer)
    probe.set(ENTRIES, entries)
    probe.set(REFERENCES, references)
    if outcome.code and not (outcome.code == _SIZE_LIMIT and entries > settings.max_entries):
        raise _failure("search", outcome)
    if entries > settings.max_entries:
        raise ProbeFailed(Reason.EXPECTATION, f"the search found more than {settings.max_entries} entries")
    if entries < settings.min_entries:
        raise ProbeFailed(
            Reason.EXPECTATION, f"the search found {entries} entries; at least {settings.min_entries} are required"
        )


def _search_request(settings: LdapSettings, seconds: int) -> bytes:
    """Return a SearchRequest (RFC 4511, 4.5.1): at most one entry more than allowed; aliases are not followed."""
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
    """Report naming contexts, vendor and version from the root DSE."""
    _, attributes = _elements(entry, 2)
    known: dict[bytes, list[str]] = {}
    for attribute in islice(_iterate(attributes.value), MAX_ATTRIBUTES):
        name, values = _elements(attribute.value, 2)
        known[name.value.lower()] = [_label(one.value) for one in islice(_iterate(values.value), MAX_NAMING_CONTEXTS)]
    for context in known.get(b"namingcontexts", []):
        probe.set(CONTEXT, 1, context)
    described = ["".join(known.get(name, [])[:1]) for name in (b"vendorname", b"vendorversion")]
    if any(described):
        probe.set(SERVER, 1, *described)


def _label(value: bytes) -> str:
    return value[:MAX_TEXT_BYTES].decode("utf-8", "replace")[:MAX_LABEL_CHARACTERS]


# --- outcomes ----------------------------------------------------------------------------------------------


def _outcome(operation: Element) -> Outcome:
    code, _, words = _elements(operation.value, 3)
    if code.tag != _ENUMERATED or len(code.value) not in (1, 2):
        raise _malformed("a response has no result code")
    text = words.value[:MAX_TEXT_BYTES].decode("utf-8", "replace")
    return Outcome(int.from_bytes(code.value, "big"), text.rstrip("\0")[:200])


def _failure(operation: str, outcome: Outcome) -> ProbeFailed:
    name, reason = _CODES.get(outcome.code, (f"result {outcome.code}", Reason.TARGET_ERROR))
    words = f": {outcome.words}" if outcome.words else ""
    return ProbeFailed(reason, f"{operation}: the server replied with {name}{words}", code=outcome.code)


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.PROTOCOL_ERROR, f"the response is not valid LDAP: {what}")


# --- BER ---------------------------------------------------------------------------------------------------


def _element(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes([tag, size]) + value
    long = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(long)]) + long + value


def _integer(number: int) -> bytes:
    """Encode an integer that is not negative, with room for the sign bit."""
    return _element(_INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _octets(text: str) -> bytes:
    return _element(_OCTETS, text.encode("utf-8", "surrogateescape"))


def _elements(data: bytes, count: int) -> list[Element]:
    """Return the first `count` elements of `data`; what follows is ignored, as RFC 4511, 4 demands.

    Raises:
        ProbeFailed: there are fewer, or one is longer than `data`.
    """
    found = list(islice(_iterate(data), count))
    if len(found) < count:
        raise _malformed("a message has too few elements")
    return found


def _iterate(data: bytes) -> Iterator[Element]:
    """Yield the elements that follow one another in `data`.

    Raises:
        ProbeFailed: one is longer than `data`.
    """
    place = 0
    while place < len(data):
        tag, size = data[place], data[place + 1] if place + 1 < len(data) else 0x80
        place += 2
        if size & 0x80:
            long = size & 0x7F
            size = int.from_bytes(data[place : place + long], "big") if 1 <= long <= 4 else len(data)
            place += long
        if place + size > len(data):
            raise _malformed("an element is longer than the message")
        yield Element(tag, data[place : place + size])
        place += size


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
    """Compile a filter (RFC 4515) to BER; blanks between its parts are allowed.

    Raises:
        ValueError: the filter is invalid.
    """
    data = text.strip().encode("utf-8", "surrogateescape")
    encoded, end = _compile(data, 0, 0)
    if end != len(data):
        raise _invalid_filter("text follows the filter", end)
    return encoded


def _compile(data: bytes, place: int, depth: int) -> tuple[bytes, int]:
    """Compile the filter that begins at `place`; return it and where it ends."""
    if data[place : place + 1] != b"(":
        raise _invalid_filter("expected `(`", place)
    if depth > MAX_FILTER_DEPTH:
        raise _invalid_filter("nested too deeply", place)
    kind = data[place + 1 : place + 2]
    if kind not in _SETS:
        end = data.find(b")", place)
        if end < 0:
            raise _invalid_filter("`(` has no `)`", place)
        return _compile_item(data[place + 1 : end], place), end + 1
    parts: list[bytes] = []
    here = _skip_blanks(data, place + 2)
    while data[here : here + 1] == b"(":
        part, here = _compile(data, here, depth + 1)
        parts.append(part)
        here = _skip_blanks(data, here)
    if data[here : here + 1] != b")":
        raise _invalid_filter("expected `(` or `)`", here)
    if kind == b"!" and len(parts) != 1:
        raise _invalid_filter("`!` takes exactly one filter", place)
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
    raise _invalid_filter("expected a comparison", place)


def _pieces(value: bytes, place: int) -> Iterator[bytes]:
    """Yield the parts of a value between its asterisks: initial, any, final."""
    pieces = value.split(b"*")
    last = len(pieces) - 1
    if not all(pieces[1:-1]):
        raise _invalid_filter("two asterisks in a row", place)
    for number, piece in enumerate(pieces):
        if piece:
            yield _element(0x80 if number == 0 else 0x82 if number == last else 0x81, _plain(piece, place))


def _plain(value: bytes, place: int) -> bytes:
    r"""Return a value with its escapes replaced (``\28`` is a parenthesis)."""
    if not _VALUE.fullmatch(value):
        raise _invalid_filter("expected two hexadecimal digits after the backslash", place)
    return _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), value)


def _skip_blanks(data: bytes, place: int) -> int:
    while data[place : place + 1].isspace():
        place += 1
    return place


def _invalid_filter(what: str, place: int) -> ValueError:
    return ValueError(f"not an LDAP filter such as (uid=probe): {what} at character {place + 1}")


prober = Prober(
    "ldap",
    LdapSettings,
    probe_ldap,
    with_hostname=with_server_name,
    reasons=(NO_SUCH_OBJECT, REFERRAL, CONFIDENTIALITY),
)
