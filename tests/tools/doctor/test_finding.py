"""Test how `probe-exporter doctor` prints its findings."""

from __future__ import annotations

import json

from probe_exporter.tools.doctor.finding import Finding, as_json, as_text, healthy

GOOD = Finding("ping", "pass", "permitted")
BAD = Finding("open files", "fail", "too few", "ulimit -n 100")
MAYBE = Finding("ipv6", "warn", "no route", "ip -6 route")


def test_text_has_a_line_for_each_finding_and_its_fix_below() -> None:
    assert as_text([GOOD, BAD]) == (
        "pass  ping        permitted\n"
        "fail  open files  too few\n"
        "                  fix: ulimit -n 100\n"
    )  # fmt: skip


def test_json_has_every_field_and_the_verdict() -> None:
    document = json.loads(as_json([GOOD, BAD]))
    assert document["healthy"] is False
    assert document["checks"][1] == {
        "check": "open files",
        "verdict": "fail",
        "message": "too few",
        "fix": "ulimit -n 100",
    }


def test_warnings_and_skipped_checks_are_healthy() -> None:
    assert healthy([GOOD, MAYBE, Finding("clock", "skip", "not named")])
    assert not healthy([GOOD, BAD])
