"""The postgres prober against PostgreSQL, alone, replicated and behind PgBouncer, and scripted peers."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct

import pytest

from probe_exporter.prober.failure import Reason
from tests.deadlines import in_phase, run_until, watch
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
    probe_scripted,
    shipped,
    trust,
)
from tests.outcomes import why
from tests.servers.postgresql import MOST_CLIENTS, PASSWORD, USER, PostgreSql, PostgreSqlPair
from tests.targets import Pki
from tests.targets.scripted_server import Hear, Script, Secure, Turn, talk, then_silence
from tests.waiting import eventually, until

LOGIN = {"user": USER, "password": PASSWORD}


# --- real servers ------------------------------------------------------------------------------------------


async def test_postgres_accepts_connections_without_login(postgresql: PostgreSql) -> None:
    result = await probe(shipped("postgres"), f"127.0.0.1:{postgresql.port}")
    assert why(result) is None
    assert measured(result) == {}
    assert phases(result) == {"resolve", "connect", "startup"}


async def test_postgres_accepts_connections_over_tls(postgresql: PostgreSql, pki: Pki) -> None:
    module = shipped("postgres", "postgres_tls", tls_config=trust(pki))
    result = await probe(module, f"127.0.0.1:{postgresql.port}")
    assert why(result) is None
    assert "probe_ssl_earliest_cert_expiry" in measured(result)
    assert phases(result) == {"resolve", "connect", "tls", "startup"}
    refused = await probe(shipped("postgres", "postgres_tls"), f"127.0.0.1:{postgresql.port}")
    assert why(refused) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


async def test_login_runs_the_query_on_a_primary(postgresql: PostgreSql) -> None:
    result = await probe(shipped("postgres", role="primary", **LOGIN), f"127.0.0.1:{postgresql.port}")
    assert why(result) is None
    values = measured(result)
    (((version,), one),) = values.pop("probe_postgres_server_info").items()
    assert int(version.split(".")[0]) >= 13
    assert one == 1
    assert values == {"probe_postgres_in_recovery": {(): 0}}
    assert phases(result) == {"resolve", "connect", "startup", "auth", "query"}


async def test_every_address_of_a_name_is_probed(postgresql: PostgreSql, pki: Pki) -> None:
    result = await probe_every_address(shipped("postgres", role="primary", **LOGIN), postgresql.port)
    assert measured(result)["probe_postgres_in_recovery"] == {(): 0}
    secure = await probe_every_address(shipped("postgres", "postgres_tls", tls_config=trust(pki)), postgresql.port)
    assert [bool(run.fingerprint_sha256) for run in secure.runs] == [False, False, True]


async def test_standby_without_primary_reports_recovery(postgresql_standby: PostgreSql) -> None:
    target = f"127.0.0.1:{postgresql_standby.port}"
    result = await probe(shipped("postgres", role="standby", **LOGIN), target)
    assert why(result) is None
    assert measured(result)["probe_postgres_in_recovery"] == {(): 1}
    assert "probe_postgres_replay_lag_seconds" not in measured(result)  # it has not replayed anything yet
    assert why(await probe(shipped("postgres", role="primary", **LOGIN), target)) == (Reason.EXPECTATION, "")
    assert why(await probe(shipped("postgres", max_lag="10s", **LOGIN), target)) == (Reason.EXPECTATION, "")


async def test_standby_in_sync_has_no_lag_without_writes(postgresql_pair: PostgreSqlPair) -> None:
    module = shipped("postgres", role="standby", max_lag="10s", **LOGIN)
    result = await eventually(
        lambda: probe(module, f"127.0.0.1:{postgresql_pair.standby}"),
        lambda result: why(result) != (Reason.EXPECTATION, ""),  # before it has connected to its primary
    )
    assert why(result) is None
    assert measured(result)["probe_postgres_replay_lag_seconds"] == {(): 0}
    primary = await probe(shipped("postgres", role="primary", **LOGIN), f"127.0.0.1:{postgresql_pair.primary}")
    assert why(primary) is None


async def test_standby_that_does_not_replay_has_lag(postgresql_pair: PostgreSqlPair) -> None:
    """The lag is the age of a transaction that is received and not replayed."""
    standby, primary = (f"127.0.0.1:{port}" for port in (postgresql_pair.standby, postgresql_pair.primary))

    async def say(target: str, query: str) -> None:
        assert why(await probe(shipped("postgres", query=query, **LOGIN), target)) is None

    async def until_true(condition: str) -> None:
        """Wait until an SQL condition is true on the standby; the query divides by zero as long as it is false."""
        module = shipped("postgres", query=f"SELECT 1 / ({condition})::int", **LOGIN)
        await eventually(lambda: probe(module, standby), lambda result: result.success)

    await say(primary, "SELECT txid_current()")  # a transaction that the standby replays
    await until_true("pg_last_xact_replay_timestamp() IS NOT NULL")
    await say(standby, "SELECT pg_wal_replay_pause()")
    try:
        await until_true("pg_get_wal_replay_pause_state() = 'paused'")
        await say(primary, "SELECT txid_current()")
        await until_true("pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()")
        await asyncio.sleep(0.1)
        result = await probe(shipped("postgres", max_lag="100ms", **LOGIN), standby)
        assert why(result) == (Reason.EXPECTATION, "")
        assert measured(result)["probe_postgres_replay_lag_seconds"][()] > 0.1
    finally:
        await say(standby, "SELECT pg_wal_replay_resume()")


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"password": "wrong"}, (Reason.AUTHENTICATION, "auth")),
        ({"user": "nobody"}, (Reason.AUTHENTICATION, "auth")),
        ({"password": ""}, (Reason.AUTHENTICATION, "auth")),
        ({"database": "nowhere"}, (Reason.TARGET_ERROR, "auth")),
        ({"query": "SELECT nothing"}, (Reason.TARGET_ERROR, "query")),
        ({"query": "SELECT pg_sleep(9)"}, (Reason.TIMEOUT_PROBE, "query")),
        ({"query": ""}, None),
        ({"query": "SELECT NULL, 'x', repeat('y', 100000)"}, None),
        ({"query": "SELECT * FROM generate_series(1, 1000)"}, None),
        ({"query": "SELECT 1; SELECT 2"}, None),
        ({"query": "DO $$ BEGIN RAISE NOTICE 'hear'; END $$"}, None),
    ],
)
async def test_login_and_query_have_their_reason(
    postgresql: PostgreSql, settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    module = shipped("postgres", **{**LOGIN, **settings})
    target = f"127.0.0.1:{postgresql.port}"
    if verdict == (Reason.TIMEOUT_PROBE, "query"):
        result = await run_until(in_phase("query"), module, target, grace=0.1)
    else:
        result = await probe(module, target)
    assert why(result) == verdict
    assert PASSWORD not in str(result.probe.events)


async def test_pgbouncer_answers_like_postgres(pgbouncer: PostgreSql, pki: Pki) -> None:
    target = f"127.0.0.1:{pgbouncer.port}"
    assert why(await probe(shipped("postgres"), target)) is None
    assert why(await probe(shipped("postgres", "postgres_tls", tls_config=trust(pki)), target)) is None
    result = await probe(shipped("postgres", role="primary", **LOGIN), target)
    assert why(result) is None
    assert measured(result)["probe_postgres_in_recovery"] == {(): 0}
    for settings, reason in (
        ({"password": "wrong"}, Reason.AUTHENTICATION),
        ({"user": "nobody"}, Reason.AUTHENTICATION),
        ({"database": "nowhere"}, Reason.TARGET_ERROR),
    ):
        assert why(await probe(shipped("postgres", **{**LOGIN, **settings}), target)) == (reason, "auth")


@pytest.mark.parametrize("module", ["postgres", "postgres_tls"])
@pytest.mark.parametrize(
    "settings", [{}, LOGIN, {"user": "nobody"}, {**LOGIN, "password": "wrong"}, {**LOGIN, "role": "primary"}]
)
async def test_pgbouncer_that_takes_any_user_answers_like_postgres(
    pgbouncer_any: PostgreSql, pki: Pki, module: str, settings: dict[str, str]
) -> None:
    trusted = {"tls_config": trust(pki)} if module == "postgres_tls" else {}
    result = await probe(shipped("postgres", module, **settings, **trusted), f"127.0.0.1:{pgbouncer_any.port}")
    assert why(result) is None
    assert ("probe_postgres_server_info" in measured(result)) is bool(settings)


@pytest.mark.parametrize("settings", [{}, LOGIN])
async def test_pgbouncer_that_takes_any_user_waits_for_its_server(
    pgbouncer_alone: PostgreSql, settings: dict[str, str]
) -> None:
    module = shipped("postgres", **settings)
    result = await run_until(in_phase("startup"), module, f"127.0.0.1:{pgbouncer_alone.port}", grace=0.1)
    assert why(result) == (Reason.TIMEOUT_PROBE, "startup")


async def test_full_pool_is_target_full(pgbouncer: PostgreSql) -> None:
    target = f"127.0.0.1:{pgbouncer.port}"
    waiting, let_in = watch(shipped("postgres", query="SELECT pg_sleep(60)", **LOGIN))
    clients = [asyncio.create_task(probe(waiting, target, 60.0)) for _ in range(MOST_CLIENTS)]
    await until(lambda: sum(client.current_phase == "query" for client in let_in) == MOST_CLIENTS)
    for _ in range(2):
        assert why(await probe(shipped("postgres", **LOGIN), target)) == (Reason.TARGET_FULL, "startup")
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await eventually(lambda: probe(shipped("postgres", **LOGIN), target), lambda result: result.success)


# --- scripted peers ----------------------------------------------------------------------------------------


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


def error(code: bytes) -> bytes:
    return message(b"E", b"SFATAL\0Mwhy not\0C" + code + b"\0\0")


def row(*columns: bytes) -> bytes:
    cells = b"".join([struct.pack("!I", len(column)) + column for column in columns])
    return message(b"D", struct.pack("!H", len(columns)) + cells)


ASK_MD5 = message(b"R", struct.pack("!I", 5) + b"salt")
ASK_CLEAR = message(b"R", struct.pack("!I", 3))
WELCOME = message(b"R", struct.pack("!I", 0)) + message(b"S", b"server_version\x0015.4\0")
READY = message(b"Z", b"I")
STARTUP = Hear(bytes=len(USER) + 86)
QUERY = Hear(bytes=1 + 4 + len("SELECT 1") + 1)
RECOVERY = Hear(bytes=1 + 4 + len("SELECT pg_is_in_recovery()") + 1)
LAG = Hear(bytes=1 + 4 + 191 + 1)
END = message(b"X")


def state(recovering: bytes, *lag: bytes) -> tuple[Turn, ...]:
    """Return the turns of the questions about replication; a primary gets no question about its lag."""
    return (RECOVERY, row(recovering) + READY, *[turn for one in lag for turn in (LAG, row(one) + READY)])


def then_answers() -> tuple[Turn, ...]:
    """Return the turns after a login."""
    return (WELCOME + READY, QUERY, row(b"1") + READY, *state(b"f"), Hear(bytes=5))


async def test_md5_login_is_supported(pki: Pki) -> None:
    """Today's servers ask for MD5 only if they are configured to."""
    script = then_silence(STARTUP, ASK_MD5, Hear(bytes=1 + 4 + 36), *then_answers())
    result, heard = await probe_scripted(shipped("postgres", **LOGIN), script, pki)
    assert why(result) is None
    inner = hashlib.md5(f"{PASSWORD}{USER}".encode()).hexdigest()
    assert message(b"p", b"md5" + hashlib.md5(inner.encode() + b"salt").hexdigest().encode() + b"\0") in heard
    assert heard.endswith(END)
    assert measured(result)["probe_postgres_server_info"] == {("15.4",): 1}


async def test_cleartext_password_is_sent_over_tls_alone(pki: Pki) -> None:
    """Otherwise any man in the middle, and any target, could ask for it."""
    said = message(b"p", PASSWORD.encode() + b"\0")
    module = shipped("postgres", "postgres_tls", tls_config=trust(pki), **LOGIN)
    script = then_silence(Hear(bytes=8), b"S", Secure(), STARTUP, ASK_CLEAR, Hear(bytes=len(said)), *then_answers())
    result, heard = await probe_scripted(module, script, pki)
    assert why(result) is None
    assert said in heard
    result, heard = await probe_scripted(shipped("postgres", **LOGIN), then_silence(STARTUP, ASK_CLEAR), pki)
    assert why(result) == (Reason.AUTHENTICATION, "auth")
    assert PASSWORD.encode() not in heard


NO_FUNCTION = error(b"42883") + READY
NO_ROW = message(b"D", struct.pack("!HI", 1, 99))


@pytest.mark.parametrize(
    ("answer", "settings", "verdict"),
    [
        (state(b"t", b"5.5"), {}, None),
        (state(b"t", b"5.5"), {"max_lag": "6s"}, None),
        (state(b"t", b"5.5"), {"max_lag": "5s"}, (Reason.EXPECTATION, "")),
        (state(b"f"), {"max_lag": "5s", "role": "primary"}, None),
        (state(b"f"), {"role": "standby"}, (Reason.EXPECTATION, "")),
        (state(b"t", b"soon"), {"max_lag": "5s"}, (Reason.PROTOCOL_ERROR, "query")),
        (state(b"t", b"NaN"), {"max_lag": "5s"}, (Reason.PROTOCOL_ERROR, "query")),
        (state(b"t", b"soon"), {"role": "standby"}, None),
        ((RECOVERY, row(b"t") + READY, LAG, NO_FUNCTION), {"role": "standby"}, None),
        ((RECOVERY, row(b"t") + READY, LAG, NO_FUNCTION), {"max_lag": "5s"}, (Reason.TARGET_ERROR, "query")),
        ((RECOVERY, READY), {"max_lag": "5s"}, (Reason.PROTOCOL_ERROR, "query")),
        ((RECOVERY, NO_ROW), {"role": "primary"}, (Reason.PROTOCOL_ERROR, "query")),
    ],
)
async def test_recovery_state_has_its_verdict(
    pki: Pki, answer: tuple[Turn, ...], settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    script = then_silence(STARTUP, WELCOME + READY, QUERY, READY, *answer)
    result, _ = await probe_scripted(shipped("postgres", **LOGIN, **settings), script, pki)
    assert why(result) == verdict
    lag = measured(result).get("probe_postgres_replay_lag_seconds")
    assert lag == ({(): 5.5} if answer == state(b"t", b"5.5") else None)


@pytest.mark.parametrize(
    "turns",
    [
        (RECOVERY, NO_FUNCTION),
        (RECOVERY, READY),
        (RECOVERY, NO_ROW),
        (RECOVERY, b"?" * 9),
        (RECOVERY,),
        (RECOVERY, row(b"t") + READY, LAG),
        (RECOVERY, row(b"t") + READY, LAG, NO_FUNCTION),
    ],
)
async def test_server_without_replication_state_passes(pki: Pki, turns: tuple[Turn, ...]) -> None:
    """Poolers, and servers that merely speak the protocol, don't know these functions."""
    script = talk(STARTUP, WELCOME + READY, QUERY, row(b"1") + READY, *turns)
    result, _ = await probe_scripted(shipped("postgres", **LOGIN), script, pki)
    assert why(result) is None
    assert any("question" in event.fields for event in result.probe.events)


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (b"57P03", (Reason.TARGET_NOT_READY, "startup")),
        (b"", (Reason.TARGET_ERROR, "startup")),  # not an error of PostgreSQL
        (b"57P01", None),
        (b"53300", None),
        (b"08P01\0Mno more connections allowed (max_client_conn)", None),
        (b"08P01\0Mbouncer config error", None),
        (b"3D000", None),
        (b"28000", None),
        (b"28P01", None),
    ],
)
async def test_error_without_credentials_passes_as_with_pg_isready(
    pki: Pki, code: bytes, verdict: tuple[str, str] | None
) -> None:
    result, _ = await probe_scripted(shipped("postgres"), then_silence(Hear(bytes=8), error(code)), pki)
    assert why(result) == verdict


@pytest.mark.parametrize("settings", [{}, LOGIN])
async def test_startup_answered_by_another_message_is_a_protocol_error(pki: Pki, settings: dict[str, str]) -> None:
    result, _ = await probe_scripted(shipped("postgres", **settings), then_silence(Hear(bytes=8), READY), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "startup")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"57P01", Reason.TARGET_NOT_READY),
        (b"53300", Reason.TARGET_FULL),
        (b"08P01\0Mno more connections allowed (max_client_conn)", Reason.TARGET_FULL),
        (b"08P01\0Mbouncer config error", Reason.TARGET_ERROR),
        (b"28P01", Reason.AUTHENTICATION),
    ],
)
async def test_error_with_credentials_has_its_reason(pki: Pki, code: bytes, reason: Reason) -> None:
    result, _ = await probe_scripted(shipped("postgres", **LOGIN), then_silence(STARTUP, error(code)), pki)
    assert why(result) == (reason, "startup")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"N", Reason.TLS_REQUIRED),
        (b"E", Reason.PROTOCOL_ERROR),
        (b"S and something in clear", Reason.PROTOCOL_ERROR),
    ],
)
async def test_starttls_response_has_its_reason(pki: Pki, said: bytes, reason: Reason) -> None:
    module = shipped("postgres", "postgres_tls", tls_config=trust(pki))
    result, heard = await probe_scripted(module, then_silence(Hear(bytes=8), said), pki)
    assert why(result) == (reason, "")
    assert heard == struct.pack("!II", 8, 80877103)


async def test_certificate_of_another_name_is_refused(pki: Pki) -> None:
    module = shipped("postgres", "postgres_tls", tls_config={**trust(pki), "server_name": "other.example.test"})
    result, _ = await probe_scripted(module, then_silence(Hear(bytes=8), b"S", Secure()), pki)
    assert why(result) == (Reason.CERTIFICATE_WRONG_NAME, "tls")


def challenge(text: bytes) -> bytes:
    return message(b"R", struct.pack("!I", 11) + text)


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (challenge(b"r=ours,s=c2FsdA==,i=4096"), Reason.PROTOCOL_ERROR),  # not the client's nonce
        (challenge(b"nonsense"), Reason.PROTOCOL_ERROR),
        (challenge(b""), Reason.PROTOCOL_ERROR),
        (message(b"R", struct.pack("!I", 0)), Reason.AUTHENTICATION),  # AuthenticationOk without a proof
        (message(b"R", struct.pack("!I", 12) + b"v=AAAA"), Reason.AUTHENTICATION),
        (message(b"R", struct.pack("!I", 7)), Reason.AUTHENTICATION),  # GSSAPI
        (message(b"R"), Reason.AUTHENTICATION),
    ],
)
async def test_scram_server_must_prove_the_password(pki: Pki, second: bytes, reason: Reason) -> None:
    ask = message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")
    script = then_silence(STARTUP, ask, Hear(bytes=55), second, READY)
    result, _ = await probe_scripted(shipped("postgres", **LOGIN), script, pki)
    assert why(result) == (reason, "auth")


async def test_scram_server_gets_one_challenge_of_bounded_cost(pki: Pki) -> None:
    """Each challenge costs the client a hash."""
    for changes, said in (({}, 2), ({b"s": base64.b64encode(bytes(2000))}, 1), ({b"i": b"100001"}, 1)):
        heard = await challenged(pki, changes)
        assert heard.count(b"p\0\0\0") == said


async def challenged(pki: Pki, changes: dict[bytes, bytes]) -> bytes:
    """Return what a server hears that sends two challenges with the client's nonce."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said.append(await reader.readexactly(STARTUP.bytes))
        writer.write(message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0"))
        said.append(first := await reader.readexactly(55))
        parts = {b"r": first.partition(b"r=")[2] + b"more", b"s": b"c2FsdA==", b"i": b"4096"} | changes
        writer.write(challenge(b",".join([name + b"=" + value for name, value in parts.items()])) * 2)
        said.append(await reader.read())
        writer.close()
        gone.set()

    said: list[bytes] = []
    gone = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        result = await probe(shipped("postgres", **LOGIN), f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert why(result) == (Reason.PROTOCOL_ERROR, "auth")
        await gone.wait()
    return b"".join(said)


async def test_second_scram_login_is_a_protocol_error(pki: Pki) -> None:
    """Each login would cost the client another hash."""
    ask = message(b"R", struct.pack("!I", 10) + b"SCRAM-SHA-256\0\0")
    result, heard = await probe_scripted(shipped("postgres", **LOGIN), then_silence(STARTUP, ask + ask), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "auth")
    assert heard.count(b"p\0\0\0") == 1


async def test_settings_that_need_a_login_are_refused_without() -> None:
    for key, value in (("role", "primary"), ("max_lag", "1s"), ("query", "SELECT 2"), ("password", "x")):
        with pytest.raises(ValueError, match=r"needs a (login|`user`)"):
            shipped("postgres", **{key: value})


async def test_endless_notices_are_a_protocol_error(pki: Pki) -> None:
    result, _ = await probe_scripted(shipped("postgres"), then_silence(Hear(bytes=8), message(b"N") * 1001), pki)
    assert why(result) == (Reason.PROTOCOL_ERROR, "startup")


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("name", ["postgres", "postgres_tls"])
async def test_other_protocol_fails_the_probe(pki: Pki, name: str, script: Script) -> None:
    await expect_failure(shipped("postgres", name), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    turns = (STARTUP, WELCOME + READY, QUERY, row(b"1") + READY, *state(b"t", b"1"))
    for script in cuts(turns):
        result = await expect_failure(shipped("postgres", max_lag="5s", **LOGIN), script, pki)
        assert result.failure is not None
        assert result.failure.reason is Reason.CONNECT_CLOSED


async def test_damaged_dialogue_is_no_internal_error(pki: Pki) -> None:
    for script in damaged((STARTUP, ASK_MD5, Hear(bytes=1 + 4 + 36), *then_answers())):
        await expect_no_bug(shipped("postgres", **LOGIN), script, pki)
