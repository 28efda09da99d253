"""Tests of reports: a result and its entry in a history give the same, secrets are masked, everything is bounded."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.history import record
from probe_exporter.history.details import details_of, to_json
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import OwnReason, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import MAX_SPANS, Probe
from probe_exporter.report import report, waterfall
from probe_exporter.report.report import MAX_RUNS, Report, of_entry, of_result, seconds
from probe_exporter.runner import Result, run
from probe_exporter.runs.settings import AttemptsSettings
from probe_exporter.runs.several import Several
from probe_exporter.settings.block import Settings
from probe_exporter.settings.secrets import Secret

SEEN = Metric("probe_actor_seen", "What was seen.", ("what",))
EXPIRY = Metric("probe_actor_expiry", "When the actor leaves.")
MODIFIED = Metric("probe_actor_timestamp_seconds", "When the actor came.")
STALE = OwnReason("actor_stale", "The actor has not moved.", advice="Wake the actor.")
SECRET = "correct horse"


class ActorSettings(Settings):
    """A setting and a secret."""

    role: str = "king"
    password: Secret = Secret("")


async def finished(act: Callable[[Probe], Awaitable[None]], target: str = "stage", **more: Any) -> Result:
    async def probe_actor(probe: Probe, settings: ActorSettings) -> None:
        await act(probe)

    prober = Prober("actor", ActorSettings, probe_actor, reasons=(STALE,))
    settings = ActorSettings.model_validate({"password": SECRET})
    return await run(replace(Module("m", prober, settings, 0.0, Place("my.yml", 3, 5)), **more), target, 60.0)


async def bow(probe: Probe) -> None:
    with probe.phase("enter"):
        probe.log("Entering", door="left", count=2)
    probe.set(SEEN, 1.5, "bow")


async def fail(probe: Probe) -> None:
    with probe.phase("enter"):
        raise ProbeFailed(STALE, f"does not know {SECRET}")


def of_history(result: Result) -> Report:
    """Return the report of a result that was written to a file and read again."""
    details = json.loads(to_json(details_of(result)))
    return of_entry(record.entry(7, result), details, result.module)


async def test_report_of_a_success() -> None:
    made = of_result(await finished(bow))
    assert made.success
    assert made.explanation is None
    assert made.verdict.startswith("The probe succeeded in ")
    assert [(bar.name, bar.failed) for bar in made.bars] == [("enter", False)]
    assert [step.message for step in made.steps] == ["Beginning probe", "Entering", "Probe succeeded"]
    assert made.steps[1].fields == (("door", "left"), ("count", "2"))
    (seen,) = [family for family in made.families if family.name == "probe_actor_seen"]
    assert seen.samples == (("probe_actor_seen", (("what", "bow"),), "1.5", ""),)
    assert made.place == "my.yml:3:5"
    assert made.id is None


async def test_report_of_a_failure_explains_it() -> None:
    made = of_result(await finished(fail), id=3)
    assert not made.success
    assert made.id == 3
    assert made.verdict.startswith("The probe failed in phase enter after ")
    assert made.explanation == ("actor_stale", "The actor has not moved.", "Wake the actor.")
    assert [(bar.name, bar.failed) for bar in made.bars] == [("enter", True)]


@pytest.mark.parametrize("act", [bow, fail])
async def test_history_gives_the_same_report(act: Callable[[Probe], Awaitable[None]]) -> None:
    result = await finished(act, request={"hostname": "h"})
    assert of_history(result) == of_result(result, id=7)


async def test_entry_of_a_module_that_is_gone_has_a_report() -> None:
    result = await finished(fail)
    made = of_entry(record.entry(7, result), details_of(result), None)
    assert made.place == ""
    assert made.explanation == ("actor_stale", "", "")


async def test_secrets_are_masked_everywhere() -> None:
    async def tell(probe: Probe) -> None:
        with probe.phase("enter") as phase:
            phase.about = f"door of {SECRET}"
            probe.log(f"Saying {SECRET}", word=SECRET)
        probe.set(SEEN, 1, SECRET)
        raise ProbeFailed(Reason.EXPECTATION, f"no {SECRET}")

    made = of_result(await finished(tell, "https://user:hunter222@stage/", request={"token": SECRET}))
    assert SECRET not in repr(made)
    assert "hunter222" not in repr(made)
    assert made.parameters == {"token": "<secret>"}
    assert "<secret>" in made.bars[0].about


async def test_timestamps_have_their_date() -> None:
    async def look(probe: Probe) -> None:
        probe.set(EXPIRY, 1803765488.0)
        probe.set(MODIFIED, -62135596800.0)

    dates = {one.name: one.samples[0].date for one in of_result(await finished(look)).families}
    assert dates["probe_actor_expiry"] == "2027-02-27 21:58 UTC"
    assert dates["probe_actor_timestamp_seconds"] == dates["probe_success"] == ""


async def test_everything_is_bounded() -> None:
    async def talk(probe: Probe) -> None:
        for index in range(3000):
            with probe.phase("word") as phase:
                phase.about = "x" * 5000
            probe.log("y" * 5000, level=logging.DEBUG, z="z" * 5000)
            probe.set(SEEN, index, f"{index}{'w' * 1000}")

    result = await finished(talk)
    assert len(result.probe.spans) == MAX_SPANS
    made = of_result(result)
    assert len(made.bars) == waterfall.MAX_BARS
    assert len(made.steps) == report.MAX_STEPS
    assert made.steps_left_out == 3002 - report.MAX_STEPS
    assert sum(len(family.samples) for family in made.families) == report.MAX_SAMPLES
    assert made.samples_left_out == 3003 - report.MAX_SAMPLES
    assert len(made.steps[1].message) <= report.MAX_STEP_CHARACTERS + 1
    assert len(made.steps[1].fields[0][1]) <= report.MAX_STEP_CHARACTERS + 1
    (seen,) = [family for family in made.families if family.name == "probe_actor_seen"]
    assert len(seen.samples[0].labels[0][1]) <= report.MAX_LABEL_CHARACTERS + 1


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (0.0, "0 µs"),
        (0.000045, "45 µs"),
        (0.0009996, "1.00 ms"),
        (0.0123456, "12.3 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.00 s"),
        (1.25, "1.25 s"),
        (1.5, "1.50 s"),
        (9.996, "10.0 s"),
        (61.2, "61.2 s"),
        (119.2, "119 s"),
        (1234.5, "1234 s"),
    ],
)
def test_seconds_have_three_digits_and_a_unit(duration: float, text: str) -> None:
    assert seconds(duration) == text


async def test_report_has_a_row_for_each_run() -> None:
    turns = iter((False, True))

    async def flap(probe: Probe) -> None:
        with probe.phase("enter"):
            if not next(turns):
                raise ProbeFailed(STALE, f"does not know {SECRET}")

    result = await finished(flap, several=Several(None, AttemptsSettings()))
    made = of_result(result, id=7)
    assert [(row.attempt, row.reason, row.phase, row.decides) for row in made.runs] == [
        (1, "actor_stale", "enter", False),
        (2, "", "", True),
    ]
    assert SECRET not in made.runs[0].message
    assert made.runs[0].message.startswith("does not know ")
    assert [name for name, _ in made.runs[1].phases] == ["enter"]
    assert [[(bar.name, bar.failed) for bar in row.bars] for row in made.runs] == [
        [("enter", True)],
        [("enter", False)],
    ]
    assert made.runs[0].bars[0].start <= made.runs[1].bars[0].start, "all on the scale of the probe"
    assert made.bars == ()
    assert made.run_phases == ("enter",)
    assert (made.runs[0].took("enter") != "", made.runs[0].took("leave")) == (True, "")
    assert made.runs_left_out == 0
    assert of_history(result) == made


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([("::1", 1), ("::2", 1)], ["::1", "::2"]),
        ([("::1", 1), ("::1", 2)], ["::1, attempt 1", "::1, attempt 2"]),
        ([("", 1), ("", 2)], ["attempt 1", "attempt 2"]),
        ([("", 1)], ["attempt 1"]),
    ],
)
async def test_runs_are_named_by_address_and_attempt(runs: list[tuple[str, int]], names: list[str]) -> None:
    result = await finished(bow, several=Several(None, AttemptsSettings()))
    made = tuple([result.runs[0]._replace(address=address, attempt=attempt) for address, attempt in runs])
    assert [row.name for row in of_result(result._replace(runs=made)).runs] == names


async def test_run_of_an_earlier_build_has_no_bars() -> None:
    result = await finished(bow, several=Several(None, AttemptsSettings()))
    details = json.loads(to_json(details_of(result)))
    for key in ("spans", "revoked"):
        del details["runs"][0][key]
    row = of_entry(record.entry(7, result), details, result.module).runs[0]
    assert (row.bars, row.revoked) == ((), False)


async def test_report_of_one_run_has_no_rows() -> None:
    assert of_result(await finished(bow)).runs == ()


async def test_rows_of_a_report_are_bounded() -> None:
    result = await finished(bow, several=Several(None, AttemptsSettings()))
    made = of_result(result._replace(runs=result.runs * (MAX_RUNS + 5)))
    assert (len(made.runs), made.runs_left_out) == (MAX_RUNS, 5)
