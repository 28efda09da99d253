"""Probes of servers that are none of ours, over TCP and Unix sockets: what real software says is understood."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from probe_exporter.config import Module
from probe_exporter.document import Place
from probe_exporter.prober import Prober, Reason
from probe_exporter.probers import tcp, unix
from probe_exporter.runner import Result, run
from tests.exporters import free_port, wait_until_listening
from tests.targets import Pki


@dataclass(frozen=True)
class Redis:
    """A running redis-server: its ports and its socket."""

    port: int
    tls_port: int
    path: str


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, pki: Pki) -> Iterator[Redis]:
    command = shutil.which("redis-server")
    if command is None:
        pytest.skip("redis-server is not installed")
    directory = tmp_path_factory.mktemp("redis")
    made = Redis(free_port(), free_port(), str(directory / "redis.sock"))
    options = {
        "port": made.port, "tls-port": made.tls_port, "unixsocket": made.path, "bind": "127.0.0.1", "save": "",
        "tls-cert-file": pki.directory / "leaf.pem", "tls-key-file": pki.directory / "leaf.key",
        "tls-auth-clients": "no", "dir": directory,
    }  # fmt: skip
    log = directory / "log"
    with log.open("wb") as output:
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = subprocess.Popen([command, *arguments], stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_listening("redis", process, made.port, log)
        yield made
    finally:
        process.terminate()
        process.wait()


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
