"""The mysql prober against MariaDB, alone and replicated, and scripted servers, among them MySQL."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from probe_exporter.prober.failure import Reason
from tests.deadlines import in_phase, run_until
from tests.modules.library import (
    STRANGERS,
    cuts,
    damaged,
    expect_failure,
    expect_no_bug,
    measured,
    phases,
    probe,
    probe_every_address,
    probe_same_loop,
    probe_scripted,
    shipped,
    trust,
)
from tests.outcomes import why
from tests.servers.mariadb import (
    MONITOR,
    MOST_CONNECTIONS,
    OTHERWISE,
    PASSWORD,
    TLS_ONLY,
    USER,
    MariaDb,
    MariaDbPair,
)
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, Secure, Turn, talk, then_silence
from tests.waiting import eventually

LOGIN = {"user": USER, "password": PASSWORD}
KEY = rsa.generate_private_key(65537, 2048)


# --- real servers ------------------------------------------------------------------------------------------


async def test_mariadb_version_is_reported_without_login(mariadb: MariaDb) -> None:
    result = await probe(shipped("mysql"), f"127.0.0.1:{mariadb.port}")
    assert why(result) is None
    ((version,),) = measured(result)["probe_mysql_server_info"]
    assert version.split(".")[0].isdecimal()
    assert "MariaDB" in version
    assert not version.startswith("5.5.5-")
    assert set(measured(result)) == {"probe_mysql_server_info"}
    assert phases(result) == {"resolve", "connect", "greeting", "auth"}


async def test_every_address_of_a_name_is_probed(mariadb: MariaDb, pki: Pki) -> None:
    result = await probe_every_address(shipped("mysql"), mariadb.port)
    assert "probe_mysql_server_info" in measured(result)
    secure = await probe_every_address(shipped("mysql", "mysql_tls", tls_config=trust(pki)), mariadb.port)
    assert [bool(run.fingerprint_sha256) for run in secure.runs] == [False, False, True]


async def test_mariadb_version_is_reported_over_tls(mariadb: MariaDb, pki: Pki) -> None:
    result = await probe(shipped("mysql", "mysql_tls", tls_config=trust(pki)), f"127.0.0.1:{mariadb.port}")
    assert why(result) is None
    assert "probe_ssl_earliest_cert_expiry" in measured(result)
    assert phases(result) == {"resolve", "connect", "greeting", "tls", "auth"}
    refused = await probe(shipped("mysql", "mysql_tls"), f"127.0.0.1:{mariadb.port}")
    assert why(refused) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


async def test_login_runs_the_query_and_reports_read_only(mariadb: MariaDb) -> None:
    result = await probe(shipped("mysql", role="", writable=True, **LOGIN), f"127.0.0.1:{mariadb.port}")
    assert why(result) is None
    values = measured(result)
    values.pop("probe_mysql_server_info")
    assert values == {"probe_mysql_read_only": {(): 0}}
    assert phases(result) == {"resolve", "connect", "greeting", "auth", "query", "state"}


async def test_replica_reports_its_lag(mariadb_pair: MariaDbPair) -> None:
    module = shipped("mysql", role="replica", max_lag="1h", user=MONITOR, password=PASSWORD)
    result = await eventually(
        lambda: probe(module, f"127.0.0.1:{mariadb_pair.replica}"),
        lambda result: why(result) != (Reason.EXPECTATION, "state"),  # before it has connected to its source
    )
    assert why(result) is None
    values = measured(result)
    values.pop("probe_mysql_server_info")
    assert 0 <= values.pop("probe_mysql_replica_lag_seconds")[("",)] <= 3600
    assert values == {
        "probe_mysql_read_only": {(): 1},
        "probe_mysql_replica_io_running": {("",): 1},
        "probe_mysql_replica_sql_running": {("",): 1},
    }


async def test_role_and_writable_are_checked(mariadb_pair: MariaDbPair) -> None:
    login = {"user": MONITOR, "password": PASSWORD}
    source, replica = (f"127.0.0.1:{port}" for port in (mariadb_pair.source, mariadb_pair.replica))
    for target, settings, verdict in (
        (source, {"role": "primary", "writable": True}, None),
        (source, {"role": "replica"}, (Reason.EXPECTATION, "state")),
        (replica, {"role": "primary"}, (Reason.EXPECTATION, "state")),
        (replica, {"writable": True}, (Reason.EXPECTATION, "state")),
    ):
        assert why(await probe(shipped("mysql", **login, **settings), target)) == verdict


async def test_missing_replication_privilege_matters_only_for_max_lag(mariadb_pair: MariaDbPair) -> None:
    target = f"127.0.0.1:{mariadb_pair.replica}"
    result = await probe(shipped("mysql", **LOGIN), target)
    assert why(result) is None
    assert "probe_mysql_replica_io_running" not in measured(result)
    assert why(await probe(shipped("mysql", max_lag="1s", **LOGIN), target)) == (Reason.AUTHENTICATION, "state")


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"password": "wrong"}, (Reason.AUTHENTICATION, "auth")),
        ({"user": "nobody"}, (Reason.AUTHENTICATION, "auth")),
        ({"password": ""}, (Reason.AUTHENTICATION, "auth")),
        ({"user": TLS_ONLY}, (Reason.AUTHENTICATION, "auth")),
        ({"user": OTHERWISE}, (Reason.AUTHENTICATION, "auth")),
        ({"database": "mysql"}, (Reason.AUTHENTICATION, "auth")),
        ({"database": "information_schema", "query": "SELECT 1 FROM tables LIMIT 1"}, None),
        ({"query": "SELECT nothing"}, (Reason.TARGET_ERROR, "query")),
        ({"query": "SELECT 1; SELECT 2"}, (Reason.TARGET_ERROR, "query")),
        ({"query": "SELECT SLEEP(9)"}, (Reason.TIMEOUT_PROBE, "query")),
        ({"query": "SELECT password FROM mysql.user"}, (Reason.AUTHENTICATION, "query")),
        ({"query": "SELECT REPEAT('x', 2000000)"}, (Reason.PROTOCOL_ERROR, "query")),
        ({"query": "SELECT NULL, '', REPEAT('x', 251), REPEAT('x', 70000)"}, None),
        ({"query": "SELECT 1 FROM information_schema.collations a, information_schema.collations b LIMIT 50000"}, None),
        ({"query": "DO 1"}, None),
        ({"query": ""}, None),
    ],
)
async def test_login_and_query_have_their_reason(
    mariadb: MariaDb, settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    module, target = shipped("mysql", **{**LOGIN, **settings}), f"127.0.0.1:{mariadb.port}"
    if verdict == (Reason.TIMEOUT_PROBE, "query"):
        result = await run_until(in_phase("query"), module, target, grace=0.1)
    else:
        result = await probe(module, target)
    assert why(result) == verdict
    assert PASSWORD not in str(result.probe.events)


async def test_user_that_requires_tls_logs_in_over_tls(mariadb: MariaDb, pki: Pki) -> None:
    module = shipped("mysql", "mysql_tls", tls_config=trust(pki), user=TLS_ONLY, password=PASSWORD)
    assert why(await probe(module, f"127.0.0.1:{mariadb.port}")) is None


async def test_full_server_is_reported_instead_of_the_greeting(mariadb: MariaDb) -> None:
    module, target = shipped("mysql"), f"127.0.0.1:{mariadb.port}"
    with contextlib.ExitStack() as others:
        for _ in range(MOST_CONNECTIONS + 1):  # one more is reserved for administrators
            other = others.enter_context(socket.create_connection(("127.0.0.1", mariadb.port), timeout=60))
            assert other.recv(1)
        assert why(await probe(module, target)) == (Reason.TARGET_FULL, "greeting")
    # The server notices the closed connections after a moment.
    await eventually(lambda: probe(module, target), lambda result: result.success)


# --- scripted peers ----------------------------------------------------------------------------------------

NONCE = b"20 letters, as it is"
NATIVE, CACHING = b"mysql_native_password", b"caching_sha2_password"
TLS, PLUGINS, ATTRIBUTES, MODERN = 0x800, 0x80000, 0x100000, 0x8200
EVERYTHING = TLS | PLUGINS | MODERN


def packet(number: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "little") + bytes([number % 256]) + body


def greeting(plugin: bytes = NATIVE, capabilities: int = EVERYTHING, version: bytes = b"8.4.2") -> bytes:
    low, high = struct.pack("<I", capabilities)[:2], struct.pack("<I", capabilities)[2:]
    body = b"\x0a" + version + b"\0" + bytes(4) + NONCE[:8] + b"\0" + low + b"\x2d" + bytes(2) + high
    return packet(0, body + bytes([21]) + bytes(10) + NONCE[8:] + b"\0" + plugin + b"\0")


def error(number: int, code: int, words: bytes = b"#HY000why not") -> bytes:
    return packet(number, b"\xff" + struct.pack("<H", code) + words)


def counted(text: bytes | None) -> bytes:
    return b"\xfb" if text is None else bytes([len(text)]) + text


def table(names: list[bytes], *rows: Sequence[bytes | None]) -> bytes:
    columns = [b"\x03def\0\0\0" + counted(name) + b"\0\x0c" + bytes(12) for name in names]
    lines = [b"".join(map(counted, row)) for row in rows]
    end = b"\xfe\0\0\2\0"
    bodies = [bytes([len(names)]), *columns, end, *lines, end]
    return b"".join(packet(1 + number, body) for number, body in enumerate(bodies))


def heard(body: bytes) -> Hear:
    """Wait for a packet with a body of that size."""
    return Hear(bytes=4 + len(body))


def answer_to(proof: int, plugin: bytes = NATIVE) -> Hear:
    """Wait for our answer to the greeting, with a proof of that size."""
    return Hear(bytes=4 + 32 + len(USER) + 1 + 1 + proof + len(plugin) + 1)


def query(words: bytes) -> Hear:
    return Hear(bytes=4 + 1 + len(words))


WELCOME = b"\0\0\0\2\0\0\0"
READ_ONLY = query(b"SELECT @@global.read_only AS read_only")
REPLICA_STATUS = query(b"SHOW REPLICA STATUS")
SLAVE_STATUS = query(b"SHOW SLAVE STATUS")
STATE = [b"Replica_IO_Running", b"Replica_SQL_Running", b"Seconds_Behind_Source", b"Channel_Name"]
OLD_STATE = [name.replace(b"Replica", b"Slave").replace(b"Source", b"Master") for name in STATE]
RUNNING: list[bytes | None] = [b"Yes", b"Yes", b"7", b""]


QUERIED = (query(b"SELECT 1"), table([b"1"], [b"1"]))


def logged_in() -> tuple[Turn, ...]:
    """Return the turns of a login and of the first query."""
    return (greeting(), answer_to(20), packet(2, WELCOME), *QUERIED)


def state_of(*sources: list[bytes | None], read_only: bytes = b"1") -> tuple[Turn, ...]:
    return (READ_ONLY, table([b"read_only"], [read_only]), REPLICA_STATUS, table(STATE, *sources))


def knows_native(proof: bytes) -> bool:
    """Verify a proof as a server does, from the double hash of the password."""
    stored = hashlib.sha1(hashlib.sha1(PASSWORD.encode()).digest()).digest()
    mixed = hashlib.sha1(NONCE + stored).digest()
    return hashlib.sha1(bytes(a ^ b for a, b in zip(proof, mixed, strict=True))).digest() == stored


def knows_caching(proof: bytes) -> bool:
    stored = hashlib.sha256(hashlib.sha256(PASSWORD.encode()).digest()).digest()
    mixed = hashlib.sha256(stored + NONCE).digest()
    return hashlib.sha256(bytes(a ^ b for a, b in zip(proof, mixed, strict=True))).digest() == stored


def proof_in(said: bytes) -> bytes:
    """Return the proof in the client's answer to the greeting."""
    size = said[36 + len(USER) + 1]
    return said[36 + len(USER) + 2 :][:size]


async def test_native_password_is_proved_without_sending_it(pki: Pki) -> None:
    result, said = await probe_scripted(shipped("mysql", **LOGIN), then_silence(*logged_in(), *state_of()), pki)
    assert why(result) is None
    assert knows_native(proof_in(said))
    assert said.endswith(packet(0, b"\x01"))  # COM_QUIT
    assert PASSWORD.encode() not in said


async def test_cached_password_is_proved_without_sending_it(pki: Pki) -> None:
    script = then_silence(greeting(CACHING), answer_to(32), packet(2, b"\x01\x03") + packet(3, WELCOME),
                          *QUERIED, *state_of())  # fmt: skip
    result, said = await probe_scripted(shipped("mysql", **LOGIN), script, pki)
    assert why(result) is None
    assert knows_caching(proof_in(said))
    assert PASSWORD.encode() not in said


async def test_auth_switch_is_followed(pki: Pki) -> None:
    switch = packet(2, b"\xfe" + CACHING + b"\0" + NONCE + b"\0")
    script = then_silence(greeting(b"sha256_password"), answer_to(20), switch, heard(bytes(32)), packet(4, WELCOME),
                          *QUERIED, *state_of())  # fmt: skip
    result, said = await probe_scripted(shipped("mysql", **LOGIN), script, pki)
    assert why(result) is None
    assert NATIVE in said
    _, _, proof = said.partition(b"\x20\0\0\x03")
    assert knows_caching(proof[:32])


async def test_uncached_password_is_sent_over_tls(pki: Pki) -> None:
    script = then_silence(greeting(CACHING), Hear(bytes=36), Secure(), answer_to(32), packet(3, b"\x01\x04"),
                          heard(PASSWORD.encode() + b"\0"), packet(5, WELCOME),
                          *QUERIED, *state_of())  # fmt: skip
    result, said = await probe_scripted(shipped("mysql", "mysql_tls", tls_config=trust(pki), **LOGIN), script, pki)
    assert why(result) is None
    assert packet(4, PASSWORD.encode() + b"\0") in said


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def test_uncached_password_is_encrypted_with_the_server_s_key_if_allowed(pki: Pki) -> None:
    script = then_silence(greeting(CACHING), answer_to(32), packet(2, b"\x01\x04"), heard(b"\x02"),
                          packet(4, b"\x01" + pem(KEY)), heard(bytes(256)), packet(6, WELCOME), *QUERIED,
                          *state_of())  # fmt: skip
    result, said = await probe_scripted(shipped("mysql", fetch_server_key=True, **LOGIN), script, pki)
    assert why(result) is None
    _, _, sent = said.partition(b"\0\x01\0\x05")
    mixed = KEY.decrypt(sent[:256], padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None))
    assert bytes(a ^ b for a, b in zip(mixed, NONCE, strict=False)) == PASSWORD.encode() + b"\0"


async def test_uncached_password_is_not_sent_without_tls(pki: Pki) -> None:
    script = then_silence(greeting(CACHING), answer_to(32), packet(2, b"\x01\x04"))
    result, said = await probe_scripted(shipped("mysql", **LOGIN), script, pki)
    assert why(result) == (Reason.AUTHENTICATION, "auth")
    assert len(said) == answer_to(32).bytes - len(NATIVE) + len(CACHING)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"no key",
        b"x" * 10_000,
        pem(ec.generate_private_key(ec.SECP256R1())),
        pem(rsa.generate_private_key(65537, 1024))[:-40],
    ],
)
async def test_invalid_server_key_is_a_protocol_error(pki: Pki, key: bytes) -> None:
    script = then_silence(greeting(CACHING), answer_to(32), packet(2, b"\x01\x04"), heard(b"\x02"),
                          packet(4, b"\x01" + key))  # fmt: skip
    result, _ = await probe_scripted(shipped("mysql", fetch_server_key=True, **LOGIN), script, pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "auth")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (b"\xfe" + b"mysql_clear_password\0", Reason.AUTHENTICATION),
        (b"\xfe" + b"dialog\0Password:", Reason.AUTHENTICATION),
        (b"\xfe", Reason.AUTHENTICATION),  # the authentication before 4.1
        (b"\xfe" + NATIVE + b"\0short", Reason.PROTOCOL_ERROR),
        (b"\x01\x04", Reason.AUTHENTICATION),  # invalid for mysql_native_password
        (b"\x02", Reason.PROTOCOL_ERROR),
        (b"\xfb/etc/passwd", Reason.PROTOCOL_ERROR),
    ],
)
async def test_unsupported_auth_request_has_its_reason(pki: Pki, request_: bytes, reason: Reason) -> None:
    script = then_silence(greeting(), answer_to(20), packet(2, request_))
    result, said = await probe_scripted(shipped("mysql", **LOGIN), script, pki)
    assert why(result) == (reason, "auth")
    assert PASSWORD.encode() not in said


async def test_endless_auth_switches_are_a_protocol_error(pki: Pki) -> None:
    switches = b"".join(packet(2 + 2 * turn, b"\xfe" + NATIVE + b"\0" + NONCE) for turn in range(11))
    result, _ = await probe_scripted(shipped("mysql", **LOGIN), then_silence(greeting(), switches), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "auth")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (greeting(capabilities=EVERYTHING & ~TLS), Reason.TLS_REQUIRED),
        (greeting() + b"and something in clear", Reason.PROTOCOL_ERROR),
    ],
)
async def test_tls_refusal_or_early_data_ends_before_the_login(pki: Pki, said: bytes, reason: Reason) -> None:
    module = shipped("mysql", "mysql_tls", tls_config=trust(pki), **LOGIN)
    result, told = await probe_scripted(module, then_silence(said), pki)
    assert why(result) == (reason, "")
    assert USER.encode() not in told


async def test_certificate_is_verified_before_the_login(pki: Pki) -> None:
    module = shipped("mysql", "mysql_tls", tls_config={**trust(pki), "server_name": "other.example.test"}, **LOGIN)
    result, said = await probe_scripted(module, then_silence(greeting(), Hear(bytes=36), Secure()), pki)
    assert why(result) == (Reason.CERTIFICATE_WRONG_NAME, "tls")
    assert len(said) == 36


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (1040, Reason.TARGET_FULL),
        (1129, "mysql_host_blocked"),
        (1130, "mysql_host_blocked"),
        (1053, Reason.TARGET_NOT_READY),
        (2, Reason.TARGET_ERROR),
    ],
)
@pytest.mark.parametrize("words", [b"#08004why not", b"why not"])
async def test_error_packet_instead_of_greeting_has_its_reason(pki: Pki, code: int, reason: str, words: bytes) -> None:
    result, _ = await probe_scripted(shipped("mysql"), then_silence(error(0, code, words)), pki)
    assert why(result) == (reason, "greeting")
    assert result.failure is not None
    assert result.failure.message.endswith(": why not")


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (packet(2, WELCOME), None),
        (error(2, 1045), None),
        (error(2, 1698), None),
        (packet(2, b"\xfedialog\0"), (Reason.TIMEOUT_PROBE, "auth")),  # the server has to answer our empty answer
        (packet(2, b"\xfedialog\0") + error(4, 1045), None),
        (error(2, 1203), (Reason.TARGET_FULL, "auth")),
        (error(2, 3032), (Reason.TARGET_NOT_READY, "auth")),
        (error(2, 3159), None),  # it accepts connections over TLS
        (error(2, 1049), None),
        (error(2, 1129), ("mysql_host_blocked", "auth")),
        (packet(2, b"\x05"), (Reason.PROTOCOL_ERROR, "auth")),
    ],
)
async def test_refused_login_passes_without_credentials(
    pki: Pki, answer: bytes, verdict: tuple[str, str] | None
) -> None:
    """The prober waits for it, because MySQL counts clients that leave before as errors."""
    script = then_silence(greeting(), Hear(bytes=70), answer)
    times_out = verdict == (Reason.TIMEOUT_PROBE, "auth")
    result, said = await probe_scripted(shipped("mysql"), script, pki, times_out=times_out)
    assert why(result) == verdict
    assert b"probe_exporter\0\0" in said  # the user name without a proof


async def test_capabilities_decide_plugin_name_and_attributes(pki: Pki) -> None:
    for capabilities, told in ((MODERN, [0, 0]), (MODERN | PLUGINS | ATTRIBUTES, [1, 1])):
        script = then_silence(greeting(capabilities=capabilities), Hear(bytes=52), error(2, 1045))
        result, said = await probe_scripted(shipped("mysql"), script, pki)
        assert why(result) is None
        assert [said.count(NATIVE), said.count(b"\x0cprogram_name\x0eprobe_exporter")] == told


@pytest.mark.parametrize(
    "body",
    [
        b"\x09" + greeting()[5:],
        b"\x0a",
        b"\x0a8.4.2",
        b"\x0a8.4.2\0" + bytes(42),
        greeting(capabilities=PLUGINS)[4:],
    ],
)
async def test_invalid_greeting_is_a_protocol_error(pki: Pki, body: bytes) -> None:
    result, said = await probe_scripted(shipped("mysql"), then_silence(packet(0, body)), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "greeting")
    assert said == b""


async def test_server_version_is_bounded(pki: Pki) -> None:
    result, _ = await probe_scripted(shipped("mysql"), then_silence(greeting(version=b"x" * 9999), error(2, 1045)), pki)
    ((version,),) = measured(result)["probe_mysql_server_info"]
    assert len(version) == 128


@pytest.mark.parametrize(
    ("answer", "settings", "verdict"),
    [
        (state_of(), {"role": "primary"}, None),
        (state_of(read_only=b"0"), {"writable": True}, None),
        (state_of(read_only=b"OFF"), {"writable": True}, None),  # MariaDB since 12.0
        (state_of(read_only=b"NO_LOCK"), {"writable": True}, (Reason.EXPECTATION, "state")),
        (state_of(RUNNING), {"role": "replica", "max_lag": "7s"}, None),
        (state_of(RUNNING), {"max_lag": "6s"}, (Reason.EXPECTATION, "state")),
        (state_of([b"No", b"Yes", None, b"x"]), {}, None),
        (state_of(RUNNING, [b"No", b"Yes", None, b"x"]), {"max_lag": "9s"}, (Reason.EXPECTATION, "state")),
        (state_of([b"Yes", b"Yes", b"soon", b""]), {"role": "replica"}, None),
        (state_of([b"Yes", b"Yes", b"soon", b""]), {"max_lag": "9s"}, (Reason.EXPECTATION, "state")),
        (state_of([b"Yes"]), {"role": "replica"}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, packet(1, WELCOME)), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, table([b"read_only"], [None])), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, table([b"another"], [b"1"])), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, packet(1, b"\xfb/etc/passwd")), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, packet(1, b"\xfc\xff\xff")), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        ((READ_ONLY, packet(1, b"\x01") + packet(2, b"\x03def")), {"writable": True}, (Reason.PROTOCOL_ERROR, "state")),
        (
            (READ_ONLY, packet(1, b"\x01") + packet(2, b"\xfe\xff\xff\xff")),
            {"writable": True},
            (Reason.PROTOCOL_ERROR, "state"),
        ),
        (
            (READ_ONLY, packet(1, b"\x01") + packet(2, b"\0\0\0\0\xfb")),
            {"writable": True},
            (Reason.PROTOCOL_ERROR, "state"),
        ),
    ],
)
async def test_replica_state_has_its_verdict(
    pki: Pki, answer: tuple[Turn, ...], settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    result, _ = await probe_scripted(shipped("mysql", **LOGIN, **settings), then_silence(*logged_in(), *answer), pki)
    assert why(result) == verdict


TOO_MANY_COLUMNS = packet(1, b"\xfc\x01\x01")


@pytest.mark.parametrize(
    "answers",
    [
        (READ_ONLY, error(1, 1193), REPLICA_STATUS, error(1, 1235)),  # a proxy
        (READ_ONLY, error(1, 1064), REPLICA_STATUS, error(1, 1064), SLAVE_STATUS, error(1, 1064)),
        (READ_ONLY, packet(1, WELCOME)),
        (READ_ONLY, b"not a packet"),
        (READ_ONLY, table([b"read_only"], [b"1"]), REPLICA_STATUS, table(STATE, [b"Yes"])),
        (READ_ONLY, table([b"read_only"], [b"1"]), REPLICA_STATUS, TOO_MANY_COLUMNS),
        (READ_ONLY,),
    ],
)
async def test_server_without_state_passes_unless_settings_need_it(pki: Pki, answers: tuple[Turn, ...]) -> None:
    script = talk(*logged_in(), *answers)
    result, _ = await probe_scripted(shipped("mysql", **LOGIN), script, pki)
    assert why(result) is None
    assert any("question" in event.fields for event in result.probe.events)
    assert "probe_mysql_replica_io_running" not in measured(result)
    needed: list[dict[str, Any]] = [{"writable": True, "role": "primary"}, {"writable": True, "max_lag": "1s"}]
    for settings in needed:
        failed, _ = await probe_scripted(shipped("mysql", **LOGIN, **settings), script, pki)
        assert why(failed) is not None


@pytest.mark.usefixtures("clock")
async def test_late_reply_is_not_taken_for_the_next() -> None:
    """A reply about read_only that comes late would look like a replication channel."""
    turns = [turn for turn in (*logged_in(), READ_ONLY) if isinstance(turn, bytes | Hear)]
    result, heard = await probe_same_loop(shipped("mysql", **LOGIN), *turns, table([b"read_only"], [b"1"])[:-9])
    assert why(result) is None
    assert b"SHOW REPLICA STATUS" not in heard


async def test_each_replication_channel_has_its_lag(pki: Pki) -> None:
    answer = state_of(RUNNING, [b"Connecting", b"Yes", None, b"archive"])
    result, _ = await probe_scripted(shipped("mysql", **LOGIN), then_silence(*logged_in(), *answer), pki)
    assert why(result) is None
    values = measured(result)
    assert values["probe_mysql_replica_io_running"] == {("",): 1, ("archive",): 0}
    assert values["probe_mysql_replica_sql_running"] == {("",): 1, ("archive",): 1}
    assert values["probe_mysql_replica_lag_seconds"] == {("",): 7}


async def test_older_mysql_is_asked_for_slave_status(pki: Pki) -> None:
    answer = (READ_ONLY, table([b"read_only"], [b"1"]), REPLICA_STATUS, error(1, 1064), SLAVE_STATUS,
              table(OLD_STATE, RUNNING))  # fmt: skip
    result, _ = await probe_scripted(shipped("mysql", **LOGIN), then_silence(*logged_in(), *answer), pki)
    assert why(result) is None
    assert measured(result)["probe_mysql_replica_lag_seconds"] == {("",): 7}


async def test_replica_rows_are_bounded(pki: Pki) -> None:
    channels = [[b"Yes", b"Yes", b"1", b"%d" % number] for number in range(300)]
    answer = (READ_ONLY, table([b"read_only"], [b"1"]), REPLICA_STATUS, table(STATE, *channels))
    result, _ = await probe_scripted(shipped("mysql", **LOGIN), then_silence(*logged_in(), *answer), pki)
    assert why(result) is None
    assert len(measured(result)["probe_mysql_replica_lag_seconds"]) == 256


def test_settings_that_need_a_login_are_refused_without() -> None:
    for key, value in (("role", "primary"), ("max_lag", "1s"), ("query", "SELECT 2"), ("password", "x")):
        with pytest.raises(ValueError, match=r"needs a (login|`user`)"):
            shipped("mysql", **{key: value})


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("name", ["mysql", "mysql_tls"])
async def test_other_protocol_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    await expect_failure(shipped("mysql", name), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    for script in cuts((*logged_in(), *state_of(RUNNING))):
        result = await expect_failure(shipped("mysql", role="replica", writable=True, **LOGIN), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


async def test_damaged_dialogue_is_no_internal_error(pki: Pki) -> None:
    for script in damaged((*logged_in(), *state_of(RUNNING))):
        await expect_no_bug(shipped("mysql", **LOGIN), script, pki)
