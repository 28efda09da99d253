"""Tests of the advice: every reason has one, in plain text, and commands stand between backticks."""

from __future__ import annotations

import pytest

from probe_exporter.plugins.loader import load_probers
from probe_exporter.prober.failure import OwnReason, Reason
from probe_exporter.report.advice import ADVICE, Explanation, about, common, explain, own

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


def filled(target: str, reason: str = "tls_x", *, redirected: bool = False) -> str:
    """Return the advice about a target, of a text with each placeholder."""
    text = "HOST: `nc HOST:PORT -s NAME; curl TARGET`."
    return about(Explanation(reason, "", text), target, redirected=redirected).advice


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("https://example.org/a?b=c", "nc example.org:443 -s example.org; curl 'https://example.org/a?b=c'"),
        ("http://me:xxxxx@example.org:81", "nc example.org:81 -s example.org; curl http://me:xxxxx@example.org:81"),
        ("example.org:587", "nc example.org:587 -s example.org; curl example.org:587"),
        ("example.org", "nc example.org:PORT -s example.org; curl example.org"),
        ("127.0.0.1:22", "nc 127.0.0.1:22 -s NAME; curl 127.0.0.1:22"),
        ("[::1]:22", "nc [::1]:22 -s NAME; curl '[::1]:22'"),
        ("$(id):22", "nc HOST:PORT -s NAME; curl '$(id):22'"),
        ("-x:22", "nc HOST:PORT -s NAME; curl TARGET"),
        ("a`b", "nc HOST:PORT -s NAME; curl TARGET"),
        ("a\x1b", "nc HOST:PORT -s NAME; curl TARGET"),
        ("x" * 1000, "nc HOST:PORT -s NAME; curl TARGET"),
    ],
)
def test_advice_has_the_target_in_its_commands(target: str, command: str) -> None:
    assert filled(target) == f"HOST: `{command}`."


def test_brackets_stand_beside_a_port_alone() -> None:
    text = Explanation("connect_timeout", "", "`ping HOST`, `nc HOST PORT`, `x HOST:PORT`")
    assert about(text, "[::1]:22").advice == "`ping ::1`, `nc ::1 22`, `x [::1]:22`"


def test_advice_after_a_redirect_leaves_the_host_open() -> None:
    assert filled("http://a/", redirected=True) == "HOST: `nc HOST:PORT -s NAME; curl http://a/`."


def test_name_of_a_dns_query_is_not_the_server_s() -> None:
    assert filled("ns.example:53", "dns_rcode") == "HOST: `nc ns.example:53 -s NAME; curl ns.example:53`."
