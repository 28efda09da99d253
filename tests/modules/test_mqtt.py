"""The mqtt prober against mosquitto and scripted peers."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from probe_exporter.prober.failure import Reason
from tests.deadlines import in_phase, run_until
from tests.modules.library import (
    STRANGERS,
    cuts,
    expect_failure,
    measured,
    phases,
    probe,
    probe_every_address,
    probe_scripted,
    shipped,
    trust,
)
from tests.outcomes import why
from tests.servers.mosquitto import PASSWORD, READ_ONLY, USER, Mosquitto
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, Turn, then_silence

LOGIN = {"username": USER, "password": PASSWORD}
VERSIONS = ("3.1.1", "5.0")


# --- real servers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mqtt", "mqtt5"])
async def test_mosquitto_accepts_an_anonymous_session(mosquitto: Mosquitto, name: str) -> None:
    result = await probe(shipped("mqtt", name), f"127.0.0.1:{mosquitto.port}")
    assert why(result) is None
    assert measured(result) == {"probe_mqtt_reason_code": {("connack",): 0}}
    assert phases(result) == {"resolve", "connect", "session"}


@pytest.mark.parametrize("name", ["mqtt", "mqtt5"])
async def test_every_address_of_a_name_is_probed(mosquitto: Mosquitto, name: str) -> None:
    result = await probe_every_address(shipped("mqtt", name), mosquitto.port)
    assert measured(result)["probe_mqtt_reason_code"] == {("connack",): 0}


async def test_mosquitto_accepts_an_anonymous_session_over_tls(mosquitto: Mosquitto, pki: Pki) -> None:
    result = await probe(shipped("mqtt", "mqtts", tls_config=trust(pki)), f"127.0.0.1:{mosquitto.tls_port}")
    assert why(result) is None
    assert "probe_ssl_earliest_cert_expiry" in measured(result)
    assert phases(result) == {"resolve", "connect", "tls", "session"}
    refused = await probe(shipped("mqtt", "mqtts"), f"127.0.0.1:{mosquitto.tls_port}")
    assert why(refused) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("qos", [0, 1])
async def test_published_message_comes_back(mosquitto: Mosquitto, version: str, qos: int) -> None:
    module = shipped("mqtt", version=version, topic="probe/round", qos=qos, **LOGIN)
    result = await probe(module, f"127.0.0.1:{mosquitto.closed_port}")
    assert why(result) is None
    values = measured(result)
    ((seconds,),) = [list(values.pop("probe_mqtt_round_trip_seconds").values())]
    assert 0 < seconds < result.duration
    codes = {("connack",): 0, ("suback",): qos} | ({("puback",): 0} if qos else {})
    assert values == {"probe_mqtt_reason_code": codes, "probe_mqtt_other_messages": {(): 0}}
    assert phases(result) == {"resolve", "connect", "session", "subscribe", "round_trip"}


@pytest.mark.parametrize(("version", "came"), [("3.1.1", 1), ("5.0", 0)])
async def test_retained_message_of_others_is_counted_apart(mosquitto: Mosquitto, version: str, came: int) -> None:
    """With 3.1.1 a retained message arrives first; 5.0 can exclude it."""
    topic = f"left/behind/{version}"
    reader, writer = await asyncio.open_connection("127.0.0.1", mosquitto.port)
    writer.write(CONNECT_NOBODY + packet(0x33, text(topic), b"\0\1", b"of others"))
    assert await reader.readexactly(8) == CONNACK + b"\x40\2\0\1"
    writer.close()
    for qos in (0, 1):
        result = await probe(shipped("mqtt", version=version, topic=topic, qos=qos), f"127.0.0.1:{mosquitto.port}")
        assert why(result) is None
        assert measured(result)["probe_mqtt_other_messages"] == {(): came}


async def test_concurrent_probes_keep_their_messages_apart(mosquitto: Mosquitto) -> None:
    module = shipped("mqtt", topic="all/at/once", qos=1)
    results = await asyncio.gather(*[probe(module, f"127.0.0.1:{mosquitto.port}") for _ in range(20)])
    assert [why(result) for result in results] == [None] * 20
    assert sum(measured(result)["probe_mqtt_other_messages"][()] for result in results) > 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("settings", [{}, {**LOGIN, "password": "wrong"}, {**LOGIN, "username": "nobody"}])
async def test_wrong_credentials_are_an_authentication_failure(
    mosquitto: Mosquitto, version: str, settings: dict[str, str]
) -> None:
    result = await probe(shipped("mqtt", version=version, **settings), f"127.0.0.1:{mosquitto.closed_port}")
    assert why(result) == (Reason.AUTHENTICATION, "session")
    assert PASSWORD not in str(result.probe.events)


async def test_topic_without_write_permission_fails(mosquitto: Mosquitto) -> None:
    """A broker reports it in 5.0, and ignores the message in 3.1.1."""
    target = f"127.0.0.1:{mosquitto.closed_port}"
    told, untold = (shipped("mqtt", version=version, topic=READ_ONLY, qos=1, **LOGIN) for version in ("5.0", "3.1.1"))
    assert why(await probe(told, target)) == (Reason.AUTHENTICATION, "round_trip")
    result = await run_until(in_phase("round_trip"), untold, target, grace=0.3)
    assert why(result) == (Reason.TIMEOUT_PROBE, "round_trip")


async def test_client_id_of_the_module_is_used(mosquitto: Mosquitto) -> None:
    result = await probe(shipped("mqtt", client_id="a probe of ours", **LOGIN), f"127.0.0.1:{mosquitto.closed_port}")
    assert why(result) is None


# --- scripted peers ----------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("!H", len(value)) + value.encode()


def packet(first: int, *parts: bytes) -> bytes:
    """Encode a packet of less than 128 bytes."""
    body = b"".join(parts)
    return bytes([first, len(body)]) + body


CONNECT_NOBODY = bytes.fromhex("100c 00044d515454 04 02 003c 0000")
CONNECT = Hear(bytes=31)
CONNECT_5 = Hear(bytes=37)
SUBSCRIBE = Hear(bytes=8)
PUBLISH = Hear(bytes=2 + 3 + 38)
CONNACK, CONNACK_5 = b"\x20\2\0\0", b"\x20\x03\0\0\0"
SUBACK, SUBACK_1 = b"\x90\3\0\1\0", b"\x90\3\0\1\1"
OTHER = packet(0x30, text("t"), b"of others")


async def test_connect_packet_of_3_1_1_has_the_settings(pki: Pki) -> None:
    result, heard = await probe_scripted(shipped("mqtt", **LOGIN), then_silence(Hear(bytes=47), CONNACK), pki)
    assert why(result) is None
    start, name, rest = heard[:14], heard[14:31], heard[31:]
    assert start == bytes.fromhex("102d 00044d515454 04 c2 003c 0011")
    assert name.startswith(b"probe")
    assert name.isalnum()
    assert rest == text(USER) + text(PASSWORD) + b"\xe0\0"


async def test_packets_of_5_have_the_settings(pki: Pki) -> None:
    module = shipped("mqtt", "mqtt5", client_id="me", topic="t", qos=1)
    script = then_silence(Hear(bytes=22), CONNACK_5, Hear(bytes=9))
    result, heard = await probe_scripted(module, script, pki, times_out=True)
    assert why(result) == (Reason.TIMEOUT_PROBE, "subscribe")
    connect = bytes.fromhex("1014 00044d515454 05 02 003c 05 2700040000 0002") + b"me"
    assert heard == connect + bytes.fromhex("8207 0001 00 0001") + b"t" + b"\x21"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1, "mqtt_version"),
        (2, "mqtt_client_id_refused"),
        (3, Reason.TARGET_NOT_READY),
        (4, Reason.AUTHENTICATION),
        (5, Reason.AUTHENTICATION),
        (6, Reason.TARGET_ERROR),
        (0x80, Reason.TARGET_ERROR),
        (0x84, "mqtt_version"),
        (0x85, "mqtt_client_id_refused"),
        (0x87, Reason.AUTHENTICATION),
        (0x88, Reason.TARGET_NOT_READY),
        (0x89, Reason.TARGET_NOT_READY),
        (0x9D, Reason.TARGET_ERROR),
        (0xFF, Reason.TARGET_ERROR),
    ],
)
async def test_connack_code_has_its_reason(pki: Pki, code: int, reason: str) -> None:
    script = then_silence(CONNECT_5, bytes([0x20, 2, 0, code]))
    result, _ = await probe_scripted(shipped("mqtt", "mqtt5"), script, pki)
    assert why(result) == (reason, "session")
    assert measured(result) == {"probe_mqtt_reason_code": {("connack",): code}}


@pytest.mark.parametrize(
    "said",
    [
        b"\x20\1\0", b"\x20\0", b"\x21\2\0\0", b"\x90\3\0\1\0", b"\x10\x7f", b"\0\x7f", b"\x20\xff\xff\xff\xff",
        b"\xd0\0", b"\xe0\0", OTHER,
    ],
)  # fmt: skip
async def test_invalid_connack_fails_at_once(pki: Pki, said: bytes) -> None:
    """The probe fails without waiting for more bytes."""
    result, _ = await probe_scripted(shipped("mqtt"), then_silence(CONNECT, said), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "session")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x90\3\0\1\x80", "mqtt_topic_refused"),
        (b"\x90\3\0\1\x8f", "mqtt_topic_refused"),
        (b"\x90\3\0\1\x87", Reason.AUTHENTICATION),
        (b"\x90\3\0\1\x97", Reason.TARGET_ERROR),
        (OTHER + b"\x90\3\0\1\x80", "mqtt_topic_refused"),
        (b"\x90\3\0\2\0", Reason.PROTOCOL_ERROR),
        (b"\x90\2\0\1", Reason.PROTOCOL_ERROR),
        (b"\x40\2\0\1", Reason.PROTOCOL_ERROR),
        (b"\xe0\0", Reason.TARGET_ERROR),
        (b"\xe0\1\x8b", Reason.TARGET_NOT_READY),
        (OTHER * 1000, Reason.EXPECTATION),
    ],
)
async def test_subscribe_response_has_its_reason(pki: Pki, said: bytes, reason: str) -> None:
    script = then_silence(CONNECT, CONNACK, SUBSCRIBE, said)
    result, _ = await probe_scripted(shipped("mqtt", topic="t"), script, pki)
    assert why(result) == (reason, "subscribe")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"\x40\2\0\1", Reason.TIMEOUT_PROBE),
        (
            OTHER + b"\x40\4\0\1\x10\0",
            Reason.TIMEOUT_PROBE,
        ),  # no subscriber, says 5.0; we are one, and may still receive it
        (b"\x40\4\0\1\x87\0", Reason.AUTHENTICATION),
        (b"\x40\3\0\1\x97", Reason.TARGET_ERROR),
        (b"\x40\2\0\1\x40\2\0\1", Reason.PROTOCOL_ERROR),
        (b"\x40\2\0\2", Reason.PROTOCOL_ERROR),
        (b"\x40\0", Reason.PROTOCOL_ERROR),
        (SUBACK, Reason.PROTOCOL_ERROR),
        (packet(0x34, text("t"), b"\0\1", b"of quality 2"), Reason.PROTOCOL_ERROR),
        (packet(0x32, text("t"), b"\0"), Reason.PROTOCOL_ERROR),
        (packet(0x30, b"\0\2t"), Reason.PROTOCOL_ERROR),
        (packet(0x30), Reason.PROTOCOL_ERROR),
        (b"\x30\x80\x80\x80\x80\x01", Reason.PROTOCOL_ERROR),
        (b"\x30\x81\x80\x10", Reason.PROTOCOL_ERROR),
        (b"\xd1\0", Reason.PROTOCOL_ERROR),
        (b"\xe0\1\x9d", Reason.TARGET_ERROR),
    ],
)
async def test_publish_response_has_its_reason(pki: Pki, said: bytes, reason: str) -> None:
    script = then_silence(CONNECT, CONNACK, SUBSCRIBE, SUBACK_1, Hear(bytes=45), said)
    times_out = reason == Reason.TIMEOUT_PROBE
    result, _ = await probe_scripted(shipped("mqtt", topic="t", qos=1), script, pki, times_out=times_out)
    assert why(result) == (reason, "round_trip")
    assert "probe_mqtt_round_trip_seconds" not in measured(result)


@pytest.mark.parametrize("properties", [b"", b"\x05", b"\x80", b"\xff\xff\xff\xff\x01"])
async def test_truncated_properties_fail(pki: Pki, properties: bytes) -> None:
    said = packet(0x30, text("t"), properties)
    script = then_silence(CONNECT_5, CONNACK_5, Hear(bytes=9), b"\x90\4\0\1\0\0", Hear(bytes=44), said)
    result, _ = await probe_scripted(shipped("mqtt", "mqtt5", topic="t"), script, pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "round_trip")


async def test_message_of_qos_1_is_acknowledged(pki: Pki) -> None:
    said = packet(0x32, text("t"), b"\x12\x34", b"of others")
    script = then_silence(CONNECT, CONNACK, SUBSCRIBE, SUBACK_1, Hear(bytes=45), said)
    result, heard = await probe_scripted(shipped("mqtt", topic="t", qos=1), script, pki, times_out=True)
    assert why(result) == (Reason.TIMEOUT_PROBE, "round_trip")
    assert measured(result)["probe_mqtt_other_messages"] == {(): 1}
    assert heard.endswith(b"\x40\2\x12\x34")


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("name", ["mqtt", "mqtt5"])
async def test_other_protocol_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    await expect_failure(shipped("mqtt", name), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    turns: tuple[Turn, ...] = (CONNECT, CONNACK, SUBSCRIBE, OTHER + SUBACK, PUBLISH, OTHER)
    for script in cuts(turns):
        result = await expect_failure(shipped("mqtt", topic="t"), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"password": PASSWORD}, "needs a `username`"),
        ({"qos": 1}, "without a `topic`"),
        ({"topic": "t", "qos": 2}, "less than or equal to 1"),
        ({"topic": "a/+/b"}, "without wildcards"),
        ({"topic": "a/#"}, "without wildcards"),
        ({"version": "3.1"}, "'3.1.1' or '5.0'"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shipped("mqtt", **settings)


async def test_client_id_beyond_64_kib_fails(mosquitto: Mosquitto) -> None:
    result = await probe(shipped("mqtt", client_id="x" * 65_536), f"127.0.0.1:{mosquitto.port}")
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "session")
