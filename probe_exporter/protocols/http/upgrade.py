"""The WebSocket handshake, without I/O: make the request, check the response (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import hashlib
import secrets

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.http import http1
from probe_exporter.protocols.http.request import USER_AGENT, Request, host_header
from probe_exporter.protocols.http.response import Headers, Response
from probe_exporter.protocols.http.url import URL

BELONGS_TO_HANDSHAKE = frozenset(
    {"connection", "sec-websocket-extensions", "sec-websocket-key", "sec-websocket-version", "upgrade"}
)
"""Headers of the handshake, in lower case; settings must not contain them."""

MAX_OPTIONS_CHARACTERS = 8192
"""Characters of all Upgrade or all Connection headers of a response."""

_MAX_SHOWN_CHARACTERS = 500

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def make_key() -> str:
    """Return a new value for Sec-WebSocket-Key: 16 random bytes (RFC 6455, 4.1)."""
    return base64.b64encode(secrets.token_bytes(16)).decode("ascii")


def upgrade_request(url: URL, key: str, given: Headers, credentials: str) -> Request:
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
    by_name = {name.lower(): value for name, value in reversed(given)}
    for name in by_name.keys() & BELONGS_TO_HANDSHAKE:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"the header {name} belongs to the handshake")
    http1.check_headers([("Authorization", credentials), *given])
    headers = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", "13"),
    ]
    if "user-agent" not in by_name:
        headers.append(("User-Agent", USER_AGENT))
    if credentials and "authorization" not in by_name:
        headers.append(("Authorization", credentials))
    for name, value in given:
        if name.lower() != "host" and (value or name.lower() != "user-agent"):
            headers.append((name, value))
    return Request("GET", url, host_header(by_name.get("host", "")) or url.authority, headers)


def check_upgrade(response: Response, key: str) -> None:
    """Check the head of a response to the upgrade (RFC 6455, 4.1).

    Raises:
        ProbeFailed: the server does not upgrade, upgrades to another protocol, or answers another key.
    """
    if response.status != 101:
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
    expected = base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()).decode("ascii")
    if response.get_all("sec-websocket-accept") != [expected]:
        raise _invalid(
            "its Sec-WebSocket-Accept does not match our key; a cache may have answered, or another protocol"
        )


def _invalid(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.WEBSOCKET_HANDSHAKE_INVALID, f"the server upgraded, but not to WebSocket: {what}")
