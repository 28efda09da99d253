"""The ssh prober against sshd, directly and behind a tampering proxy, and scripted peers."""

from __future__ import annotations

import asyncio
import base64
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from probe_exporter.prober.failure import Reason
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
)
from tests.outcomes import why
from tests.servers.openssh import KINDS, OpenSsh
from tests.targets import End, Pki
from tests.targets.answers import Repeat
from tests.targets.scripted_server import Hear, Script, Turn, talk, then_silence

DISCONNECT, IGNORE, UNIMPLEMENTED, KEXINIT, ECDH_INIT, ECDH_REPLY = 1, 2, 3, 20, 30, 31

ALGORITHMS = {
    "ssh-ed25519": "ed25519",
    "ecdsa-sha2-nistp256": "nistp256",
    "ecdsa-sha2-nistp384": "nistp384",
    "ecdsa-sha2-nistp521": "nistp521",
    "rsa-sha2-512": "rsa",
    "rsa-sha2-256": "rsa",
}
"""The host key of each signature algorithm."""

EXCHANGES = (
    "curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521", "diffie-hellman-group14-sha256",
)  # fmt: skip


# --- a real server -----------------------------------------------------------------------------------------


async def test_sshd_proves_its_host_key(openssh: OpenSsh) -> None:
    result = await probe(shipped("ssh"), f"127.0.0.1:{openssh.port}")
    assert why(result) is None
    values = measured(result)
    (((protocol, software, comments), one),) = values.pop("probe_ssh_server_info").items()
    assert (protocol, software.split("_")[0], comments.split("-")[0], one) == ("2.0", "OpenSSH", "Debian", 1)
    assert values == {
        "probe_ssh_algorithms_info": {("curve25519-sha256", "ssh-ed25519"): 1},
        "probe_ssh_host_key_info": {("ssh-ed25519", openssh.fingerprints["ed25519"]): 1},
        "probe_ssh_host_key_bits": {(): 256},
    }
    assert phases(result) == {"resolve", "connect", "banner", "key_exchange"}


async def test_every_address_of_a_name_is_probed(openssh: OpenSsh) -> None:
    result = await probe_every_address(shipped("ssh"), openssh.port)
    assert "probe_ssh_server_info" in measured(result)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_host_key_is_proved_by_each_algorithm(openssh: OpenSsh, algorithm: str) -> None:
    """Fingerprint and bits are those that ssh-keygen prints."""
    kind = ALGORITHMS[algorithm]
    module = shipped("ssh", host_key_algorithms=[algorithm], host_keys=[openssh.fingerprints[kind]])
    result = await probe(module, f"127.0.0.1:{openssh.port}")
    assert why(result) is None
    values = measured(result)
    ((_, chosen),) = values["probe_ssh_algorithms_info"]
    ((type_, fingerprint),) = values["probe_ssh_host_key_info"]
    assert (chosen, fingerprint) == (algorithm, openssh.fingerprints[kind])
    assert type_ == ("ssh-rsa" if kind == "rsa" else algorithm)
    assert values["probe_ssh_host_key_bits"] == {(): int(KINDS[kind][1])}


@pytest.mark.parametrize("exchange", EXCHANGES)
async def test_key_exchange_of_each_kind_passes(openssh: OpenSsh, exchange: str) -> None:
    """Ten runs, so that some shared secrets need a leading zero byte."""
    for _ in range(10):
        result = await probe(shipped("ssh", key_exchanges=[exchange]), f"127.0.0.1:{openssh.port}")
        assert why(result) is None
        assert measured(result)["probe_ssh_algorithms_info"] == {(exchange, "ssh-ed25519"): 1}


@pytest.mark.parametrize(("name", "kind"), [("ssh_ed25519", "ed25519"), ("ssh_ecdsa", "nistp256"), ("ssh_rsa", "rsa")])
async def test_shipped_module_asks_for_its_host_key(openssh: OpenSsh, name: str, kind: str) -> None:
    result = await probe(shipped("ssh", name), f"127.0.0.1:{openssh.port}")
    assert why(result) is None
    ((_, fingerprint),) = measured(result)["probe_ssh_host_key_info"]
    assert fingerprint == openssh.fingerprints[kind]


async def test_host_key_may_be_any_of_the_expected(openssh: OpenSsh) -> None:
    everything = list(openssh.fingerprints.values())
    assert why(await probe(shipped("ssh", host_keys=everything), f"127.0.0.1:{openssh.port}")) is None


async def test_unexpected_host_key_fails_and_is_reported(openssh: OpenSsh) -> None:
    module = shipped("ssh", host_keys=[openssh.fingerprints["rsa"]])
    result = await probe(module, f"127.0.0.1:{openssh.port}")
    assert why(result) == ("ssh_host_key_mismatch", "key_exchange")
    assert measured(result)["probe_ssh_host_key_info"] == {("ssh-ed25519", openssh.fingerprints["ed25519"]): 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"host_keys": ["MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48"]},
        {"host_keys": ["SHA256:short"]},
        {"host_keys": [f"SHA256:{'a' * 43}="]},
        {"host_key_algorithms": []},
        {"host_key_algorithms": ["ssh-dss"]},
        {"key_exchanges": []},
        {"key_exchanges": ["diffie-hellman-group1-sha1"]},
    ],
)
def test_settings_that_can_not_match_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        shipped("ssh", **settings)


# --- a tampering proxy -------------------------------------------------------------------------------------


@asynccontextmanager
async def in_between(port: int, change: Callable[[bytes], bytes]) -> AsyncIterator[tuple[int, Awaitable[bytes]]]:
    """Run a proxy that changes the server's data; yield its port and all that the client sent."""
    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)

        async def back() -> None:
            while data := await far_reader.read(65536):
                writer.write(change(data))

        going_back = asyncio.create_task(back())
        said = b""
        while data := await reader.read(65536):
            said += data
            far_writer.write(data)
        heard.set_result(said)
        far_writer.close()
        going_back.cancel()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], heard


def flip(pattern: bytes) -> Callable[[bytes], bytes]:
    """Return a function that flips a bit of the byte after a pattern."""
    return lambda data: re.sub(
        b"(" + pattern + b")(.)", lambda m: m[1] + bytes([m[2][0] ^ 1]), data, count=1, flags=re.DOTALL
    )


async def test_client_sends_only_kexinit_exchange_and_disconnect(openssh: OpenSsh) -> None:
    async with in_between(openssh.port, bytes) as (port, heard):
        assert why(await probe(shipped("ssh"), f"127.0.0.1:{port}")) is None
        introduction, _, packets = (await heard).partition(b"\r\n")
    assert introduction == b"SSH-2.0-probe_exporter"
    kinds = []
    while packets:
        size, padding, kind = struct.unpack_from("!IBB", packets)
        assert (size + 4) % 8 == 0
        assert padding >= 4
        kinds.append(kind)
        packets = packets[size + 4 :]
    assert kinds == [KEXINIT, ECDH_INIT, DISCONNECT]


@pytest.mark.parametrize(
    ("algorithm", "pattern"),
    [
        pytest.param("ssh-ed25519", rb"ssh-ed25519\0\0\0\x40", id="signature of Ed25519"),
        pytest.param("rsa-sha2-512", rb"rsa-sha2-512\0\0\x01\0", id="signature of RSA"),
        pytest.param(
            "ecdsa-sha2-nistp256", rb"ecdsa-sha2-nistp256\0\0\0[\x40-\x50]\0\0\0[\x1a-\x21].", id="signature of ECDSA"
        ),
        pytest.param("ssh-ed25519", rb"ssh-ed25519\0\0\0\x20", id="host key"),
        pytest.param("ssh-ed25519", rb"\0\0\0\x20.{32}\0\0\0\x20", id="exchange value"),
        pytest.param("ssh-ed25519", rb"curve25519-sha25", id="algorithms"),
        pytest.param("ssh-ed25519", rb"OpenSSH_", id="banner"),
    ],
)
async def test_tampered_exchange_is_a_bad_signature(openssh: OpenSsh, algorithm: str, pattern: bytes) -> None:
    async with in_between(openssh.port, flip(pattern)) as (port, _):
        result = await probe(shipped("ssh", host_key_algorithms=[algorithm]), f"127.0.0.1:{port}")
    assert why(result) == ("ssh_bad_signature", "key_exchange")
    assert "probe_ssh_host_key_info" not in measured(result)


# --- scripted peers ----------------------------------------------------------------------------------------


def string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def packet(kind: int, body: bytes = b"") -> bytes:
    padding = 4 + -(len(body) + 10) % 8
    return struct.pack("!IBB", len(body) + padding + 2, padding, kind) + body + bytes(padding)


def offer(**changed: str) -> bytes:
    """Return a KEXINIT; the arguments change `kex`, `key`, `cipher`, `mac` or `compression`."""
    known = {"kex": "curve25519-sha256", "key": "ssh-ed25519", "cipher": "aes128-ctr", "mac": "hmac-sha2-256"}
    known |= {"compression": "none"} | changed
    twice = [known[name] for name in ("cipher", "mac", "compression") for _ in range(2)]
    lists = [known["kex"], known["key"], *twice, "", ""]
    return packet(KEXINIT, bytes(16) + b"".join(string(one.encode()) for one in lists) + bytes(5))


BANNER = b"SSH-2.0-test\r\n"
KEY = string(b"ssh-ed25519") + string(bytes(range(32)))
POINT = bytes([9, *bytes(31)])
SIGNATURE = string(b"ssh-ed25519") + string(bytes(64))


def reply(key: bytes = KEY, point: bytes = POINT, signature: bytes = SIGNATURE) -> bytes:
    return packet(ECDH_REPLY, string(key) + string(point) + string(signature))


WHOLE: tuple[Turn, ...] = (BANNER, offer(), reply())


@pytest.mark.parametrize(
    ("offered", "named"),
    [
        ({"kex": "sntrup761x25519-sha512@openssh.com"}, "no common key exchange"),
        ({"key": "ssh-rsa,ssh-dss"}, "no common host key"),
        ({"cipher": "rot13"}, "no common cipher"),
        ({"mac": "crc32"}, "no common MAC"),
        ({"compression": "lzw"}, "no common compression"),
        ({"kex": ""}, "no common key exchange"),
    ],
)
async def test_missing_common_algorithm_has_its_own_reason(pki: Pki, offered: dict[str, str], named: str) -> None:
    """The message names what the server offers."""
    result, _ = await probe_scripted(shipped("ssh"), talk(BANNER, offer(**offered)), pki)
    assert why(result) == ("ssh_no_common_algorithm", "key_exchange")
    assert result.failure is not None
    assert result.failure.message.startswith(named)
    assert result.failure.message.endswith(
        f"the server offers {', '.join(*(known.split(',') for known in offered.values()))}"
    )


@pytest.mark.parametrize(
    "offered", [{"cipher": "blowfish-cbc,arcfour"}, {"mac": "hmac-ripemd160"}, {"mac": "hmac-md5-96"}]
)
async def test_old_cipher_or_mac_does_not_end_the_exchange(pki: Pki, offered: dict[str, str]) -> None:
    """The probe never encrypts, and no setting asks for a cipher."""
    result, _ = await probe_scripted(shipped("ssh"), talk(BANNER, offer(**offered)), pki)
    assert why(result) == (Reason.CONNECT_CLOSED, "key_exchange")
    assert "probe_ssh_algorithms_info" in measured(result)


async def test_first_algorithm_of_the_module_is_chosen(pki: Pki) -> None:
    module = shipped("ssh", host_key_algorithms=["rsa-sha2-256", "ssh-ed25519"])
    script = talk(BANNER, offer(kex="ecdh-sha2-nistp521,ecdh-sha2-nistp384", key="ssh-ed25519,rsa-sha2-256"))
    result, _ = await probe_scripted(module, script, pki)
    assert measured(result)["probe_ssh_algorithms_info"] == {("ecdh-sha2-nistp384", "rsa-sha2-256"): 1}


RSA = string(b"ssh-rsa") + string(b"\1\0\1") + string(b"\1" * 256)
COMPRESSED = string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(b"\3" + bytes(32))
CERTIFICATE = string(b"ssh-ed25519-cert-v01@openssh.com") + KEY
TRICK = string(b"ssh-ed25519 " + base64.b64encode(KEY)) + KEY


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "ssh_bad_signature"),
        ({"signature": string(b"ssh-rsa") + string(bytes(64))}, "ssh_bad_signature"),
        ({"signature": string(b"ssh-ed25519") + string(b"")}, "ssh_bad_signature"),
        ({"signature": b""}, Reason.PROTOCOL_ERROR),
        ({"key": RSA}, "ssh_bad_signature"),
        ({"key": TRICK}, "ssh_bad_signature"),
        ({"key": CERTIFICATE}, Reason.PROTOCOL_ERROR),
        ({"key": string(b"ssh-ed25519") + string(bytes(31))}, Reason.PROTOCOL_ERROR),
        ({"key": string(b"ssh-ed25519")}, Reason.PROTOCOL_ERROR),
        ({"key": COMPRESSED}, Reason.PROTOCOL_ERROR),
        ({"key": string(b"")}, Reason.PROTOCOL_ERROR),
        ({"key": string(b"\xff \n")}, Reason.PROTOCOL_ERROR),
        ({"key": b""}, Reason.PROTOCOL_ERROR),
        ({"point": bytes(32)}, Reason.PROTOCOL_ERROR),
        ({"point": bytes(31)}, Reason.PROTOCOL_ERROR),
        ({"point": b""}, Reason.PROTOCOL_ERROR),
    ],
)
async def test_invalid_proof_has_its_reason(pki: Pki, changed: dict[str, bytes], reason: str) -> None:
    result, _ = await probe_scripted(shipped("ssh"), talk(BANNER, offer(), reply(**changed)), pki)
    assert why(result) == (reason, "key_exchange")


@pytest.mark.parametrize(
    ("exchange", "point"),
    [
        ("ecdh-sha2-nistp256", b"\4" + bytes(64)),
        ("ecdh-sha2-nistp256", b"\0"),
        ("ecdh-sha2-nistp521", b"\4" + b"\xff" * 132),
        ("diffie-hellman-group14-sha256", b""),
        ("diffie-hellman-group14-sha256", b"\0"),
        ("diffie-hellman-group14-sha256", b"\1"),
        ("diffie-hellman-group14-sha256", b"\0" + b"\xff" * 256),
    ],
)
async def test_invalid_exchange_value_is_a_protocol_error(pki: Pki, exchange: str, point: bytes) -> None:
    result, _ = await probe_scripted(shipped("ssh"), talk(BANNER, offer(kex=exchange), reply(point=point)), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "key_exchange")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([packet(DISCONNECT, bytes(4) + string(b"go away") + string(b""))], Reason.TARGET_ERROR),
        ([packet(DISCONNECT, b"\0\0\0\x0c" + string(b"too many") + string(b""))], Reason.TARGET_FULL),
        ([packet(DISCONNECT)], Reason.PROTOCOL_ERROR),
        ([packet(UNIMPLEMENTED, bytes(4))], Reason.PROTOCOL_ERROR),
        ([packet(KEXINIT, bytes(16))], Reason.PROTOCOL_ERROR),
        ([packet(KEXINIT, bytes(16) + b"\xff" * 20)], Reason.PROTOCOL_ERROR),
        ([struct.pack("!IB", 35_001, 4)], Reason.PROTOCOL_ERROR),
        ([struct.pack("!IB", 0, 0)], Reason.PROTOCOL_ERROR),
        ([struct.pack("!IB", 12, 11)], Reason.PROTOCOL_ERROR),
        ([Repeat(packet(IGNORE, string(b"")), 100)], Reason.PROTOCOL_ERROR),
        ([Repeat(packet(IGNORE, string(b"")), 99), offer(key="ssh-dss")], "ssh_no_common_algorithm"),
    ],
)
async def test_packet_instead_of_kexinit_has_its_reason(pki: Pki, said: list[Turn], reason: str) -> None:
    result, _ = await probe_scripted(shipped("ssh"), then_silence(BANNER, *said), pki)
    assert why(result) == (reason, "key_exchange")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"SSH-1.5-old\r\n", Reason.PROTOCOL_ERROR),
        (b"SSH-\r\n", Reason.PROTOCOL_ERROR),
        (b"SSH-3.0-new\n", Reason.PROTOCOL_ERROR),
        (b"Exceeded MaxStartups\r\n", Reason.TARGET_FULL),
        (b"Not allowed at this time\r\n", Reason.TARGET_ERROR),
        (b"no\r\n" * 100, Reason.PROTOCOL_ERROR),
        (b"x" * 1025, Reason.PROTOCOL_ERROR),
    ],
)
async def test_invalid_banner_has_its_reason(pki: Pki, said: bytes, reason: Reason) -> None:
    result, _ = await probe_scripted(shipped("ssh"), then_silence(said), pki)
    assert why(result) == (reason, "banner")


@pytest.mark.parametrize(
    ("said", "labels"),
    [
        (b"Welcome!\r\nSSH-2.0-a-b c d\r\n", ("2.0", "a-b", "c d")),
        (b"SSH-1.99-both\n", ("1.99", "both", "")),
        (b"SSH-2.0-\xff\r\n", ("2.0", "\N{REPLACEMENT CHARACTER}", "")),
    ],
)
async def test_banner_is_reported_in_parts(pki: Pki, said: bytes, labels: tuple[str, str, str]) -> None:
    result, heard = await probe_scripted(shipped("ssh"), talk(said), pki)
    assert why(result) == (Reason.CONNECT_CLOSED, "key_exchange")
    assert measured(result) == {"probe_ssh_server_info": {labels: 1}}
    assert heard.startswith(b"SSH-2.0-probe_exporter\r\n")


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
async def test_other_protocol_fails_the_probe(pki: Pki, script: Script) -> None:
    await expect_failure(shipped("ssh"), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    for script in cuts(WHOLE):
        result = await expect_failure(shipped("ssh"), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


async def test_reset_connection_has_its_own_reason(pki: Pki) -> None:
    result = await expect_failure(shipped("ssh"), talk(BANNER, Hear(), Hear(bytes=100), end=End.RESET), pki)
    assert why(result) == (Reason.CONNECT_RESET, "key_exchange")


async def test_silent_server_times_out_in_the_key_exchange_phase(pki: Pki) -> None:
    result = await expect_failure(shipped("ssh"), then_silence(BANNER, offer()), pki)
    assert why(result) == (Reason.TIMEOUT_PROBE, "key_exchange")
