"""The tcp, udp and unix probers against real servers."""

from __future__ import annotations

from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import tcp, udp, unix
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.outcomes import reason_of
from tests.servers.chrony import REQUEST, STRATUM
from tests.servers.dovecot import Dovecot
from tests.servers.mariadb import MariaDb
from tests.servers.mosquitto import Mosquitto
from tests.servers.openssh import OpenSsh
from tests.servers.postgresql import PostgreSql
from tests.servers.redis import Redis
from tests.servers.slapd import Slapd
from tests.targets import Pki

pytestmark = pytest.mark.slow

Step = dict[str, Any]


async def probe(prober: Prober[Any], where: int | str, *steps: Step, **settings: Any) -> Result:
    """Run a dialogue with a loopback port or a Unix socket."""
    made = prober.settings.model_validate({"query_response": list(steps), **settings})
    target = where if isinstance(where, str) else f"127.0.0.1:{where}"
    return await run(Module("m", prober, made, 0.0, Place("test.yml")), target, 20.0)


def raw(data: str | bytes) -> str:
    """Return bytes, given as such or in hexadecimal, as `send_bytes` and `expect_bytes` take them."""
    return (bytes.fromhex(data) if isinstance(data, str) else data).decode(errors="surrogateescape")


# --- redis -------------------------------------------------------------------------------------------------

PING = ({"send": "PING\r"}, {"expect": r"^\+PONG$"})


async def test_redis_answers_over_tcp_and_unix_socket(redis: Redis) -> None:
    assert reason_of(await probe(tcp.prober, redis.port, *PING)) is None
    assert reason_of(await probe(unix.prober, redis.path, *PING)) is None


async def test_redis_answers_over_tls(redis: Redis, pki: Pki) -> None:
    assert reason_of(await probe(tcp.prober, redis.tls_port, *PING, tls=True, tls_config=pki.trust())) is None
    assert reason_of(await probe(tcp.prober, redis.tls_port, *PING, tls=True)) is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_redis_answers_binary_steps(redis: Redis) -> None:
    steps: list[Step] = [
        {"send_bytes": "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n"},
        {"expect_bytes": "$2\r\nhi\r\n"},
        {"send": "QUIT\r"},
        {"expect": "OK"},
    ]
    assert reason_of(await probe(tcp.prober, redis.port, *steps)) is None
    assert reason_of(await probe(unix.prober, redis.path, *steps)) is None


async def test_redis_error_does_not_match(redis: Redis) -> None:
    result = await probe(tcp.prober, redis.port, {"send": "NONSENSE\r"}, {"expect_bytes": "+OK"})
    assert reason_of(result) is Reason.DIALOGUE_BYTES_MISMATCH


# --- others that talk in lines -----------------------------------------------------------------------------


async def test_sshd_closes_on_another_protocol(openssh: OpenSsh) -> None:
    steps = {"expect": "^SSH-2.0-OpenSSH_", "send": "GET / HTTP/1.0\r"}, {"expect": "^HTTP"}
    assert reason_of(await probe(tcp.prober, openssh.port, *steps)) is Reason.DIALOGUE_NO_MATCH
    assert reason_of(await probe(tcp.prober, openssh.port, tls=True)) is Reason.TLS_HANDSHAKE


async def test_starttls_certificate_is_reported_by_dovecot(dovecot: Dovecot, pki: Pki) -> None:
    steps = {"expect": r"^\* OK", "send": "a STARTTLS\r"}, {"expect": "^a OK", "starttls": True}
    result = await probe(tcp.prober, dovecot.imap, *steps, tls_config=pki.trust())
    assert reason_of(result) is None
    refused = await probe(tcp.prober, dovecot.imap, *steps)
    assert (reason_of(refused), refused.phase) == (Reason.CERTIFICATE_UNKNOWN_AUTHORITY, "tls")
    shown = [one.probe.samples.labelled[metrics.CERTIFICATE_INFO] for one in (result, refused)]
    assert shown[0] == shown[1]


async def test_imap_login_answer_depends_on_the_password(dovecot: Dovecot, pki: Pki) -> None:
    """One password is right, the other is wrong."""
    for password, answer in (("hunter2", "OK"), ("wrong", "NO")):
        steps = {"expect": r"^\* OK", "send": f"a LOGIN me {password}\r"}, {"expect": f"^a {answer} "}
        assert reason_of(await probe(tcp.prober, dovecot.imaps, *steps, tls=True, tls_config=pki.trust())) is None


async def test_memcached_answers_over_tcp_and_udp(memcached: int) -> None:
    answer = {"expect": r"(?s)^.{0,8}VERSION \d"}
    assert reason_of(await probe(tcp.prober, memcached, {"send": "version\r"}, answer)) is None
    frame = "\0\1\0\0\0\1\0\0"  # request 1, datagram 0 of 1
    assert reason_of(await probe(udp.prober, memcached, {"send_bytes": f"{frame}version\r\n"}, answer)) is None


# --- those that talk in bytes ------------------------------------------------------------------------------


async def test_postgresql_accepts_starttls(postgresql: PostgreSql, postgresql_standby: PostgreSql, pki: Pki) -> None:
    steps = {"send_bytes": raw("00000008 04d2162f")}, {"expect_bytes": "S"}, {"starttls": True}
    for server in (postgresql, postgresql_standby):
        assert reason_of(await probe(tcp.prober, server.port, *steps, tls_config=pki.trust())) is None
        assert reason_of(await probe(tcp.prober, server.port, *steps)) is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_mariadb_greeting_matches_as_prompt(mariadb: MariaDb) -> None:
    greeting = {"expect": r"\d+\.\d+\.\d+-MariaDB", "expect_prompt": True}
    assert reason_of(await probe(tcp.prober, mariadb.port, greeting)) is None


async def test_slapd_accepts_anonymous_bind(slapd: Slapd, pki: Pki) -> None:
    steps = (
        {"send_bytes": raw("300c 0201 01 6007 0201 03 0400 8000")},  # bind, version 3, no name, no password
        {"expect_bytes": raw("300c 0201 01 6107 0a01 00 0400 0400")},  # success
    )
    assert reason_of(await probe(tcp.prober, slapd.port, *steps)) is None
    assert reason_of(await probe(tcp.prober, slapd.tls_port, *steps, tls=True, tls_config=pki.trust())) is None


async def test_mosquitto_accepts_and_refuses_connections(mosquitto: Mosquitto, pki: Pki) -> None:
    connect = {"send_bytes": raw("100c 0004 4d515454 04 02 003c 0000")}  # MQTT 3.1.1, no name, no password
    accepted, refused = ({"expect_bytes": raw(f"2002 00 {code}")} for code in ("00", "05"))
    assert reason_of(await probe(tcp.prober, mosquitto.port, connect, accepted)) is None
    assert (
        reason_of(await probe(tcp.prober, mosquitto.tls_port, connect, accepted, tls=True, tls_config=pki.trust()))
        is None
    )
    assert reason_of(await probe(tcp.prober, mosquitto.closed_port, connect, refused)) is None
    assert (
        reason_of(await probe(tcp.prober, mosquitto.closed_port, connect, accepted)) is Reason.DIALOGUE_BYTES_MISMATCH
    )


async def test_chrony_answers_with_its_stratum(chrony: int) -> None:
    """The first byte says: no leap second, version 4, mode 4 (server)."""
    answer = {"expect": rf"^\x24\x{STRATUM:02x}"}
    assert reason_of(await probe(udp.prober, chrony, {"send_bytes": raw(REQUEST)}, answer)) is None
    other = {"expect": rf"^\x24\x{STRATUM + 1:02x}"}
    assert reason_of(await probe(udp.prober, chrony, {"send_bytes": raw(REQUEST)}, other)) is Reason.DIALOGUE_NO_MATCH
