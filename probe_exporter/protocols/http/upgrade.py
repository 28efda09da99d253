"""The upgrade to WebSocket, without I/O (RFC 6455, section 4): what asks for it, and what grants it."""

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
"""Headers that nobody else may set, in lower case."""

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3


def make_key() -> str:
    """What the server has to answer to: 16 random bytes (RFC 6455, 4.1)."""
    return base64.b64encode(secrets.token_bytes(16)).decode("ascii")


def upgrade_request(url: URL, key: str, given: Headers, credentials: str) -> Request:
    """The request that asks for WebSocket: no extensions, and no subprotocol that the settings do not name.

    Args:
        url: of http or https, as the handshake sees ws and wss.
        key: from `make_key`.
        given: the headers of the settings. A Host and a User-Agent replace ours, and an empty User-Agent goes unsent;
            an Authorization replaces the credentials.
        credentials: for the Authorization header; empty for none.

    Raises:
        ProbeFailed: a header can't be sent, or belongs to the handshake.
    """
    by_name = {name.lower(): value for name, value in reversed(given)}
    for name in by_name.keys() & BELONGS_TO_HANDSHAKE:
        raise ProbeFailed(Reason.SETTINGS_UNUSABLE, f"the header {name} belongs to the handshake")
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
    http1.check_headers([*headers, *given])
    return Request("GET", url, host_header(by_name.get("host", "")) or url.authority, headers)


def check_upgrade(response: Response, key: str) -> None:
    """Hold the head of a response against what WebSocket demands (RFC 6455, 4.1).

    Raises:
        ProbeFailed: the server does not upgrade, or not to WebSocket, or it answers another key.
    """
    if response.status != 101:
        raise ProbeFailed(
            Reason.WEBSOCKET_UPGRADE_REFUSED,
            f"the server answers {response.status} and does not upgrade",
            status_code=response.status,
            **({"location": location} if (location := response.get("location")) else {}),
        )
    for name, wanted in (("upgrade", "websocket"), ("connection", "upgrade")):
        if wanted not in [option.strip() for option in ",".join(response.get_all(name)).lower().split(",")]:
            raise _invalid(f"its {name.capitalize()} header does not say {wanted}")
    expected = base64.b64encode(hashlib.sha1(f"{key}{_GUID}".encode(), usedforsecurity=False).digest()).decode("ascii")
    if response.get_all("sec-websocket-accept") != [expected]:
        raise _invalid(
            "its Sec-WebSocket-Accept does not answer our key: a cache or another protocol may be in the way"
        )


def _invalid(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.WEBSOCKET_HANDSHAKE_INVALID, f"the server upgrades, and not to WebSocket: {what}")
