"""Tests of `Probe` and `Settings`: phases, failures, samples, log events and validation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from prometheus_client import Gauge
from pydantic import ValidationError

from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import TIMEOUTS, OwnReason, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import MAX_SPANS, Probe
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from probe_exporter.settings.rules import Rule, exclusive, required
from probe_exporter.settings.secrets import Secret

PLAIN = Metric("probe_plain", "Without labels.")
LABELLED = Metric("probe_labelled", "With labels.", ("a", "b"))


def failure(message: str = "no", reason: Reason = Reason.HTTP_STATUS) -> ProbeFailed:
    return ProbeFailed(reason, message, detail=7)


# --- reasons -----------------------------------------------------------------------------------------------


def test_reasons_are_lower_case_names() -> None:
    """Words joined by underscores; the constant is the value in capitals."""
    for reason in Reason:
        assert reason.value == reason.name.lower()
        assert reason.value.replace("_", "").isalnum()
        assert reason.value.isascii()


def test_timeout_reasons_cover_all_phases() -> None:
    assert all(reason.value.startswith("timeout_") or reason.value.endswith("_timeout") for reason in TIMEOUTS.values())
    assert set(TIMEOUTS) >= {"resolve", "connect", "tls", "processing", "transfer"}


def test_probe_failed_has_reason_message_and_fields() -> None:
    failed = failure("the status code is 500")
    assert (failed.reason, failed.message, failed.fields) == (
        Reason.HTTP_STATUS,
        "the status code is 500",
        {"detail": 7},
    )
    assert str(failed) == "the status code is 500"


# --- phases ------------------------------------------------------------------------------------------------


def test_phase_measures_seconds() -> None:
    probe = Probe("target", 0)
    before = time.perf_counter()
    with probe.phase("connect") as phase:
        assert phase.seconds == 0
        began = time.perf_counter()
        time.sleep(0.02)
        inside = time.perf_counter() - began
    whole = time.perf_counter() - before
    assert inside <= phase.seconds <= whole
    assert phase.name == "connect"


def test_phase_adds_seconds_to_metric() -> None:
    probe = Probe("target", 0)
    seconds = Metric("probe_own_duration_seconds", "How long.", ("phase",))
    with probe.phase("query", seconds) as first:
        time.sleep(0.01)
    with probe.phase("query", seconds) as second:
        time.sleep(0.01)
    assert probe.samples.get(seconds, "query") == pytest.approx(first.seconds + second.seconds, abs=2e-9)
    assert probe.samples.get(seconds, "query") == round(probe.samples.get(seconds, "query"), 9)


def test_phase_reports_seconds_on_failure() -> None:
    probe = Probe("target", 0)
    seconds = Metric("probe_own_duration_seconds", "How long.", ("phase",))
    with pytest.raises(ProbeFailed), probe.phase("query", seconds):  # noqa: PT012
        time.sleep(0.01)
        raise failure()
    assert probe.samples.get(seconds, "query") >= 0.01


def test_phases_nest() -> None:
    probe = Probe("target", 0)
    seen = [probe.current_phase]
    with probe.phase("outer"):
        seen.append(probe.current_phase)
        with probe.phase("inner"):
            seen.append(probe.current_phase)
        seen.append(probe.current_phase)
    seen.append(probe.current_phase)
    assert seen == ["", "outer", "inner", "outer", ""]


def test_failure_keeps_innermost_phase() -> None:
    probe = Probe("target", 0)
    with pytest.raises(ProbeFailed), probe.phase("outer"), probe.phase("inner") as phase:  # noqa: PT012
        time.sleep(0.01)
        raise failure()
    assert probe.current_phase == "inner"
    assert phase.seconds >= 0.01


def test_phase_after_failed_phase_is_current() -> None:
    probe = Probe("target", 0)
    with pytest.raises(ProbeFailed), probe.phase("first"):
        raise failure()
    with probe.phase("second"):
        probe.fail(failure())
    assert probe.failed_phase == "second"


def test_phases_are_kept_with_start_and_what_they_are_about() -> None:
    probe = Probe("target", 0)
    with probe.phase("resolve") as phase:
        phase.about = "localhost"
    with pytest.raises(ProbeFailed), probe.phase("outer"), probe.phase("inner"):
        raise failure()
    assert [(name, about, failed) for name, _, _, about, failed in probe.spans] == [
        ("resolve", "localhost", False),
        ("inner", "", True),
        ("outer", "", True),
    ]
    starts = [start for _, start, _, _, _ in probe.spans]
    assert probe.started <= starts[0] <= starts[2] <= starts[1]
    assert probe.spans[0][2] == phase.seconds


def test_phases_that_are_kept_are_limited() -> None:
    probe = Probe("target", 0)
    for _ in range(MAX_SPANS + 10):
        with probe.phase("word"):
            pass
    assert len(probe.spans) == MAX_SPANS


# --- failing -----------------------------------------------------------------------------------------------


def test_first_failure_is_kept_with_its_phase() -> None:
    probe = Probe("target", 0)
    first, second = failure("first"), failure("second", Reason.HTTP_BODY_MISMATCH)
    with probe.phase("validation"):
        probe.fail(first)
    with probe.phase("transfer"):
        probe.fail(second)
    assert probe.failure is first
    assert probe.failed_phase == "validation"


def refuse(message: str) -> None:
    raise failure(message)


async def test_failed_optional_question_is_logged_and_passes() -> None:
    probe = Probe("target", deadline=asyncio.get_running_loop().time() + 100)
    with probe.phase("ping"), probe.optional("INFO"), probe.phase("info"):
        refuse("unknown command")
    assert [(event.message, event.fields) for event in probe.events] == [
        ("No usable answer to an optional question", {"question": "INFO", "err": "unknown command"})
    ]
    assert probe.failure is None
    assert probe.current_phase == ""


async def test_unanswered_optional_question_gets_half_of_the_time() -> None:
    probe = Probe("target", deadline=asyncio.get_running_loop().time() + 0.2, clock=asyncio.get_running_loop().time)
    with probe.optional("INFO"):
        await asyncio.Event().wait()
    assert [event.fields["err"] for event in probe.events] == ["no answer in time"]


async def test_failed_needed_question_fails_the_probe() -> None:
    probe = Probe("target", deadline=asyncio.get_running_loop().time() + 100)
    with pytest.raises(ProbeFailed), probe.optional("INFO", needed=True):
        raise failure()
    assert probe.events == []


async def test_bug_in_an_optional_question_is_not_hidden() -> None:
    probe = Probe("target", deadline=asyncio.get_running_loop().time() + 100)
    with pytest.raises(ZeroDivisionError), probe.optional("INFO"):
        raise ZeroDivisionError


def test_failure_releases_its_traceback() -> None:
    """A kept failure does not keep the frames of its traceback."""
    probe = Probe("target", 0)
    try:
        try:
            raise OSError("cause")
        except OSError as error:
            raise failure() from error
    except ProbeFailed as failed:
        probe.fail(failed)
    assert probe.failure is not None
    assert probe.failure.__traceback__ is None
    assert probe.failure.__cause__ is None
    assert probe.failure.__context__ is None


# --- measuring and logging ---------------------------------------------------------------------------------


def test_probe_sets_and_adds_samples() -> None:
    probe = Probe("target", 0)
    probe.set(PLAIN, 2)
    probe.add(PLAIN, 3)
    probe.set(LABELLED, 1, "x", "y")
    assert probe.samples.families == {PLAIN: {(): 5}, LABELLED: {("x", "y"): 1}}
    with pytest.raises(ValueError, match="probe_labelled takes 2"):
        probe.set(LABELLED, 1, "x")


def test_probe_has_its_own_registry() -> None:
    one, other = Probe("target", 0), Probe("target", 0)
    for probe, value in ((one, 1), (other, 2)):
        Gauge("probe_theirs", "The same name twice.", registry=probe.registry).set(value)
    assert one.registry.get_sample_value("probe_theirs") == 1
    assert other.registry.get_sample_value("probe_theirs") == 2


def test_remaining_counts_down_to_deadline() -> None:
    now = 100.0
    probe = Probe("target", 102.5, clock=lambda: now)
    assert probe.remaining == 2.5
    now = 103.0
    assert probe.remaining == -0.5


def test_log_event_has_fields_and_source_line() -> None:
    probe = Probe("target", 0)
    before = time.time()
    probe.log("Making request", url="http://a.test/", message="a field of this name too")
    probe.log("Odd", level=logging.WARNING)
    first, second = probe.events
    assert before <= first.time <= time.time()
    assert (first.level, first.message) == (logging.DEBUG, "Making request")
    assert first.fields == {"url": "http://a.test/", "message": "a field of this name too"}
    assert first.code.co_name == "test_log_event_has_fields_and_source_line"
    assert second.line == first.line + 1
    assert (second.level, second.fields) == (logging.WARNING, {})


# --- settings ----------------------------------------------------------------------------------------------


class Inner(Settings):
    rules: ClassVar[tuple[Rule, ...]] = (exclusive("a", "b"),)
    a: Text = ""
    b: Text = ""


class Outer(Settings):
    rules: ClassVar[tuple[Rule, ...]] = (required("name"), exclusive("x", "y"))
    name: Text = ""
    x: Text = ""
    y: Text = ""
    secret: Secret = Secret("")
    inner: Inner = Inner()

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.x:
            yield "x", "questionable"


def errors(written: dict[str, Any]) -> dict[str, str]:
    """Return the errors of a block by the dotted path of the key."""
    with pytest.raises(ValidationError) as failed:
        Outer.model_validate(written)
    return {".".join(map(str, error["loc"])): error["msg"] for error in failed.value.errors()}


def test_settings_are_frozen() -> None:
    settings = Outer(name="n")
    with pytest.raises(ValidationError, match="frozen"):
        settings.name = "other"  # type: ignore[misc]


def test_settings_refuse_unknown_key() -> None:
    assert set(errors({"name": "n", "nmae": "m"})) == {"nmae"}


def test_settings_report_all_errors() -> None:
    """Rules, unknown keys and wrong types are reported, also in nested blocks."""
    found = errors({"x": "1", "y": "2", "z": "3", "inner": {"a": "1", "b": "2", "c": "3"}, "secret": 5})
    assert set(found) == {"name", "y", "z", "inner.b", "inner.c", "secret"}
    assert found["name"] == "`name` is required"
    assert found["y"] == "`y` and `x` exclude each other"


def test_settings_skip_rules_for_invalid_block() -> None:
    assert set(errors({"name": "n", "inner": "text"})) == {"inner"}


def test_settings_errors_hide_input() -> None:
    """The input may be a secret."""
    with pytest.raises(ValidationError) as failed:
        Outer.model_validate({"secret": ["hush"], "x": "hush", "y": "hush"})
    assert "hush" not in str(failed.value)


def test_cautions_are_not_errors() -> None:
    assert list(Outer(name="n", x="1").cautions()) == [("x", "questionable")]
    assert list(Inner(a="1").cautions()) == []


# --- the declaration ---------------------------------------------------------------------------------------


async def probe_nothing(probe: Probe, settings: Inner) -> None:
    """Does nothing."""


def test_hostname_is_ignored_by_default() -> None:
    settings = Inner(a="1")
    assert Prober("nothing", Inner, probe_nothing).with_hostname(settings, "host") is settings


# --- reasons of one prober ---------------------------------------------------------------------------------


def test_own_reason_begins_with_prober_name() -> None:
    stale = OwnReason("actor_stale", "The actor has not moved.")
    assert (stale.value, stale.meaning) == ("actor_stale", "The actor has not moved.")
    assert Prober("actor", Inner, probe_nothing, reasons=(stale,)).reasons == (stale,)
    with pytest.raises(ValueError, match="begin with other_, unlike actor_stale"):
        Prober("other", Inner, probe_nothing, reasons=(stale,))


def test_own_reason_refuses_common_reason() -> None:
    with pytest.raises(ValueError, match="unlike dns_timeout"):
        Prober("dns", Inner, probe_nothing, reasons=(OwnReason("dns_timeout", "No answer."),))


@pytest.mark.parametrize("value", ["", "stale", "Actor_stale", "actor stale", "actor_", "_stale", "actor-stale"])
def test_own_reason_refuses_invalid_names(value: str) -> None:
    with pytest.raises(ValueError, match="can't be a reason"):
        OwnReason(value, "Meaning.")
