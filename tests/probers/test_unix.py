"""The unix prober: paths, names for TLS, and reasons. test_tcp covers the dialogue."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.unix import DURATION, UnixSettings, prober
from probe_exporter.runner import Result, run
from tests.outcomes import why
from tests.targets import Pki
from tests.targets.scripted_server import Hear, ScriptedServer, Secure, then_silence

GREETS = then_silence(b"220 hello\n", Hear())


async def probe(target: str, *steps: dict[str, Any], timeout: float = 20.0, **settings: Any) -> Result:
    made = UnixSettings.model_validate({"query_response": list(steps), **settings})
    return await run(Module("m", prober, made, 0.0, Place("test.yml")), target, timeout)


@pytest.mark.parametrize("over", ["unix", "abstract"])
async def test_socket_dialogue_passes(pki: Pki, over: str) -> None:
    async with ScriptedServer(GREETS, pki.directory, over) as scripted:
        target = scripted.path if over == "unix" else scripted.fill("{socket}")
        result = await probe(target, {"expect": "^220 (.*)$", "send": "$1"})
        await scripted.finished()
    assert why(result) is None
    assert scripted.heard == [repr(b"hello\n")]
    assert {phase for (phase,) in result.probe.samples.labelled[DURATION]} == {"connect", "dialogue"}


async def test_path_is_relative_to_the_working_directory(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pki.directory.parent)
    async with ScriptedServer(GREETS, pki.directory, "unix") as scripted:
        assert why(await probe(scripted.fill("{socket}"))) is None


@pytest.mark.parametrize("target", ["/no/such/é\udcff", "@é\udcff"])
async def test_path_may_be_any_bytes(target: str) -> None:
    assert why(await probe(target)) == (Reason.CONNECT_REFUSED, "connect")


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("none.sock", Reason.CONNECT_REFUSED),
        ("@none", Reason.CONNECT_REFUSED),
        ("root.pem", Reason.CONNECT_REFUSED),
        ("x" * 200, Reason.TARGET_INVALID),
        ("@" + "x" * 200, Reason.TARGET_INVALID),
        ("a\0b", Reason.TARGET_INVALID),
    ],
)
async def test_path_without_listener_fails(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, target: str, reason: Reason
) -> None:
    monkeypatch.chdir(pki.directory)
    result = await probe(target)
    assert why(result) == (reason, "connect")
    assert DURATION not in result.probe.samples.labelled


async def test_full_accept_queue_fails_at_once(pki: Pki) -> None:
    """The kernel refuses the connection instead of queueing it."""
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(pki.directory / "full.sock")
        listener.bind(path)
        listener.listen(0)
        with contextlib.ExitStack() as waiting:
            for _ in range(3):
                client = waiting.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.connect(path)
            result = await probe(path, {"expect": "x"})
    assert why(result) == (Reason.CONNECT_FAILED, "connect")


@pytest.mark.parametrize("steps", [(), ({"starttls": True},)])
async def test_tls_without_server_name_fails(pki: Pki, steps: tuple[dict[str, Any], ...]) -> None:
    authority = {"ca_file": str(pki.directory / "root.pem")}
    for more, expected in (
        ({}, Reason.SETTINGS_UNUSABLE),
        ({"server_name": "localhost"}, None),
        ({"insecure_skip_verify": True}, None),
        ({"server_name": "other.test"}, Reason.CERTIFICATE_WRONG_NAME),
    ):
        async with ScriptedServer(then_silence(Secure()), pki.directory, "unix") as scripted:
            result = await probe(scripted.path, *steps, tls=not steps, tls_config=authority | more)
        assert (result.failure.reason if result.failure else None) is expected


def test_tls_without_server_name_is_a_caution() -> None:
    def cautions(**settings: Any) -> list[str]:
        return [key for key, _ in UnixSettings.model_validate(settings).cautions()]

    assert cautions() == []
    assert cautions(tls=True) == cautions(query_response=[{"starttls": True}]) == ["tls_config"]
    assert cautions(tls=True, tls_config={"server_name": "a"}) == []
    assert cautions(tls=True, tls_config={"insecure_skip_verify": True}) == []
