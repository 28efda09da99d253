"""Tests of metrics that a module takes from responses: JSON, regular expressions and headers."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.config import loading
from probe_exporter.config.module import ConfigError
from probe_exporter.exposition.encoding import encode
from probe_exporter.exposition.formats import OPENMETRICS, TEXT
from probe_exporter.exposition.merging import merged
from probe_exporter.plugins import loader
from probe_exporter.prober.failure import Reason
from probe_exporter.prober.run import Probe
from probe_exporter.values import search
from probe_exporter.values.search import SearchedAnswer
from probe_exporter.values.settings import ValueSettings
from tests.cost import expect_short, turns

DOCUMENT = {
    "host": "h1",
    "ok": True,
    "queues": {"mail": 3, "web": 5.5},
    "workers": [
        {"name": "a", "state": "ok", "ms": 1500},
        {"name": "b", "state": "down", "ms": None},
        {"name": "c", "state": "odd"},
    ],
    "text": " 7 ",
    "nested": {"a": [1]},
}


def declared(**settings: Any) -> ValueSettings:
    return ValueSettings.model_validate({"name": "app_x", "help": "x", **settings})


def found(
    *metrics: ValueSettings, document: object = DOCUMENT, text: bytes | None = None, headers: Any = None
) -> tuple[list[str], Probe]:
    """Return the samples of a response as text without comments, and the probe."""
    probe = Probe("target", 0.0)
    body = json.dumps(document).encode() if text is None else text
    by_name: dict[str, list[str]] = headers or {}
    asyncio.run(search.report(probe, metrics, SearchedAnswer(lambda name: by_name.get(name, []), body, body)))
    lines = encode(probe.samples, TEXT).decode().splitlines()
    return [line for line in lines if not line.startswith("#")], probe


FOUND: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a number": ({"from": {"json": "$.queues.mail"}}, ["app_x 3"]),
    "a boolean": ({"from": {"json": "$.ok"}}, ["app_x 1"]),
    "text that is a number": ({"from": {"json": "$.text"}}, ["app_x 7"]),
    "a word": ({"from": {"json": "$.workers[0].state"}, "values": {"ok": 1}}, ["app_x 1"]),
    "a boolean as a word": ({"from": {"json": "$.ok"}, "values": {"true": 5}}, ["app_x 5"]),
    "a scale": ({"from": {"json": "$.workers[0].ms"}, "scale": 0.001}, ["app_x 1.5"]),
    "nothing": ({"from": {"json": "$.nowhere"}}, []),
    "null": ({"from": {"json": "$.workers[1].ms"}}, []),
    "a list": ({"from": {"json": "$.workers"}}, []),
    "an unknown word": ({"from": {"json": "$.workers[2].state"}, "values": {"ok": 1}}, []),
    "all members of an object": (
        {"from": {"json": "$.queues.*"}, "labels": {"queue": {"key": True}, "host": {"json": "$.host"}}},
        ['app_x{host="h1",queue="mail"} 3', 'app_x{host="h1",queue="web"} 5.5'],
    ),
    "objects, as far as they have a value": (
        {
            "from": {"json": "$.workers[*]", "value": "$.state"},
            "labels": {"worker": {"item": "$.name"}, "env": "prod"},
            "values": {"ok": 1, "down": 0},
        },
        ['app_x{env="prod",worker="a"} 1', 'app_x{env="prod",worker="b"} 0'],
    ),
    "a label that is not there": (
        {"from": {"json": "$.queues.mail"}, "labels": {"of": {"json": "$.nobody"}}},
        ['app_x{of=""} 3'],
    ),
    "a filter": (
        {"from": {"json": "$.workers[?match(@.name, '[ab]') && @.ms > 1]", "value": "$.ms"}},
        ["app_x 1500"],
    ),
    "a series twice": ({"from": {"json": "$.queues.*"}}, ["app_x 3"]),
    "an info": (
        {"name": "app_x_info", "type": "info", "from": {"json": "$"}, "labels": {"host": {"json": "$.host"}}},
        ['app_x_info{host="h1"} 1'],
    ),
    "a count": ({"name": "app_x_total", "type": "counter", "from": {"json": "$.queues.mail"}}, ["app_x_total 3"]),
}


@pytest.mark.parametrize("name", FOUND)
def test_json_values_become_series(name: str) -> None:
    settings, lines = FOUND[name]
    assert found(declared(**settings))[0] == lines


def test_regexp_matches_become_series() -> None:
    metric = declared(
        **{"from": {"regexp": r"queue (?P<queue>\w+): (?P<value>\d+)"}, "labels": {"queue": {"group": "queue"}}}
    )
    lines, _ = found(metric, text=b"queue mail: 3\nqueue web: 5\nqueue odd: x\n")
    assert lines == ['app_x{queue="mail"} 3', 'app_x{queue="web"} 5']


def test_regexp_first_group_is_value_by_default() -> None:
    assert found(declared(**{"from": {"regexp": r"load: (\S+) (\S+)"}}), text=b"load: 0.5 0.7 \xff")[0] == ["app_x 0.5"]


def test_headers_become_values_and_labels() -> None:
    headers = {"x-age": ["12"], "server": ["s"], "x-load": ["a=1, b=2"]}
    one = declared(**{"from": {"header": "X-Age"}, "labels": {"server": {"header": "Server"}}})
    other = declared(
        **{
            "name": "app_load",
            "from": {"header": "X-Load", "regexp": r"(?P<k>\w)=(?P<value>\d)"},
            "labels": {"k": {"group": "k"}},
        }
    )
    assert found(one, other, headers=headers)[0] == ['app_load{k="a"} 1', 'app_load{k="b"} 2', 'app_x{server="s"} 12']


def test_missing_required_value_fails_probe() -> None:
    lines, probe = found(declared(**{"from": {"json": "$.nowhere"}, "required": True}))
    assert lines == []
    assert probe.failure is not None
    assert probe.failure.reason is Reason.VALUE_MISSING
    assert found(declared(**{"from": {"json": "$.nowhere"}}))[1].failure is None


def test_invalid_json_is_reported() -> None:
    _, probe = found(declared(**{"from": {"json": "$.a"}, "required": True}), text=b"<html>")
    assert probe.failure is not None
    assert "not JSON" in probe.failure.message
    assert [event.message for event in probe.events] == ["A value of the answer is no metric"]


def test_series_beyond_limit_are_dropped() -> None:
    metric = declared(**{"from": {"json": "$[*]"}, "labels": {"n": {"key": True}}, "limit": 3})
    lines, probe = found(metric, document=list(range(10)))
    assert len(lines) == 3
    assert "more than 3 series" in str(probe.events[0].fields["why"])


def test_regexp_matches_are_limited() -> None:
    metric = declared(**{"from": {"regexp": "(.)"}, "values": {"a": 1}})
    lines, probe = found(metric, text=b"a" * 1_000_000)
    assert lines == ["app_x 1"]
    assert len(probe.events) == search.MAX_REMARKS + 1
    assert "more than 10000 matches" in str(probe.events[-1].fields["why"])


def test_long_label_drops_its_series() -> None:
    metric = declared(**{"from": {"json": "$.n"}, "labels": {"l": {"json": "$.l"}}, "label_value_length_limit": 5})
    assert found(metric, document={"n": 1, "l": "123456"})[0] == []
    assert found(metric, document={"n": 1, "l": "12345"})[0] == ['app_x{l="12345"} 1']


def test_large_document_does_not_block_event_loop() -> None:
    """Queries on large documents run in a helper process and within the step limit."""
    body = json.dumps([[0] * 1000] * 700).encode()
    metric = declared(**{"from": {"json": "$..nowhere"}, "required": True})
    other = declared(**{"name": "app_y", "from": {"json": "$[?@.a == 1]"}})

    async def run() -> tuple[Probe, int]:
        probe, turns = Probe("t", 0.0), 0
        work = asyncio.create_task(search.report(probe, (metric, other), SearchedAnswer(lambda _: [], body, body)))
        while not work.done():
            await asyncio.sleep(0)
            turns += 1
        return probe, turns

    probe, turns = asyncio.run(run())
    assert probe.failure is not None
    assert "200000 elements" in probe.failure.message
    assert turns > 10, "without a helper process it would have two"


HOSTILE: dict[str, tuple[dict[str, Any], bytes]] = {
    "8 MB of lists": ({"json": "$[0]"}, b"[" + b"[]," * 2_600_000 + b"[]]"),
    "64 KiB of lists": ({"json": "$[0]"}, b"[" + b"[]," * 21_000 + b"[]]"),
    "a thousand lists": ({"json": "$..*..*"}, b"[" + b"[]," * 900 + b"[]]"),
    "a filter": ({"json": "$[?count($..*) < 1]"}, b"[" + b"[]," * 900 + b"[]]"),
    "matches in 8 MB": ({"regexp": "(a)"}, b"a" * 8_000_000),
    "matches in 64 KiB": ({"regexp": "(a)"}, b"a" * 64_000),
    "empty matches": ({"regexp": "(b*)"}, b"a" * 64_000),
    "a long number": ({"regexp": "([0-9]+)"}, b"1" * 64_000),
    "bytes that are not UTF-8": ({"regexp": "(b)"}, b"a\xff" * 4_000_000),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_search_for_values_does_not_block_the_event_loop(name: str) -> None:
    source, body = HOSTILE[name]
    metrics = [declared(**{"name": f"app_{number}", "from": source}) for number in range(5)]
    with turns() as taken:
        await search.report(Probe("t", 0.0), metrics, SearchedAnswer(lambda _: [], body, body))
        await asyncio.sleep(0.01)
    assert taken
    expect_short(max(taken))


def test_label_of_a_header_that_is_not_utf8_is_replaced() -> None:
    metric = declared(**{"from": {"header": "x-a"}, "labels": {"l": {"header": "x-b"}}})
    assert found(metric, headers={"x-a": ["1"], "x-b": ["a\udcff"]})[0] == ['app_x{l="a?"} 1']


def test_module_label_is_exported_label_if_modules_are_merged() -> None:
    metric = declared(**{"from": {"json": "$.queues.*"}, "labels": {"module": {"key": True}}})
    runs = {name: found(metric)[1].samples for name in ("a", "b")}
    text = encode(merged(runs), OPENMETRICS).decode()
    assert 'app_x{exported_module="mail",module="a"} 3' in text
    assert 'app_x{exported_module="web",module="b"} 5.5' in text


@functools.cache
def with_queries_of_each_kind() -> list[ValueSettings]:
    """Return metrics from documents."""
    labels = {"k": {"key": True}, "i": {"item": "$.a"}, "d": {"json": "$.b"}}
    queries = ("$", "$.*", "$..*", "$[?@.a]", "$[0]", "$[1:]")
    return [declared(**{"from": {"json": query}, "labels": labels}) for query in queries]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_document_is_handled(document: object) -> None:
    for metric in with_queries_of_each_kind():
        found(metric, document=document)


REFUSED = {
    "name: probe_x": "m.http.metrics[0].name: names that begin with probe_ are reserved for what probes measure",
    "name: 1x": "m.http.metrics[0].name: '1x' is not a metric name",
    "name: x_total": "m.http.metrics[0].name: _total is for the names of counters",
    "type: counter": "m.http.metrics[0].name: the name of a counter must end in _total",
    "type: info": "m.http.metrics[0].name: the name of an info metric ends in _info",
    "type: histogram": "m.http.metrics[0].type: ",
    "help: ''": "m.http.metrics[0].help: `help` is required",
    "from: {}": "m.http.metrics[0].from: `from` is required",
    "from: {json: a}": "m.http.metrics[0].from.json: not a JSONPath query (RFC 9535): ",
    "from: {json: '$[?@.a =~ /x/]'}": "m.http.metrics[0].from.json: not a JSONPath query (RFC 9535): ",
    "from: {json: $, regexp: (x)}": "m.http.metrics[0].from.regexp: `regexp` and `json` exclude each other",
    "from: {regexp: x}": "m.http.metrics[0].from: the regular expression needs a group for the value",
    "from: {regexp: (}": "m.http.metrics[0].from.regexp: not a regular expression (RE2)",
    "from: {header: x, value: $.a}": "m.http.metrics[0].from.value: `value` needs `json`: it is a part of",
    "labels: {a: {}}": "m.http.metrics[0].labels.a.text: expected one of",
    "labels: {a-b: x}": "m.http.metrics[0].name: 'a-b' is not a label name",
    "labels: {a: {group: x}}": "m.http.metrics[0].labels: the regular expression has no group x",
    "labels: {a: {text: x, header: x}}": "m.http.metrics[0].labels.a.header: `header` and `text` exclude each other",
    "limit: 0": "m.http.metrics[0].limit: ",
    "limits: 5": "m.http.metrics[0].limits: unknown key `limits`; did you mean `limit`?",
}  # fmt: skip


@pytest.mark.parametrize("written", REFUSED)
def test_invalid_declaration_is_refused_with_its_place(written: str, tmp_path: Path) -> None:
    given = {"name": "name: x", "help": "help: x", "from": "from: {json: $.a}"}
    given |= {written.partition(":")[0]: written}
    path = tmp_path / "a.yml"
    path.write_text(f"modules: {{m: {{prober: http, http: {{metrics: [{{{', '.join(given.values())}}}]}}}}}}\n")
    with pytest.raises(ConfigError) as refused:
        loading.load([path], loader.load_probers([]))
    assert REFUSED[written] in str(refused.value)
    assert ":1:" in str(refused.value)


def test_duplicate_metric_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    one = "{name: x, help: x, from: {header: a}}"
    other = "{name: x_total, type: counter, help: x, from: {header: a}}"
    path.write_text(f"modules: {{m: {{prober: http, http: {{metrics: [{one}, {other}]}}}}}}\n")
    with pytest.raises(ConfigError, match="the metric x_total is declared twice"):
        loading.load([path], loader.load_probers([]))
