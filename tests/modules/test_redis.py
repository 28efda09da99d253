"""The redis prober against redis-server, alone and replicated, and scripted peers."""

from __future__ import annotations

import pytest

from probe_exporter.prober.failure import Reason
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
from tests.servers.redis import LIMITED, LIMITED_PASSWORD, PASSWORD, USER, USER_PASSWORD, Redis, RedisPair
from tests.targets import End, Pki
from tests.targets.scripted_server import Hear, Script, Turn, talk, then_silence
from tests.waiting import eventually

PING = b"*1\r\n$4\r\nPING\r\n"
INFO_SERVER = b"*2\r\n$4\r\nINFO\r\n$6\r\nserver\r\n"
INFO_REPLICATION = b"*2\r\n$4\r\nINFO\r\n$11\r\nreplication\r\n"
HEARD = PING + INFO_SERVER + INFO_REPLICATION


def bulk(text: str) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def server(replication: str, mode: str = "standalone") -> tuple[Turn, ...]:
    """Return the turns of a server that answers PING and both INFO commands."""
    return (
        Hear(bytes=len(PING)), b"+PONG\r\n",
        Hear(bytes=len(INFO_SERVER)), bulk(f"# Server\r\nredis_version:7.0.15\r\nredis_mode:{mode}\r\n"),
        Hear(bytes=len(INFO_REPLICATION)), bulk(f"# Replication\r\n{replication}"),
    )  # fmt: skip


MASTER = (
    "role:master\r\nconnected_slaves:2\r\nslave0:ip=192.0.2.1,port=6379,state=online,offset=90,lag=1\r\n"
    "slave1:ip=192.0.2.2,port=6380,state=online,offset=40,lag=30\r\nmaster_repl_offset:100\r\n"
)
REPLICA = "role:slave\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:3\r\nconnected_slaves:0\r\n"
CUT_OFF = (
    "role:slave\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\nmaster_link_down_since_seconds:77\r\n"
    "connected_slaves:0\r\n"
)


# --- real servers ------------------------------------------------------------------------------------------


async def test_redis_info_is_reported(redis: Redis) -> None:
    result = await probe(shipped("redis"), f"127.0.0.1:{redis.port}")
    assert why(result) is None
    values = measured(result)
    (((software, version, mode), one),) = values.pop("probe_redis_server_info").items()
    assert (software, version.split(".")[0].isdecimal(), mode, one) == ("redis", True, "standalone", 1)
    assert values == {"probe_redis_role_info": {("master",): 1}, "probe_redis_connected_replicas": {(): 0}}
    assert phases(result) == {"resolve", "connect", "ping", "info"}


async def test_redis_info_is_reported_over_tls(redis: Redis, pki: Pki) -> None:
    result = await probe(shipped("redis", "redis_tls", tls_config=trust(pki)), f"127.0.0.1:{redis.tls_port}")
    assert why(result) is None
    assert "probe_ssl_earliest_cert_expiry" in measured(result)
    assert "tls" in phases(result)
    refused = await probe(shipped("redis", "redis_tls"), f"127.0.0.1:{redis.tls_port}")
    assert why(refused) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")


async def test_every_address_of_a_name_is_probed(redis: Redis, pki: Pki) -> None:
    result = await probe_every_address(shipped("redis"), redis.port)
    assert "probe_redis_server_info" in measured(result)
    secure = await probe_every_address(shipped("redis", "redis_tls", tls_config=trust(pki)), redis.tls_port)
    assert [bool(run.fingerprint_sha256) for run in secure.runs] == [False, False, True]


async def test_master_reports_its_replica_s_lag(redis_pair: RedisPair) -> None:
    module = shipped("redis", "redis_master", password=PASSWORD)
    result = await eventually(
        lambda: probe(module, f"127.0.0.1:{redis_pair.master}"),
        lambda result: "probe_redis_replica_lag_bytes" in measured(result),  # a replica reports it once a second
    )
    lags = measured(result)
    replica = (f"127.0.0.1:{redis_pair.replica}",)
    assert set(lags["probe_redis_replica_lag_bytes"]) == {replica}
    assert 0 <= lags["probe_redis_replica_lag_bytes"][replica] < 1000
    assert lags["probe_redis_replica_lag_seconds"][replica] >= 0
    assert lags["probe_redis_connected_replicas"] == {(): 1}


async def test_replica_reports_its_link_to_the_master(redis_pair: RedisPair) -> None:
    result = await probe(shipped("redis", "redis_replica", password=PASSWORD), f"127.0.0.1:{redis_pair.replica}")
    assert why(result) is None
    values = measured(result)
    assert values["probe_redis_role_info"] == {("slave",): 1}
    assert values["probe_redis_master_link_up"] == {(): 1}
    assert values["probe_redis_master_silent_seconds"][()] >= 0


async def test_replica_fails_a_probe_for_a_master(redis_pair: RedisPair) -> None:
    result = await probe(shipped("redis", "redis_master", password=PASSWORD), f"127.0.0.1:{redis_pair.replica}")
    assert why(result) == (Reason.EXPECTATION, "info")
    assert measured(result)["probe_redis_role_info"] == {("slave",): 1}


async def test_sentinel_reports_its_role(redis_sentinel: int) -> None:
    result = await probe(shipped("redis", role="sentinel"), f"127.0.0.1:{redis_sentinel}")
    assert why(result) is None
    assert measured(result)["probe_redis_role_info"] == {("sentinel",): 1}


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"password": PASSWORD}, None),
        ({"username": "default", "password": PASSWORD}, None),
        ({"username": USER, "password": USER_PASSWORD}, None),
        ({"password": "wrong"}, (Reason.AUTHENTICATION, "auth")),
        ({"username": USER, "password": "wrong"}, (Reason.AUTHENTICATION, "auth")),
        ({"username": "nobody", "password": PASSWORD}, (Reason.AUTHENTICATION, "auth")),
        ({}, (Reason.AUTHENTICATION, "ping")),
        ({"username": LIMITED, "password": LIMITED_PASSWORD, "role": "master"}, (Reason.AUTHENTICATION, "info")),
    ],
)
async def test_login_has_its_reason(
    redis_pair: RedisPair, settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    result = await probe(shipped("redis", **settings), f"127.0.0.1:{redis_pair.master}")
    assert why(result) == verdict
    assert not any(secret in str(result.probe.events) for secret in (PASSWORD, USER_PASSWORD, LIMITED_PASSWORD))


async def test_user_without_info_permission_passes_the_ping(redis_pair: RedisPair) -> None:
    """INFO is optional unless the module needs it."""
    result = await probe(
        shipped("redis", username=LIMITED, password=LIMITED_PASSWORD), f"127.0.0.1:{redis_pair.master}"
    )
    assert why(result) is None
    assert measured(result) == {}
    assert phases(result) == {"resolve", "connect", "auth", "ping", "info"}


# --- scripted peers ----------------------------------------------------------------------------------------


async def test_each_replica_of_a_master_has_its_lag(pki: Pki) -> None:
    result, heard = await probe_scripted(shipped("redis"), then_silence(*server(MASTER)), pki)
    assert why(result) is None
    assert heard == HEARD
    values = measured(result)
    assert values["probe_redis_replica_lag_bytes"] == {("192.0.2.1:6379",): 10, ("192.0.2.2:6380",): 60}
    assert values["probe_redis_replica_lag_seconds"] == {("192.0.2.1:6379",): 1, ("192.0.2.2:6380",): 30}


@pytest.mark.parametrize(
    ("replication", "settings", "verdict"),
    [
        (MASTER, {"max_lag": "31s"}, None),
        (MASTER, {"max_lag": "29s"}, (Reason.EXPECTATION, "info")),
        (REPLICA, {"role": "slave", "max_lag": "3s"}, None),
        (REPLICA, {"max_lag": "2s"}, (Reason.EXPECTATION, "info")),
        (REPLICA, {"role": "master"}, (Reason.EXPECTATION, "info")),
        (CUT_OFF, {}, None),
        ("", {"role": "master"}, (Reason.EXPECTATION, "info")),
        (CUT_OFF, {"max_lag": "100s"}, (Reason.EXPECTATION, "info")),
    ],
)
async def test_role_and_max_lag_are_checked(
    pki: Pki, replication: str, settings: dict[str, str], verdict: tuple[str, str] | None
) -> None:
    result, _ = await probe_scripted(shipped("redis", **settings), then_silence(*server(replication)), pki)
    assert why(result) == verdict


async def test_disconnected_replica_reports_since_when(pki: Pki) -> None:
    result, _ = await probe_scripted(shipped("redis"), then_silence(*server(CUT_OFF)), pki)
    assert measured(result)["probe_redis_master_link_up"] == {(): 0}
    assert measured(result)["probe_redis_master_silent_seconds"] == {(): 77}


async def test_sentinel_mode_is_a_role(pki: Pki) -> None:
    result, _ = await probe_scripted(shipped("redis", role="sentinel"), then_silence(*server("", "sentinel")), pki)
    assert why(result) is None
    assert measured(result)["probe_redis_role_info"] == {("sentinel",): 1}


async def test_valkey_is_reported_by_its_name(pki: Pki) -> None:
    said = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0\r\nserver_mode:sentinel\r\n"
    script = then_silence(Hear(bytes=len(PING)), b"+PONG\r\n", Hear(bytes=len(INFO_SERVER)), bulk(said),
                          Hear(bytes=len(INFO_REPLICATION)), bulk(""))  # fmt: skip
    result, _ = await probe_scripted(shipped("redis", role="sentinel"), script, pki)
    assert why(result) is None
    assert measured(result)["probe_redis_server_info"] == {("valkey", "8.1.0", "sentinel"): 1}


async def test_replica_label_is_a_target(pki: Pki) -> None:
    odd = MASTER.replace("192.0.2.1", "2001:db8::1")
    result, _ = await probe_scripted(shipped("redis"), then_silence(*server(odd)), pki)
    assert measured(result)["probe_redis_replica_lag_bytes"][("[2001:db8::1]:6379",)] == 10


async def test_info_values_are_bounded(pki: Pki) -> None:
    replicas = "".join(f"slave{n}:ip={n}{'x' * 200},port=1,state=online,offset=1,lag=1\r\n" for n in range(1000))
    said = f"role:{'x' * 9999}\r\nconnected_slaves:1000\r\nmaster_repl_offset:1\r\n{replicas}"
    result, _ = await probe_scripted(shipped("redis"), then_silence(*server(said, "y" * 9999)), pki)
    assert why(result) is None
    values = measured(result)
    assert len(values["probe_redis_replica_lag_bytes"]) == 256
    assert max(len(label) for samples in values.values() for labels in samples for label in labels) == 128


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", Reason.TARGET_NOT_READY),
        (b"-MASTERDOWN Link with MASTER is down\r\n", Reason.TARGET_NOT_READY),
        (b"-NOAUTH Authentication required.\r\n", Reason.AUTHENTICATION),
        (b"-DENIED Redis is running in protected mode because\r\n", Reason.AUTHENTICATION),
        (b"-ERR max number of clients reached\r\n", Reason.TARGET_FULL),
        (b"-MISCONF Redis is configured to save RDB snapshots\r\n", Reason.TARGET_ERROR),
        (b"$" + b"9" * 5000 + b"\r\n", Reason.PROTOCOL_ERROR),
        (b"+PANG\r\n", Reason.PROTOCOL_ERROR),
        (b":1\r\n", Reason.PROTOCOL_ERROR),
        (b"$-1\r\n", Reason.PROTOCOL_ERROR),
        (b"$99999999999\r\n", Reason.PROTOCOL_ERROR),
        (b"$2\r\nPONG\r\n", Reason.PROTOCOL_ERROR),
    ],
)
async def test_ping_response_has_its_reason(pki: Pki, answer: bytes, reason: Reason) -> None:
    result, _ = await probe_scripted(shipped("redis"), then_silence(Hear(bytes=len(PING)), answer), pki)
    assert why(result) == (reason, "ping")


@pytest.mark.parametrize("number", ["far", "", "9" * 400, "9" * 5000])
async def test_invalid_lag_matters_only_for_max_lag(pki: Pki, number: str) -> None:
    odd = MASTER.replace("lag=1", f"lag={number}")
    result, _ = await probe_scripted(shipped("redis", role="master"), then_silence(*server(odd)), pki)
    assert why(result) is None
    assert measured(result)["probe_redis_replica_lag_seconds"] == {("192.0.2.2:6380",): 30}
    failed, _ = await probe_scripted(shipped("redis", max_lag="1h"), then_silence(*server(odd)), pki)
    assert why(failed) == (Reason.PROTOCOL_ERROR, "info")


async def test_replicas_of_an_old_server_are_counted(pki: Pki) -> None:
    """Redis 2.6 names its replicas without keys, and has no offsets."""
    old = "role:master\r\nconnected_slaves:1\r\nslave0:192.0.2.1,6379,online\r\n"
    result, _ = await probe_scripted(shipped("redis"), then_silence(*server(old)), pki)
    assert why(result) is None
    assert measured(result)["probe_redis_connected_replicas"] == {(): 1}


UNKNOWN = b"-ERR unknown command 'info', with args beginning with:\r\n"


@pytest.mark.parametrize(
    "answers",
    [
        then_silence(Hear(bytes=len(PING)), b"+PONG\r\n", Hear(bytes=len(INFO_SERVER)), UNKNOWN,
                     Hear(bytes=len(INFO_REPLICATION)), UNKNOWN),
        talk(Hear(bytes=len(PING)), b"+PONG\r\n", Hear(bytes=len(INFO_SERVER))),
        talk(Hear(bytes=len(PING)), b"+PONG\r\n", Hear(bytes=len(INFO_SERVER)), end=End.RESET),
        then_silence(Hear(bytes=len(PING)), b"+PONG\r\n", Hear(bytes=len(INFO_SERVER)), b"$99999999\r\n",
                     Hear(bytes=len(INFO_REPLICATION)), b":1\r\n"),
    ],
    ids=["unknown command", "closed", "reset", "invalid"],
)  # fmt: skip
async def test_server_without_info_passes_unless_settings_need_it(pki: Pki, answers: Script) -> None:
    """Proxies such as Envoy's know PING and no INFO."""
    result, _ = await probe_scripted(shipped("redis"), answers, pki)
    assert why(result) is None
    assert measured(result) == {}
    assert any(event.fields.get("question") == "INFO server" for event in result.probe.events)
    for settings in ({"role": "master"}, {"role": "sentinel"}, {"max_lag": "1s"}):
        failed, _ = await probe_scripted(shipped("redis", **settings), answers, pki)
        assert why(failed) is not None


@pytest.mark.usefixtures("clock")
async def test_unanswered_info_passes_within_the_time() -> None:
    result, heard = await probe_same_loop(shipped("redis"), Hear(bytes=len(PING)), b"+PONG\r\n")
    assert why(result) is None
    assert heard == HEARD


async def test_server_section_alone_tells_a_sentinel(pki: Pki) -> None:
    sentinel = server("", "sentinel")
    script = talk(*sentinel[:4], Hear(bytes=len(INFO_REPLICATION)), UNKNOWN)
    result, _ = await probe_scripted(shipped("redis", role="sentinel"), script, pki)
    assert why(result) is None


@pytest.mark.parametrize("script", STRANGERS.values(), ids=STRANGERS)
async def test_other_protocol_fails_the_probe(pki: Pki, script: Script) -> None:
    await expect_failure(shipped("redis"), script, pki)


async def test_truncated_dialogue_is_connection_closed(pki: Pki) -> None:
    """A role makes the last section necessary; a request on the closed connection may be answered by a reset."""
    for script in cuts(server(REPLICA)):
        result = await expect_failure(shipped("redis", role="slave"), script, pki)
        assert result.failure is not None
        assert result.failure.reason in (Reason.CONNECT_CLOSED, Reason.CONNECT_RESET)


async def test_reset_connection_has_its_own_reason(pki: Pki) -> None:
    result = await expect_failure(shipped("redis"), talk(Hear(bytes=len(PING)), end=End.RESET), pki)
    assert why(result) == (Reason.CONNECT_RESET, "ping")


async def test_damaged_dialogue_is_no_internal_error(pki: Pki) -> None:
    for script in damaged(server(MASTER)):
        await expect_no_bug(shipped("redis", max_lag="5s"), script, pki)
