"""The mqtt prober: open a session with an MQTT broker; on a topic, publish a message and wait for it (3.1.1 and 5.0).

* A packet is a byte with its type and flags, a length of one to four bytes, and a body (MQTT 3.1.1 and 5.0, OASIS).
* The session is clean and the message is not retained, so nothing of a probe stays with the broker.
* With a `topic` the probe subscribes to it, publishes a random payload, and waits for that payload. Messages of other
  clients on the topic are counted and acknowledged; after `MAX_OTHER_MESSAGES` the probe fails.
"""

from __future__ import annotations

import secrets
import struct
import time
from typing import Annotated, Literal

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
    host_and_port,
    needs,
    with_server_name,
)

PORT, TLS_PORT = 1883, 8883
MAX_PACKET_BYTES = 256 * 1024
MAX_OTHER_MESSAGES = 1000
KEEP_ALIVE = 60
"""Seconds of silence after which the broker may drop the session. No probe takes that long; some brokers refuse 0."""

DURATION = Metric("probe_mqtt_duration_seconds", "Duration of each phase in seconds.", ("phase",), series=6)
CODE = Metric(
    "probe_mqtt_reason_code", "Reason code of the broker's packet, as the protocol version defines it.", ("packet",)
)
ROUND_TRIP = Metric(
    "probe_mqtt_round_trip_seconds", "Seconds from publishing the message until the broker delivered it to the probe."
)
OTHERS = Metric("probe_mqtt_other_messages", "Number of messages of other clients on the topic during the probe.")

VERSION = OwnReason(
    "mqtt_version",
    "The broker does not support the module's version of MQTT.",
    advice="Set `version` to what the broker speaks: 3.1.1 or 5.0.",
)
CLIENT_ID = OwnReason(
    "mqtt_client_id_refused",
    "The broker refuses the client identifier.",
    advice="Set another `client_id`: brokers may demand a prefix, or a client with the same id is connected.",
)
TOPIC = OwnReason(
    "mqtt_topic_refused",
    "The broker refuses the subscription to the topic.",
    advice="Check the broker's access rules for this user and `topic`.",
)

# Types of packets, with their flags (3.1.1 and 5.0, section 2).
_CONNECT, _CONNACK, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 0x10, 0x20, 0x30, 0x40, 0x82, 0x90
_DISCONNECT = 0xE0
_QOS = 0b0110
_EXPECTED = (_CONNACK, _PUBACK, _SUBACK, _DISCONNECT)

_ID = struct.pack("!H", 1)
"""Packet identifier of the subscription and of the publication; the type of the reply tells which one it is for."""

_CODES: dict[int, tuple[str, Reason | OwnReason]] = {
    # of CONNACK in 3.1.1
    1: ("unacceptable protocol version", VERSION),
    2: ("identifier rejected", CLIENT_ID),
    3: ("server unavailable", Reason.TARGET_NOT_READY),
    4: ("bad user name or password", Reason.AUTHENTICATION),
    5: ("not authorized", Reason.AUTHENTICATION),
    # of any packet in 5.0
    0x84: ("unsupported protocol version", VERSION),
    0x85: ("client identifier not valid", CLIENT_ID),
    0x86: ("bad user name or password", Reason.AUTHENTICATION),
    0x87: ("not authorized", Reason.AUTHENTICATION),
    0x88: ("server unavailable", Reason.TARGET_NOT_READY),
    0x89: ("server busy", Reason.TARGET_NOT_READY),
    0x8A: ("banned", Reason.AUTHENTICATION),
    0x8B: ("server shutting down", Reason.TARGET_NOT_READY),
    0x8C: ("bad authentication method", Reason.AUTHENTICATION),
    0x8E: ("session taken over by another client of the same identifier", Reason.TARGET_ERROR),
    0x97: ("quota exceeded", Reason.TARGET_ERROR),
    0x9B: ("QoS not supported", Reason.TARGET_ERROR),
    0x9C: ("use another server", Reason.TARGET_ERROR),
    0x9D: ("server moved", Reason.TARGET_ERROR),
    0x9F: ("connection rate exceeded", Reason.TARGET_NOT_READY),
}
"""Reason codes with a name and a specific reason; any other code is a `target_error`."""


def _name(topic: str) -> str:
    if any(character in topic for character in "+#\0"):
        raise ValueError("expected a topic without wildcards (+ and #) and NUL, because the probe publishes to it")
    return topic


class MqttSettings(ConnectSettings):
    """The ``mqtt`` block of a module.

    Args:
        version: version of the protocol.
        client_id: client identifier; random by default.
        username: user name.
        password: password.
        topic: topic to subscribe and publish to, without wildcards; empty for none.
        qos: with 1, the broker must acknowledge the message.
    """

    rules = (
        needs(("password",), ("username",), "a `password` needs a `username`"),
        needs(("qos",), ("topic",), "has no effect without a `topic`"),
    )
    version: Literal["3.1.1", "5.0"] = "3.1.1"
    client_id: Text = ""
    username: Text = ""
    password: Secret = Secret("")
    topic: Annotated[Text, AfterValidator(_name)] = ""
    qos: Annotated[int, Ge(0), Le(1)] = 0


async def probe_mqtt(probe: Probe, settings: MqttSettings) -> None:
    """Opens a session with an MQTT broker; on a topic, publishes a message and waits for it."""
    host, port = host_and_port(probe.target, TLS_PORT if settings.tls else PORT)
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        session = _Session(probe, connection, settings)
        with probe.phase("session", DURATION):
            await session.open()
        if settings.topic:
            with probe.phase("subscribe", DURATION):
                await session.subscribe()
            with probe.phase("round_trip", DURATION):
                await session.publish()
        connection.send(_packet(_DISCONNECT))


class _Session:
    """One session with a broker: send the packets and check the replies."""

    def __init__(self, probe: Probe, connection: Connection, settings: MqttSettings) -> None:
        self._probe = probe
        self._connection = connection
        self._settings = settings
        self._is_5 = settings.version == "5.0"
        self._others = 0

    async def open(self) -> None:
        """Open the session.

        Raises:
            ProbeFailed: the broker refuses it.
        """
        self._connection.send(_connect(self._settings))
        first, body = await _receive(self._connection)
        if first != _CONNACK or len(body) < 2:
            raise _malformed("expected CONNACK")
        self._check("connack", body[1], refused=body[1] != 0)

    async def subscribe(self) -> None:
        """Subscribe to the topic.

        Raises:
            ProbeFailed: the broker refuses the subscription.
        """
        self._probe.set(OTHERS, 0)
        no_retained = 2 << 4 if self._is_5 else 0  # 3.1.1 has no such option
        options = bytes([no_retained | self._settings.qos])
        self._connection.send(_packet(_SUBSCRIBE, _ID, self._no_properties, _text(self._settings.topic), options))
        kind, body = await self._next()
        if kind != _SUBACK or len(body) < 3 or body[:2] != _ID:
            raise _malformed("expected SUBACK")
        self._check("suback", body[-1], refused=body[-1] >= 0x80, otherwise=TOPIC)

    async def publish(self) -> None:
        """Publish a random payload; wait until it comes back and, with QoS 1, for the acknowledgement.

        Raises:
            ProbeFailed: the broker refuses the message, or other clients publish too many messages on the topic.
        """
        payload = f"probe {secrets.token_hex(16)}".encode()
        qos = self._settings.qos
        number = _ID if qos else b""
        sent = time.perf_counter()
        self._connection.send(
            _packet(_PUBLISH | qos << 1, _text(self._settings.topic), number, self._no_properties, payload)
        )
        missing = {_PUBLISH, _PUBACK} if qos else {_PUBLISH}
        while missing:
            kind, body = await self._next(payload)
            if kind not in missing or (kind == _PUBACK and body[:2] != _ID):
                raise _malformed("expected PUBACK or the message")
            missing.remove(kind)
            if kind == _PUBLISH:
                self._probe.set(ROUND_TRIP, self._connection.last_byte_at - sent)
            else:
                code = body[2] if len(body) > 2 else 0  # absent if it is 0, and in 3.1.1
                self._check("puback", code, refused=code >= 0x80)

    @property
    def _no_properties(self) -> bytes:
        """An empty list of properties, which only 5.0 has."""
        return b"\0" if self._is_5 else b""

    def _check(
        self, packet: str, code: int, *, refused: bool, otherwise: Reason | OwnReason = Reason.TARGET_ERROR
    ) -> None:
        self._probe.set(CODE, code, packet)
        if refused:
            raise _refusal(packet.upper(), code, otherwise)

    async def _next(self, payload: bytes | None = None) -> tuple[int, bytes]:
        """Return the type and the body of the next packet; skip messages of other clients.

        Args:
            payload: of the probe's own message, once it is published.

        Raises:
            ProbeFailed: the packet is invalid, or the broker disconnects, or there are too many other messages.
        """
        while True:
            first, body = await _receive(self._connection)
            kind = first & 0xF0
            if kind == _DISCONNECT:
                raise _refusal("DISCONNECT", body[0] if body else 0)
            if kind != _PUBLISH:
                return kind, body
            if self._message(first, body) == payload:
                return kind, body
            self._others += 1
            self._probe.set(OTHERS, self._others)
            if self._others >= MAX_OTHER_MESSAGES:
                raise ProbeFailed(
                    Reason.EXPECTATION,
                    f"{MAX_OTHER_MESSAGES} messages of other clients came; set a topic that only probes use",
                )

    def _message(self, first: int, body: bytes) -> bytes:
        """Return the payload of a message; acknowledge it if its QoS is 1."""
        qos = (first & _QOS) >> 1
        place = 2 + int.from_bytes(body[:2], "big")
        number = body[place : place + 2] if qos else b""
        place += len(number)
        if self._is_5:
            size, place = _varint(body, place)
            place += size
        if qos > 1 or len(number) != 2 * qos or place > len(body):
            raise _malformed("a message is truncated, or has a QoS above 1")
        if qos:
            self._connection.send(_packet(_PUBACK, number))
        return body[place:]


# --- packets -----------------------------------------------------------------------------------------------


def _connect(settings: MqttSettings) -> bytes:
    """Return a CONNECT packet for a clean session.

    Without a `client_id` the identifier is random, of 17 letters and digits: every broker has to accept up to 23.
    """
    is_5 = settings.version == "5.0"
    password = settings.password.reveal()
    flags = 0x02 | (0x80 if settings.username else 0) | (0x40 if password else 0)
    limit = struct.pack("!BBI", 5, 0x27, MAX_PACKET_BYTES) if is_5 else b""  # the property Maximum Packet Size
    name = settings.client_id or f"probe{secrets.token_hex(6)}"
    texts = [name, *filter(None, [settings.username, password])]
    return _packet(
        _CONNECT, _text("MQTT"), struct.pack("!BBH", 5 if is_5 else 4, flags, KEEP_ALIVE), limit, *map(_text, texts)
    )


def _packet(first: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size, length = len(body), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([first, *length, size]) + body


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    if len(data) > 0xFFFF:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE,
            f"a text of {len(data)} bytes is too long for MQTT; at most 65535 bytes are allowed",
        )
    return struct.pack("!H", len(data)) + data


async def _receive(connection: Connection) -> tuple[int, bytes]:
    """Return the first byte of the next packet, and its body.

    Raises:
        ProbeFailed: the packet is invalid, too long, or of a type that a broker does not send.
    """
    first, size = await connection.exactly(2)
    if first & 0xF0 != _PUBLISH and first not in _EXPECTED:
        raise _malformed(f"a packet begins with {first:#04x}")
    length = bytes([size])
    while length[-1] & 0x80 and len(length) < 4:
        length += await connection.exactly(1)
    size, _ = _varint(length, 0)
    if size > MAX_PACKET_BYTES:
        raise _malformed(f"a packet has {size} bytes")
    return first, await connection.exactly(size)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the variable byte integer at `place` (3.1.1, section 2.2.3), and where it ends."""
    number = 0
    for shift, byte in enumerate(data[place : place + 4]):
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return number, place + shift + 1
    raise _malformed("a length is truncated or too long")


def _refusal(packet: str, code: int, otherwise: Reason | OwnReason = Reason.TARGET_ERROR) -> ProbeFailed:
    name, reason = _CODES.get(code, (f"code {code:#04x}", otherwise))
    return ProbeFailed(reason, f"the broker replied with {packet}: {name}", code=code)


def _malformed(what: str) -> ProbeFailed:
    return ProbeFailed(Reason.PROTOCOL_ERROR, f"the reply is not valid MQTT: {what}")


prober = Prober("mqtt", MqttSettings, probe_mqtt, with_hostname=with_server_name, reasons=(VERSION, CLIENT_ID, TOPIC))
