"""The tcp prober against scripted peers: phases, reasons, and the extensions of `query_response`.

Side by side with the original stand the values (tests/peers).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import lookup
from probe_exporter.prober.failure import Reason
from probe_exporter.probers.tcp import DURATION, TcpSettings, prober
from probe_exporter.protocols.dialogue import lines
from probe_exporter.protocols.dialogue.steps import EXPECT_INFO, FAILED_BY_BYTES, FAILED_BY_REGEXP
from probe_exporter.runner import Result, run
from probe_exporter.tls import metrics
from tests.cost import short_turns
from tests.deadlines import in_phase, run_until
from tests.outcomes import seconds_of_phases, why
from tests.targets import End, Pause, Pki, Repeat
from tests.targets.scripted_server import Finish, Hear, Script, ScriptedServer, Secure, talk, then_silence


def module(**settings: Any) -> Module:
    return Module("m", prober, TcpSettings.model_validate(settings), 0.0, Place("test.yml"))


async def probe(
    pki: Pki,
    script: Script,
    *steps: dict[str, Any],
    timeout: float = 20.0,
    target: str = "127.0.0.1:{port}",
    **more: Any,
) -> tuple[Result, list[str]]:
    """Probe a new scripted server. Return the result and what it received."""
    async with ScriptedServer(script, pki.directory) as scripted:
        result = await run(module(query_response=list(steps), **more), scripted.fill(target), timeout)
        await scripted.finished()
    return result, scripted.heard


async def probe_until_silence(
    pki: Pki, phase: str, script: Script, *steps: dict[str, Any], **more: Any
) -> tuple[Result, list[str]]:
    """Do the same, but let the deadline expire once the probe is in `phase` and the server has said all."""
    async with ScriptedServer(script, pki.directory) as scripted:
        result = await run_until(
            lambda probe: probe.current_phase == phase and scripted.silent.is_set(),
            module(query_response=list(steps), **more), scripted.fill("127.0.0.1:{port}"),
        )  # fmt: skip
        await scripted.finished()
    return result, scripted.heard


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, DURATION)


# --- settings ----------------------------------------------------------------------------------------------


def test_hostname_parameter_becomes_the_server_name() -> None:
    settings = TcpSettings.model_validate({"tls_config": {"insecure_skip_verify": True}})
    named = prober.with_hostname(settings, "mail.example")
    assert named.tls_config.server_name == "mail.example"
    assert named.tls_config.insecure_skip_verify is True
    assert settings.tls_config.server_name == ""


def test_server_name_in_the_settings_wins_over_hostname() -> None:
    settings = TcpSettings.model_validate({"tls_config": {"server_name": "mail.example"}})
    assert prober.with_hostname(settings, "other.example") is settings


# --- phases ------------------------------------------------------------------------------------------------


async def test_open_port_passes(pki: Pki) -> None:
    result, _ = await probe(pki, then_silence())
    assert why(result) is None
    assert set(seconds(result)) == {"resolve", "connect"}
    assert all(value > 0 for value in seconds(result).values())


async def test_durations_count_the_server_s_delay_in_its_phase(pki: Pki) -> None:
    script = then_silence(Pause(0.1), b"go\n", Pause(0.4), Secure(), Pause(0.1), b"ok\n")
    steps = {"expect": "go", "starttls": True}, {"expect": "ok"}
    result, _ = await probe(pki, script, *steps, tls_config=pki.trust())
    assert why(result) is None
    found = seconds(result)
    assert set(found) == {"resolve", "connect", "tls", "dialogue"}
    assert found["tls"] > 0.39
    assert found["dialogue"] > 0.19
    assert sum(found.values()) <= result.duration


async def test_timed_out_probe_reports_the_phases_before(pki: Pki) -> None:
    result, _ = await probe_until_silence(pki, "tls", then_silence(), tls=True, tls_config=pki.trust())
    assert why(result) == (Reason.TLS_TIMEOUT, "tls")
    assert set(seconds(result)) == {"resolve", "connect"}


async def test_timed_out_dialogue_has_its_own_reason(pki: Pki) -> None:
    result, _ = await probe_until_silence(pki, "dialogue", then_silence(b"no\n"), {"expect": "yes"})
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
    assert 0 < seconds(result)["dialogue"] <= result.duration
    assert result.probe.samples.get(FAILED_BY_REGEXP) == 0


# --- failures, each with its reason and its phase ----------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1", (Reason.TARGET_INVALID, "")),
        ("::1:{port}", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:nosuchservice", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:65536", (Reason.TARGET_INVALID, "")),
        (":{port}", (Reason.TARGET_INVALID, "resolve")),
        ("127.0.0.1:{dead}", (Reason.CONNECT_REFUSED, "connect")),
    ],
)
async def test_invalid_target_fails(pki: Pki, target: str, expected: tuple[Reason, str]) -> None:
    result, _ = await probe(pki, then_silence(), target=target)
    assert why(result) == expected


@pytest.mark.parametrize("source", ["nonsense", "::1"])
async def test_unusable_source_address_fails(pki: Pki, source: str) -> None:
    result, _ = await probe(pki, then_silence(), source_ip_address=source)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")


async def test_source_address_is_seen_by_the_target(pki: Pki) -> None:
    seen = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        result = await run(module(source_ip_address="127.0.0.9", query_response=[{"expect": "x"}]), target, 20)
    assert why(result) == (Reason.DIALOGUE_CLOSED, "dialogue")
    assert seen == ["127.0.0.9"]


YES = {"expect": "yes"}
BYTES = {"expect_bytes": "yes"}


@pytest.mark.parametrize(
    ("script", "step", "reason", "by_regexp", "by_bytes"),
    [
        (talk(b"no\n"), YES, Reason.DIALOGUE_NO_MATCH, 1, 0),
        (talk(b"no"), YES, Reason.DIALOGUE_NO_MATCH, 1, 0),
        (talk(), YES, Reason.DIALOGUE_CLOSED, 1, 0),
        (talk(b"y"), BYTES, Reason.DIALOGUE_CLOSED, 0, 0),
        (then_silence(b"yet"), BYTES, Reason.DIALOGUE_BYTES_MISMATCH, 0, 1),
        (then_silence(b"no"), BYTES, Reason.DIALOGUE_BYTES_MISMATCH, 0, 0),
        (then_silence(b"x" * 65536), YES, Reason.DIALOGUE_LINE_TOO_LONG, 0, 0),
        (talk(b"ye", Pause(0.5), end=End.RESET), YES, Reason.CONNECT_RESET, 0, 0),
    ],
)
async def test_failed_dialogue_has_its_reason(
    pki: Pki, script: Script, step: dict[str, Any], reason: Reason, by_regexp: int, by_bytes: int
) -> None:
    result, _ = await probe(pki, script, step)
    assert why(result) == (reason, "dialogue")
    assert result.probe.samples.get(FAILED_BY_REGEXP) == by_regexp
    assert result.probe.samples.get(FAILED_BY_BYTES) == by_bytes


async def test_slow_reader_times_out_in_the_dialogue_phase(pki: Pki) -> None:
    """The peer reads one byte at a time."""
    script, step = talk(Hear(), end=End.RESET), {"send": "x" * 9_000_000, **BYTES}
    async with ScriptedServer(script, pki.directory) as scripted:
        result = await run_until(
            in_phase("dialogue"), module(query_response=[step]), scripted.fill("127.0.0.1:{port}"), grace=0.1
        )
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
    assert [result.probe.samples.get(metric) for metric in (FAILED_BY_REGEXP, FAILED_BY_BYTES)] == [0, 0]


async def test_label_that_is_not_text_fails(pki: Pki) -> None:
    """The original drops the request, so the series would be lost."""
    step = {"expect": "(.*)", "labels": [{"name": "a", "value": "$1"}]}
    result, _ = await probe(pki, then_silence(b"\xff\n"), step)
    assert why(result) == (Reason.DIALOGUE_LABEL_INVALID, "dialogue")


async def test_peer_that_does_not_read_times_out_in_the_dialogue_phase(pki: Pki) -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as listener:  # the kernel accepts the connection, but nothing reads from it
        asking = module(query_response=[{"send": "x" * 20_000_000}])
        result = await run_until(in_phase("dialogue"), asking, f"127.0.0.1:{listener.getsockname()[1]}")
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")


FLOODS = {
    "empty lines": b"\n" * 100_000,
    "short lines": b"220-on\r\n" * 10_000,
    "long lines": (b"x" * 65534 + b"\n") * 2,
    "long lines of no text": (b"\xff" * 65534 + b"\n") * 2,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_flood_of_lines_is_read_in_short_turns(pki: Pki, flood: bytes) -> None:
    """Other tasks get their turn during the flood, and the deadline ends the probe."""
    asking = module(query_response=[{"expect": "(a+)+never", "reject": "(b|c)*no$"}])
    async with ScriptedServer(then_silence(Repeat(flood, 10_000)), pki.directory) as scripted:
        with short_turns() as taken:
            result = await run_until(lambda _: len(taken) > 50, asking, scripted.fill("127.0.0.1:{port}"))
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")


async def test_timed_out_dialogue_shows_what_the_peer_said(pki: Pki) -> None:
    """Each line is in the log, and the last one in the error, also one without a newline."""
    script = then_silence(b"220-mail.test ESMTP\r\n220 hello\r\n500 wai")
    result, _ = await probe_until_silence(pki, "dialogue", script, {"expect": "^220 .* ESMTP"})
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")
    assert result.failure is not None
    assert result.failure.fields == {"last_line": "500 wai", "unmatched": 2}
    logged = [event.fields["line"] for event in result.probe.events if "line" in event.fields]
    assert logged == ["220-mail.test ESMTP", "220 hello"]


async def test_rejected_line_ends_the_probe_at_once(pki: Pki) -> None:
    """The server refuses and keeps the connection open."""
    step = {"expect": "^220 ", "reject": "^[45]"}
    result, _ = await probe(pki, then_silence(b"554-no\r\n554 service\r\n"), step)
    assert why(result) == (Reason.DIALOGUE_REJECTED, "dialogue")
    assert result.failure is not None
    assert result.failure.fields == {"line": "554-no"}
    assert result.probe.samples.get(FAILED_BY_REGEXP) == 1


# --- TLS ---------------------------------------------------------------------------------------------------


async def test_name_to_verify_is_the_target_s(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = pki.directory / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    monkeypatch.setattr(lookup, "HOSTS", hosts)
    script = then_silence(Secure("localhost_only"))
    named, _ = await probe(pki, script, tls=True, tls_config=pki.trust(), target="localhost:{port}")
    unnamed, _ = await probe(pki, script, tls=True, tls_config=pki.trust())
    assert why(named) is None
    assert why(unnamed) == (Reason.CERTIFICATE_WRONG_NAME, "tls")
    for result in (named, unnamed):  # also if it does not verify
        assert {
            metrics.CERTIFICATE_INFO,
            metrics.VERSION_INFO,
            metrics.CIPHER_INFO,
        } <= result.probe.samples.labelled.keys()


async def test_second_starttls_fails_or_times_out(pki: Pki) -> None:
    """The original crashes on a second handshake in one probe."""

    steps = {"starttls": True}, {"starttls": True}
    result, _ = await probe(pki, then_silence(Secure(), Secure()), *steps, tls_config=pki.trust())
    assert why(result) in {
        (Reason.TLS_HANDSHAKE, "tls"),
        (Reason.TLS_TIMEOUT, "tls"),
    }  # our server can't
    assert seconds(result)["tls"] > 0


async def test_plain_text_before_starttls_is_dropped(pki: Pki) -> None:
    """Data received with the last plain line is dropped, as it may be injected (CVE-2011-0411)."""
    script = then_silence(b"go\nforged\n", Secure(), b"true\n")
    steps = {"expect": "go", "starttls": True}, {"expect": "(.*)", "labels": [{"name": "said", "value": "$1"}]}
    result, _ = await probe(pki, script, *steps, tls_config=pki.trust())
    (labelled,) = (v for metric, v in result.probe.samples.labelled.items() if metric.name == EXPECT_INFO.name)
    assert list(labelled) == [("true",)]


async def test_plain_text_after_expect_bytes_breaks_starttls(pki: Pki) -> None:
    steps = {"expect_bytes": "S"}, {"starttls": True}
    result, _ = await probe(pki, then_silence(b"SX", Secure()), *steps, tls_config=pki.trust())
    assert why(result) == (Reason.TLS_HANDSHAKE, "dialogue")


# --- what the original can't -------------------------------------------------------------------------------


async def test_send_bytes_are_sent_unchanged(pki: Pki) -> None:
    request = "\x00\x00\x00\x08\x04\udcd2\x16/"
    result, heard = await probe(
        pki, then_silence(Hear(8), b"S"), {"send_bytes": request}, BYTES | {"expect_bytes": "S"}
    )
    assert why(result) is None
    assert heard == [repr(b"\x00\x00\x00\x08\x04\xd2\x16/")]


async def test_send_without_newline_adds_none(pki: Pki) -> None:
    step = {"expect": "(g)o", "send": "a$1", "send_without_newline": True}
    _, heard = await probe(pki, then_silence(b"go\n", Hear(2)), step)
    assert heard == [repr(b"ag")]


async def test_prompt_matches_after_silence(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "QUIET", 0.05)
    script = then_silence(b"login: ", Hear(), b"Password: ", Hear(), b"\r\nwelcome\r\n")
    steps = {"expect": "login: $", "send": "me"}, {"expect": "^Password: $", "send": "x"}, {"expect": "^welcome$"}
    result, heard = await probe(pki, script, *steps)
    assert why(result) is None
    assert heard == [repr(b"me\n"), repr(b"x\n")]


async def test_prompt_matches_at_once_with_expect_prompt(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "QUIET", 60.0)
    steps = {"expect": "login: $", "expect_prompt": True, "send": "me"}, {"expect": "^welcome$"}
    result, _ = await probe(pki, then_silence(b"login: ", Hear(), b"welcome\n"), *steps, timeout=240.0)
    assert why(result) is None
    assert seconds(result)["dialogue"] < 60


async def test_line_with_a_pause_is_read_to_its_end(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the original, a match waits for the rest of its line."""
    monkeypatch.setattr(lines, "QUIET", 60.0)
    step = {"expect": "^220 ([^ ]*)", "labels": [{"name": "host", "value": "$1"}]}
    result, _ = await probe(pki, then_silence(b"220 ho", Pause(0.1), b"st ready\r\n"), step, timeout=240.0)
    (labelled,) = (v for metric, v in result.probe.samples.labelled.items() if metric.name == EXPECT_INFO.name)
    assert list(labelled) == [("host",)]


async def test_half_closed_peer_still_receives(pki: Pki) -> None:
    result, heard = await probe(pki, then_silence(b"ok\n", Finish(), Hear()), {"expect": "ok", "send": "bye"})
    assert why(result) is None
    assert heard == [repr(b"bye\n")]


def test_unescaped_plus_is_a_caution() -> None:
    r"""``^+OK`` stands in many configurations, but matches only ``OK``."""
    mistaken, meant = ({"query_response": [{"expect": text}]} for text in ("^+OK", r"^\+OK"))
    (step,) = TcpSettings.model_validate(mistaken).query_response
    assert [key for key, _ in step.cautions()] == ["expect"]
    (step,) = TcpSettings.model_validate(meant).query_response
    assert list(step.cautions()) == []
