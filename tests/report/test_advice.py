"""Tests of the advice: every reason has one, in plain text, and commands stand between backticks."""

from __future__ import annotations

import pytest

from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.failure import OwnReason, Reason
from probe_exporter.report.advice import ADVICE, common, explain, own

MAX_ADVICE_CHARACTERS = 400
"""More would not be read at night."""


def test_every_common_reason_has_advice() -> None:
    assert [reason for reason in Reason if reason not in ADVICE] == []
    assert [one.reason for one in common()] == [reason.value for reason in Reason]


@pytest.mark.parametrize("reason", ADVICE, ids=str)
def test_advice_is_short_and_says_more_than_the_meaning(reason: Reason) -> None:
    text = ADVICE[reason]
    assert len(text) <= MAX_ADVICE_CHARACTERS
    assert text != reason.meaning
    assert text.endswith(".")
    assert text.count("`") % 2 == 0
    assert "\n" not in text


def test_every_shipped_prober_advises_on_its_own_reasons() -> None:
    silent = [reason for prober in load_probers([]).values() for reason in prober.reasons if not reason.advice]
    assert silent == []


def test_explain_finds_common_and_own_reasons() -> None:
    stale = OwnReason("ntp_stale", "The server has lost its source.", advice="Look at its sources.")
    silent = OwnReason("ntp_silent", "The server says nothing.")
    assert explain("connect_refused", ()).advice == ADVICE[Reason.CONNECT_REFUSED]
    assert explain("ntp_stale", (stale, silent)) == ("ntp_stale", stale.meaning, "Look at its sources.")
    assert explain("ntp_silent", (stale, silent)) == ("ntp_silent", silent.meaning, silent.meaning)
    assert own((silent,)) == [("ntp_silent", silent.meaning, silent.meaning)]


def test_reason_of_an_earlier_release_has_empty_texts() -> None:
    assert explain("gone_reason", ()) == ("gone_reason", "", "")
