"""Choose the format of an answer by the client's Accept header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.exposition.formats import (
    MAX_ACCEPT_CHARACTERS,
    MAX_ACCEPT_ENTRIES,
    OPENMETRICS,
    TEXT,
    Format,
    negotiate,
)

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_3_PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_3
)
PROMETHEUS_2 = "application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
MESSAGES = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily"
PLAIN = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/*", PLAIN),
        ("application/json", PLAIN),
        (BROWSER, PLAIN),
        ("text/plain", PLAIN),
        ("TEXT/PLAIN ; Version=1.0.0", "text/plain; version=1.0.0; charset=utf-8; escaping=underscores"),
        ("text/plain;version=9.9.9", PLAIN),
        (
            "text/plain;version=1.0.0;escaping=dots",
            "text/plain; version=1.0.0; charset=utf-8; escaping=dots",
        ),
        (
            "text/plain;version=1.0.0;escaping=nonsense",
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            "text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.6",
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            "application/openmetrics-text;q=0, text/plain;version=1.0.0;q=0.1",
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            "text/plain;version=1.0.0, application/openmetrics-text",  # the first of equal ones
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            "application/openmetrics-text;q=much, text/plain;version=1.0.0;q=0.1",
            "text/plain; version=1.0.0; charset=utf-8; escaping=underscores",
        ),
        (
            PROMETHEUS_3,
            "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8",
        ),
        (
            PROMETHEUS_3_PROTOBUF,
            f"{MESSAGES}; encoding=delimited; escaping=underscores",
        ),
        (f"{MESSAGES};encoding=text;escaping=values", f"{MESSAGES}; encoding=text; escaping=values"),
        (f"{MESSAGES};encoding=compact-text", f"{MESSAGES}; encoding=compact-text; escaping=underscores"),
        (f"{MESSAGES};encoding=delimited;q=0.3,text/plain;q=0.5", PLAIN),
        (f"{MESSAGES};encoding=bogus", PLAIN),
        (MESSAGES, PLAIN),
        ("application/vnd.google.protobuf;encoding=delimited", PLAIN),
        ("application/openmetrics-text;version=0.0.1", PLAIN),
        (PROMETHEUS_2, PLAIN),
        (";;;,=,;q=1", PLAIN),
    ],
)
def test_accept_header_chooses_the_format(accept: str, content_type: str) -> None:
    assert negotiate(accept).content_type == content_type


@pytest.mark.parametrize(
    ("entries_before", "chosen"), [(MAX_ACCEPT_ENTRIES - 1, OPENMETRICS), (MAX_ACCEPT_ENTRIES, TEXT)]
)
def test_accept_entries_after_the_limit_are_ignored(entries_before: int, chosen: Format) -> None:
    assert negotiate("," * entries_before + "application/openmetrics-text") == chosen


@pytest.mark.parametrize(
    ("length", "chosen"), [(MAX_ACCEPT_CHARACTERS, OPENMETRICS), (MAX_ACCEPT_CHARACTERS + 1, TEXT)]
)
def test_accept_header_longer_than_the_limit_is_ignored(length: int, chosen: Format) -> None:
    assert negotiate("application/openmetrics-text".ljust(length)) == chosen


@given(st.text())
def test_any_accept_header_chooses_a_format(accept: str) -> None:
    negotiate(accept).content_type.encode("ascii")
