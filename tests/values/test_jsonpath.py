"""Tests of JSONPath: the examples of RFC 9535, and the bound on the cost of a query."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.values.jsonpath import MAX_STEPS, JsonPath, Meter
from probe_exporter.values.jsonpath import metered as metered_by
from tests.cost import cpu_seconds, expect_cheaper

STORE = {
    "store": {
        "book": [
            {"category": "reference", "author": "Nigel Rees", "price": 8.95},
            {"category": "fiction", "author": "Evelyn Waugh", "price": 12.99},
            {"category": "fiction", "author": "Herman Melville", "isbn": "0-553-21311-3", "price": 8.99},
        ],
        "bicycle": {"color": "red", "price": 399},
    }
}  # RFC 9535, 1.5, a little shorter
SELECTED: dict[str, list[Any]] = {
    "$.store.book[*].author": ["Nigel Rees", "Evelyn Waugh", "Herman Melville"],
    "$..author": ["Nigel Rees", "Evelyn Waugh", "Herman Melville"],
    "$.store..price": [399, 8.95, 12.99, 8.99],
    "$..book[-1].price": [8.99],
    "$..book[0,1].price": [8.95, 12.99],
    "$..book[:2].price": [8.95, 12.99],
    "$..book[?@.isbn].price": [8.99],
    "$..book[?@.price<10].price": [8.95, 8.99],
    "$..book[?search(@.author, '^(N|H)')].price": [8.95, 8.99],
    "$..book[?match(@.author, 'Nigel')].price": [],
    "$..book[?length(@.category) == 7 && @.price > 10].price": [12.99],
    "$.nothing": [],
}


def metered(document: object) -> Any:
    """Return the document with a meter of its own."""
    return metered_by(document, Meter())


@pytest.mark.parametrize("query", SELECTED)
def test_jsonpath_selects_as_rfc_9535(query: str) -> None:
    found = [value for _, value in JsonPath(query).nodes(metered(STORE), 100)]
    assert sorted([str(value) for value in found]) == sorted([str(value) for value in SELECTED[query]])


def test_jsonpath_returns_name_or_index_of_node() -> None:
    assert [key for key, _ in JsonPath("$.store.*").nodes(metered(STORE), 9)] == ["book", "bicycle"]
    assert [key for key, _ in JsonPath("$.store.book[1:]").nodes(metered(STORE), 9)] == ["1", "2"]


@pytest.mark.parametrize("scalar", ['"[1]"', "5", "null", "true"])
def test_jsonpath_scalar_document_has_one_node(scalar: str) -> None:
    """A string that looks like JSON stays a string."""
    assert JsonPath("$").nodes(metered(json.loads(scalar)), 9) == [("", json.loads(scalar))]
    assert JsonPath("$.*").nodes(metered(json.loads(scalar)), 9) == []


@pytest.mark.parametrize(
    "text", ["", "a", "$.", "$.a ", "$[?@.a =~ /(a+)+$/]", "$.a | $.b", "$[?typeof(@) == 'x']", "$[?@.* == 1]"]
)
def test_jsonpath_refuses_other_syntax(text: str) -> None:
    with pytest.raises(ValueError, match="not a JSONPath query"):
        JsonPath(text)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE: dict[str, tuple[str, Any]] = {
    "a long list": ("$..*", [0] * 1_000_000),
    "a long list, in a filter": ("$[?@.a]", [0] * 1_000_000),
    "many descents": ("$..*..*..*..nothing", [[[0] * 50] * 50] * 50),
    "descents into the same": ("$..a..a..a..a..a..nothing", deep(90)),
    "a filter that descends": ("$[?@..nothing]", [[[0] * 50] * 50] * 50),
    "all against all": ("$[?count($..*) < 1]", list(range(5000))),
    "unions": ("$" + "[*,*,*,*]" * 5 + ".nothing", [[[[[0] * 20] * 20] * 20] * 20]),
    "an expression that would hang": ("$[?search(@, '(a+)+$')]", ["a" * 100_000 + "b"] * 10),
    "an expression of the document": ("$[?search(@.text, @.regexp)]", [{"text": "a" * 30, "regexp": "(a|aa)+" * 400}]),
    "a document that is too deep": ("$..nothing", deep(400)),
}


@pytest.fixture(scope="module")
def plain_cost() -> float:
    """CPU seconds of a plain query that looks at half of the allowed elements."""
    plain, document = JsonPath("$[*][*]"), [[0] * 1000] * (MAX_STEPS // 2000)
    return cpu_seconds(lambda: plain.nodes(metered(document), MAX_STEPS), runs=2)


@pytest.mark.parametrize("name", HOSTILE)
def test_jsonpath_cost_is_bounded(name: str, plain_cost: float) -> None:
    query, document = HOSTILE[name]
    path, said = JsonPath(query), ""
    began = time.process_time()
    try:
        found = path.nodes(metered(document), 1000)
    except ValueError as error:
        found, said = [], str(error)
    expect_cheaper(time.process_time() - began, 12 * plain_cost, "the query")
    assert found == []
    assert not said or str(MAX_STEPS) in said or "too deep" in said


@given(st.text("$.[]*?@'\"()abc019&|!=<>,:- \\", max_size=20).map("${}".format))
def test_jsonpath_accepts_or_refuses_any_text(text: str) -> None:
    with suppress(ValueError):
        JsonPath(text).nodes(metered(STORE), 10)


def test_jsonpath_queries_share_one_limit() -> None:
    document = metered([[0] * 1000] * 90)
    path = JsonPath("$[*][*]")
    assert len(path.nodes(document, 10**6)) == 90_000
    path.nodes(document, 10**6)
    with pytest.raises(ValueError, match="200000 elements"):
        path.nodes(document, 10**6)
