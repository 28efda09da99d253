"""Certificates get the same verdict from OpenSSL, as we use it, as from Go's TLS, which the original uses."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import yaml

from tests import exporters
from tests.exporters import Server
from tests.peers.tls_default_cases import CASES, write

pytestmark = pytest.mark.slow

Verdict = tuple[bool, bool]
"""Whether a probe succeeds that verifies the certificate, and one that does not."""

DIFFERENT: Mapping[str, tuple[Verdict, str]] = {
    "certificate with a mapped address": ((True, True), "Go can't parse an IPv4-mapped address in a subjectAltName"),
    "Ed448": ((True, True), "Go does not offer it"),
    "authority with secp256k1": ((True, True), "Go can't parse keys on this curve"),
    "signature with SHA-224": ((True, True), "Go does not offer it, and a server may not go on without"),
    "signature with SHA3-256": ((True, True), "the same"),
}
"""Cases in which ours differs: our verdict, and why. docs/migration.md has them in one line."""


def modules(directory: Path) -> Path:
    """Write the modules of all cases, and what their servers show."""
    found: dict[str, object] = {}
    for number, case in enumerate(CASES.values()):
        place = directory / str(number)
        place.mkdir()
        write(case, place)
        tls = {"ca_file": str(place / "root.pem"), "server_name": case.host}
        for kind, more in (("verify", {}), ("skip", {"insecure_skip_verify": True})):
            tcp = {"tls": True, "tls_config": tls | more}
            found[f"{kind}-{number}"] = {"prober": "tcp", "timeout": "60s", "tcp": tcp}
    path = directory / "modules.yml"
    path.write_text(yaml.safe_dump({"modules": found}))
    return path


async def serve(stack: contextlib.AsyncExitStack, directory: Path) -> int:
    """Start a TLS server that shows a certificate and closes the connection; return its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    stack.callback(server.close)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def verdicts(directory: Path, running: Server) -> dict[str, Verdict]:
    """Probe every case."""
    asyncio.get_running_loop().set_exception_handler(lambda _, context: None)  # of handshakes that the client refused
    async with contextlib.AsyncExitStack() as stack:
        ports = [await serve(stack, directory / str(number)) for number in range(len(CASES))]

        async def succeeds(module: str, port: int) -> bool:
            response = await running.probe(module, f"127.0.0.1:{port}")
            return "\nprobe_success 1\n" in response.text

        return {
            name: (await succeeds(f"verify-{number}", port), await succeeds(f"skip-{number}", port))
            for (number, name), port in zip(enumerate(CASES), ports, strict=True)
        }


Start = Callable[..., contextlib.AbstractContextManager[Server]]
Both = tuple[dict[str, Verdict], dict[str, Verdict]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The verdicts of the original, and ours."""
    exporters.peer("blackbox_exporter")
    directory = tmp_path_factory.mktemp("tls_defaults")
    path = modules(directory)

    def run(start: Start) -> dict[str, Verdict]:
        with start(directory, f"--config.file={path}") as running:
            judged: Awaitable[dict[str, Verdict]] = verdicts(directory, running)
            return asyncio.run(judged)  # type: ignore[arg-type]  # a coroutine

    return run(exporters.original), run(exporters.ours)


@pytest.mark.parametrize("name", CASES)
def test_certificate_gets_the_same_verdict(both: Both, name: str) -> None:
    theirs, ours = both[0][name], both[1][name]
    expected, _ = DIFFERENT.get(name, (theirs, ""))
    assert ours == expected
    assert (name in DIFFERENT) == (ours != theirs)
