"""The udp prober against scripted peers. The original has no such prober."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.network import lookup
from probe_exporter.network.address_choice import IP_PROTOCOL
from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.failure import Reason
from probe_exporter.probers import udp
from probe_exporter.probers.udp import DURATION, UdpSettings, prober
from probe_exporter.protocols.dialogue.steps import EXPECT_INFO, FAILED_BY_BYTES, FAILED_BY_REGEXP
from probe_exporter.runner import Result, run
from tests.outcomes import seconds_of_phases, why
from tests.servers.bind import Bind
from tests.targets import Pause
from tests.targets.udp import Part, Responder, Trick

Step = dict[str, Any]
ANSWERS: Mapping[bytes, Sequence[Part]] = {b"ping": [b"pong 42"], b"who": [b"me"], b"\x00\xff": [b"\xff\x00"]}
PING = {"send": "ping"}


async def probe(
    answers: Mapping[bytes, Sequence[Part]],
    *steps: Step,
    target: str = "127.0.0.1:{port}",
    timeout: float = 20.0,
    **more: Any,
) -> tuple[Result, Responder]:
    """Probe a new responder. Return the result, and the responder with what it heard."""
    settings = UdpSettings.model_validate({"query_response": list(steps), **more})
    async with Responder(answers) as responder:
        result = await run(Module("m", prober, settings, 0.0, Place("t")), responder.fill(target), timeout)
    return result, responder


def flags(result: Result) -> tuple[float, float]:
    """Return whether the probe failed due to a regexp, and due to bytes."""
    return result.probe.samples.get(FAILED_BY_REGEXP), result.probe.samples.get(FAILED_BY_BYTES)


def seconds(result: Result) -> dict[str, float]:
    """Return the seconds of each phase."""
    return seconds_of_phases(result, DURATION)


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`query_response` is required"),
        ({"query_response": []}, "`query_response` is required"),
        ({"query_response": [PING]}, "no step expects a response"),
        ({"query_response": [PING, {"expect_bytes": ""}]}, "no step expects a response"),
        ({"query_response": [{"expect": "a", "expect_bytes": "b"}]}, "exclude each other"),
    ],
)
def test_settings_that_can_not_fail_are_refused(settings: dict[str, Any], message: str) -> None:
    """UDP has no connection, so without an answer nothing is known."""
    with pytest.raises(ValidationError) as refused:
        UdpSettings.model_validate(settings)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"expect": "pong"}], "before anything is sent"),
        ([{"expect_bytes": "pong", "send": "x"}], "before anything is sent"),
        ([PING, {"expect": "pong", "starttls": True}], "`starttls` is for streams"),
        ([PING, {"expect": "pong", "expect_prompt": True}], "`expect_prompt` is for streams"),
    ],
)
def test_settings_that_will_not_work_are_a_caution(steps: list[Step], words: str) -> None:
    ((key, caution),) = UdpSettings.model_validate({"query_response": steps}).cautions()
    assert key == "query_response"
    assert words in caution


def test_prober_file_works_as_a_user_s_prober(tmp_path: Path) -> None:
    """A copy of the file in a user's prober directory is the same prober under another name."""
    source = Path(udp.__file__).read_text().replace('Prober("udp"', 'Prober("datagram"')
    (tmp_path / "datagram.py").write_text(source.replace("probe_udp_duration", "probe_datagram_duration"))
    assert load_probers([tmp_path])["datagram"].settings.__name__ == "UdpSettings"


# --- answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [
        (PING, {"expect": r"^pong \d+$"}),
        (PING, {"expect_bytes": "pong 42"}),
        ({"send_bytes": "\x00\udcff"}, {"expect_bytes": "\udcff\x00"}),
        ({"send_bytes": "\x00\udcff"}, {"expect": "^\ufffd\x00$"}),
        (PING, {"expect": "pong", "send": "who"}, {"expect": "^me$"}),
    ],
)
async def test_expected_answer_passes(steps: tuple[Step, ...]) -> None:
    result, _ = await probe(ANSWERS, *steps)
    assert why(result) is None
    assert flags(result) == (0, 0)
    assert set(seconds(result)) == {"resolve", "dialogue"}
    assert all(value > 0 for value in seconds(result).values())


async def test_labels_are_taken_from_the_answer() -> None:
    step = {"expect": r"^pong (?P<n>\d+)$", "labels": [{"name": "n", "value": "no. $n"}], "send": "got ${n}"}
    result, responder = await probe(ANSWERS, PING, step)
    (labelled,) = (v for metric, v in result.probe.samples.labelled.items() if metric.name == EXPECT_INFO.name)
    assert list(labelled) == [("no. 42",)]
    assert responder.heard[0] == repr(b"ping")


async def test_step_sends_one_datagram_unchanged() -> None:
    """No newline is added, because a datagram has its own end."""
    steps = {"send": "plain $1"}, {"send": "x" * 60_000}, {"send_bytes": "a\n"}, PING, {"expect": "pong"}
    _, responder = await probe(ANSWERS, *steps)
    assert responder.heard == [repr(b"plain $1"), "60000 bytes", repr(b"a\n"), repr(b"ping")]


async def test_step_takes_one_datagram() -> None:
    """No datagram is skipped: a wrong answer fails the probe at once."""
    answers: Mapping[bytes, Sequence[Part]] = {b"ping": [b"one", b"two", b"", b"four"]}
    steps = {"expect": "^one$"}, {"expect_bytes": "two"}, {"expect": "^$"}, {"expect": "four"}
    result, _ = await probe(answers, PING, *steps)
    assert why(result) is None
    result, _ = await probe(answers, PING, {"expect": "two"})
    assert why(result) == (Reason.DIALOGUE_NO_MATCH, "dialogue")


async def test_large_datagram_is_read_whole() -> None:
    result, _ = await probe({b"ping": [b"x" * 60_000 + b"!"]}, PING, {"expect": "x!$"})
    assert why(result) is None


@pytest.mark.parametrize(
    ("target", "version"), [("127.0.0.1:{port}", 4), ("[::1]:{port}", 6), ("[::ffff:127.0.0.1]:{port}", 4)]
)
async def test_target_may_be_of_both_families(target: str, version: int) -> None:
    result, _ = await probe(ANSWERS, PING, {"expect": "pong"}, target=target)
    assert why(result) is None
    assert result.probe.samples.get(IP_PROTOCOL) == version


@pytest.mark.parametrize(("preferred", "version"), [("ip4", 4), ("ip6", 6)])
async def test_name_is_resolved_by_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preferred: str, version: int
) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 both.test\n::1 both.test\n")
    monkeypatch.setattr(lookup, "HOSTS", tmp_path / "hosts")
    result, _ = await probe(
        ANSWERS, PING, {"expect": "pong"}, target="both.test:{port}", preferred_ip_protocol=preferred
    )
    assert why(result) is None
    assert result.probe.samples.get(IP_PROTOCOL) == version


async def test_source_address_is_seen_by_the_target() -> None:
    result, responder = await probe(ANSWERS, PING, {"expect": "pong"}, source_ip_address="127.0.0.9")
    assert why(result) is None
    assert responder.sources == ["127.0.0.9"]


# --- failures, each with its reason and its phase ----------------------------------------------------------


@pytest.mark.parametrize("target", ["127.0.0.1:{dead}", "[::1]:{dead}"])
async def test_closed_port_fails_the_probe_at_once(target: str) -> None:
    result, _ = await probe(ANSWERS, PING, {"expect": "pong"}, target=target)
    assert why(result) == (Reason.UDP_PORT_UNREACHABLE, "dialogue")
    assert result.duration < 20  # the default timeout: the probe does not wait for it
    assert flags(result) == (0, 0)


async def test_port_closed_during_the_dialogue_is_unreachable() -> None:
    answers: Mapping[bytes, Sequence[Part]] = {b"ping": [b"pong", Trick.LEAVE]}
    steps = PING, {"expect": "pong", "send": "ping"}, {"expect": "pong", "send": "ping"}, {"expect": "pong"}
    result, _ = await probe(answers, *steps)
    assert why(result) == (Reason.UDP_PORT_UNREACHABLE, "dialogue")
    assert result.duration < 20  # the default timeout: the probe does not wait for it


@pytest.mark.parametrize(
    ("answers", "steps", "reason", "by_regexp", "by_bytes"),
    [
        ({}, (PING, {"expect": "pong"}), Reason.UDP_NO_ANSWER, 0, 0),
        ({}, (PING, {"expect_bytes": "pong"}), Reason.UDP_NO_ANSWER, 0, 0),
        ({b"ping": [Trick.STRANGER]}, (PING, {"expect": "forged"}), Reason.UDP_NO_ANSWER, 0, 0),
        ({b"ping": [Pause(25.0), b"pong"]}, (PING, {"expect": "pong"}), Reason.UDP_NO_ANSWER, 0, 0),
        (ANSWERS, ({"expect": "pong"},), Reason.UDP_NO_ANSWER, 0, 0),
        (ANSWERS, (PING, {"expect": "pong"}, {"expect": "more"}), Reason.TIMEOUT_DIALOGUE, 0, 0),
        (ANSWERS, (PING, {"expect": "^ping"}), Reason.DIALOGUE_NO_MATCH, 1, 0),
        (ANSWERS, (PING, {"expect_bytes": "pong"}), Reason.DIALOGUE_BYTES_MISMATCH, 0, 1),
        (ANSWERS, (PING, {"expect_bytes": "pong 42 "}), Reason.DIALOGUE_BYTES_MISMATCH, 0, 1),
        ({b"ping": [b""]}, (PING, {"expect": "."}), Reason.DIALOGUE_NO_MATCH, 1, 0),
        (
            {b"ping": [b"\xff"]}, (PING, {"expect": "(.)", "labels": [{"name": "a", "value": "$1"}]}),
            Reason.DIALOGUE_LABEL_INVALID, 0, 0,
        ),
        (ANSWERS, ({"send": "x" * 70_000}, {"expect": "pong"}), Reason.CONNECT_FAILED, 0, 0),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("clock")
async def test_failed_answer_has_its_reason(
    answers: Mapping[bytes, Sequence[Part]], steps: tuple[Step, ...], reason: Reason, by_regexp: int, by_bytes: int
) -> None:
    result, _ = await probe(answers, *steps)
    assert why(result) == (reason, "dialogue")
    assert flags(result) == (by_regexp, by_bytes)
    assert "dialogue" in seconds(result)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("127.0.0.1", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:0", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:65536", (Reason.TARGET_INVALID, "")),
        ("127.0.0.1:nosuchservice", (Reason.TARGET_INVALID, "")),
        (":{port}", (Reason.TARGET_INVALID, "resolve")),
        ("udp://127.0.0.1:{port}", (Reason.TARGET_INVALID, "")),
        ("nobody.invalid:{port}", (Reason.DNS_NAME_NOT_FOUND, "resolve")),
    ],
)
async def test_invalid_target_fails(target: str, expected: tuple[Reason, str]) -> None:
    result, responder = await probe(ANSWERS, PING, {"expect": "pong"}, target=target)
    assert why(result) == expected
    assert responder.heard == []


@pytest.mark.parametrize("source", ["nonsense", "::1"])
async def test_unusable_source_address_fails(source: str) -> None:
    result, _ = await probe(ANSWERS, PING, {"expect": "pong"}, source_ip_address=source)
    assert why(result) == (Reason.SETTINGS_UNUSABLE, "")


@pytest.mark.usefixtures("clock")
async def test_flood_of_answers_ends_with_the_deadline() -> None:
    """Unread datagrams are buffered up to a limit; the rest is dropped."""
    answers: Mapping[bytes, Sequence[Part]] = {b"ping": [b"x" * 1000] * 2000}
    result, _ = await probe(answers, PING, *[{"expect": "x"}] * 5000)
    assert why(result) == (Reason.TIMEOUT_DIALOGUE, "dialogue")


# --- a server that others wrote ----------------------------------------------------------------------------


async def test_bind_answers_a_query_in_bytes(bind: Bind) -> None:
    """The query is for plain.test, type SOA, in bytes: a module can probe protocols without a prober."""
    query = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05plain\x04test\x00\x00\x06\x00\x01"
    settings = UdpSettings.model_validate(
        {"query_response": [{"send_bytes": query}, {"expect": r"^\x{12}4[\x{80}-\x{ff}\x{fffd}]."}]}
    )
    result = await run(Module("m", prober, settings, 0.0, Place("t")), f"127.0.0.1:{bind.port}", 20.0)
    assert why(result) is None
