"""Probes of servers that are none of ours, over TCP and Unix sockets: what real software says is understood."""

from __future__ import annotations

from typing import Any

from probe_exporter.config import Module
from probe_exporter.document import Place
from probe_exporter.prober import Prober, Reason
from probe_exporter.probers import tcp, unix
from probe_exporter.runner import Result, run
from tests.servers.redis import Redis
from tests.targets import Pki


async def probe(prober: Prober[Any], target: str, **settings: Any) -> Result:
    made = prober.settings.model_validate({"query_response": [{"send": "PING\r"}, {"expect": r"^\+PONG$"}]} | settings)
    return await run(Module("m", prober, made, 0.0, Place("test.yml")), target, 5.0)


async def test_redis_answers_over_tcp(redis: Redis) -> None:
    assert (await probe(tcp.prober, f"127.0.0.1:{redis.port}")).success


async def test_redis_answers_over_tls(redis: Redis, pki: Pki) -> None:
    trust = {"ca_file": str(pki.directory / "root.pem")}
    assert (await probe(tcp.prober, f"127.0.0.1:{redis.tls_port}", tls=True, tls_config=trust)).success
    result = await probe(tcp.prober, f"127.0.0.1:{redis.tls_port}", tls=True)
    assert result.failure is not None
    assert result.failure.reason is Reason.CERTIFICATE_UNKNOWN_AUTHORITY


async def test_redis_answers_over_its_socket(redis: Redis) -> None:
    assert (await probe(unix.prober, redis.path)).success


async def test_redis_answers_in_bytes(redis: Redis) -> None:
    steps = [
        {"send_bytes": "*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n"},
        {"expect_bytes": "$2\r\nhi\r\n"},
        {"send": "QUIT\r"},
        {"expect": "OK"},
    ]
    assert (await probe(tcp.prober, f"127.0.0.1:{redis.port}", query_response=steps)).success
    assert (await probe(unix.prober, redis.path, query_response=steps)).success


async def test_what_redis_refuses_is_no_answer(redis: Redis) -> None:
    steps = [{"send": "NONSENSE\r"}, {"expect_bytes": "+OK"}]
    result = await probe(tcp.prober, f"127.0.0.1:{redis.port}", query_response=steps)
    assert result.failure is not None
    assert result.failure.reason is Reason.DIALOGUE_BYTES_MISMATCH
