"""The WebSocket handshake, without I/O: make the request, check the response (RFC 6455, section 4)."""

from __future__ import annotations

import hashlib
import os
from binascii import b2a_base64
from typing import NamedTuple

from probe_exporter.cache import remembered
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.request import USER_AGENT, host_header
from probe_exporter.protocols.http.response import Headers, Response
from probe_exporter.protocols.http.url import URL

BELONGS_TO_HANDSHAKE = frozenset(
    {"connection", "sec-websocket-extensions", "sec-websocket-key", "sec-websocket-version", "upgrade"}
)
"""Headers of the handshake, in lower case; settings must not contain them."""

MAX_OPTIONS_CHARACTERS = 8192
"""Characters of all Upgrade or all Connection headers of a response."""

_MAX_SHOWN_CHARACTERS = 500

_new = tuple.__new__

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def make_key() -> str:
    """Return a new value for Sec-WebSocket-Key: 16 random bytes (RFC 6455, 4.1)."""
    return b2a_base64(os.urandom(16), newline=False).decode("ascii")


class UpgradeRequest(NamedTuple):
    """The request for an upgrade.

    Attributes:
        host: the value of its Host header.
        head: all of it, as it is sent.
    """

    host: str
    head: bytes


def upgrade_request(url: URL, key: str, given: Headers, credentials: str) -> UpgradeRequest:
    """Return the request for the upgrade, without extensions, and without subprotocols of our own.

    Args:
        url: with http or https in place of ws or wss.
        key: from `make_key`.
        given: the headers of the settings. Host and User-Agent replace ours, an empty User-Agent is not sent, and
            Authorization replaces the credentials.
        credentials: for the Authorization header; empty for none.

    Raises:
        ProbeFailed: a header is invalid, or belongs to the handshake.
    """
    host, more = _further_headers(given, credentials) if given or credentials else ("", _AGENT)
    host = host or url.authority
    head = (
        f"GET {url.path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    # Not `UpgradeRequest(…)`, which is a function in Python.
    return _new(UpgradeRequest, (host, head.encode("utf-8", "surrogateescape")))


_AGENT = f"User-Agent: {USER_AGENT}\r\n"


def _further_headers(given: Headers, credentials: str) -> tuple[str, str]:
    """Return the Host header of the settings, empty for the URL's host, and the lines of the other headers."""
    by_name = {name.lower(): value for name, value in reversed(given)}
    for name in by_name.keys() & BELONGS_TO_HANDSHAKE:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"the header {name} belongs to the handshake")
    http1.check_headers([("Authorization", credentials), *given])
    lines = [] if "user-agent" in by_name else [_AGENT]
    if credentials and "authorization" not in by_name:
        lines.append(f"Authorization: {credentials}\r\n")
    for name, value in given:
        if name.lower() != "host" and (value or name.lower() != "user-agent"):
            lines.append(f"{name}: {value}\r\n")
    return host_header(by_name.get("host", "")), "".join(lines)


SWITCHING_PROTOCOLS = 101

_SWITCHING = b"HTTP/1.1 101 "
_PRINTABLE = bytes(range(0x20, 0x7F))
_MAX_PLAIN_BYTES = 4096
_OF_BODY = frozenset({"content-length", "transfer-encoding"})

_PROOF = b"\0"
"""Stands for the value of Sec-WebSocket-Accept in a head that is compared with earlier ones. No usual head has this
character."""

MAX_PLAIN_HEADS_BYTES = 256 * 1024
"""Of heads of responses to upgrades, each some 400 bytes: a server always sends the same, but for the proof and a
Date."""


def after_plain_upgrade(data: bytes, key: str) -> bytes | None:
    """Return what follows a response that upgrades and has nothing unusual in it.

    Return None for any other beginning of a response: `Http1ResponseReader` and `check_upgrade` judge it. They take
    several times as long, since they know all of HTTP.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end or len(head) > _MAX_PLAIN_BYTES:
        return None
    before, proof, after = head.partition(_accept(key))
    return rest if proof and _is_plain_upgrade(before + _PROOF + after) else None


@remembered(MAX_PLAIN_HEADS_BYTES, lambda head, _: _HEAD_BYTES + len(head))
def _is_plain_upgrade(head: bytes) -> bool:
    """Return whether a head with `_PROOF` in it upgrades to WebSocket, and has nothing unusual in it."""
    if not head.startswith(_SWITCHING):
        return False
    if head.replace(b"\r\n", b"").translate(None, _PRINTABLE) != _PROOF:
        return False
    fields: dict[str, str] = {}
    for line in head.decode("ascii").split("\r\n")[1:]:
        name, colon, value = line.partition(": ")
        name = name.lower()
        if not colon or name in fields or not name.replace("-", "").isalnum():
            return False
        fields[name] = value
    return (
        fields.get("upgrade", "").lower() == "websocket"
        and fields.get("connection", "").lower() == "upgrade"
        and fields.get("sec-websocket-accept") == _PROOF.decode()
        and fields.keys().isdisjoint(_OF_BODY)
    )


_HEAD_BYTES = 150  # about a head in the cache, without its bytes


def _accept(key: str) -> bytes:
    """Return the value that a server proves with that it understands WebSocket (RFC 6455, 4.2.2)."""
    return b2a_base64(hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest(), newline=False)


def check_upgrade(response: Response, key: str) -> None:
    """Check the head of a response to the upgrade (RFC 6455, 4.1).

    Raises:
        ProbeFailed: the server does not upgrade, upgrades to another protocol, or answers another key.
    """
    if response.status != SWITCHING_PROTOCOLS:
        raise ProbeFailed(
            Reason.WEBSOCKET_UPGRADE_REFUSED,
            f"the server responded {response.status} and did not upgrade",
            status_code=response.status,
            **({"location": location[:_MAX_SHOWN_CHARACTERS]} if (location := response.get("location")) else {}),
        )
    for name, wanted in (("upgrade", "websocket"), ("connection", "upgrade")):
        options = ",".join(response.get_all(name))
        if len(options) > MAX_OPTIONS_CHARACTERS:
            raise _invalid(f"its {name.capitalize()} header has more than {MAX_OPTIONS_CHARACTERS} characters")
        if wanted not in [option.strip() for option in options.lower().split(",")]:
            raise _invalid(f"its {name.capitalize()} header does not say {wanted}")
    if response.get_all("sec-websocket-accept") != [_accept(key).decode("ascii")]:
        raise _invalid(
            "its Sec-WebSocket-Accept does not match our key; a cache may have answered, or another protocol"
        )


def _invalid(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.WEBSOCKET_HANDSHAKE_INVALID, f"the server upgraded, but not to WebSocket: {what}")
