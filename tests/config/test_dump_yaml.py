"""Write YAML that every YAML parser reads back as the same value."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from probe_exporter.config import dump
from probe_exporter.config.document import read
from probe_exporter.settings.fields import Text


class Holder(BaseModel):
    """Any text, most of it difficult for YAML."""

    text: Text = ""
    texts: list[Text] = []
    named: dict[Text, Text] = {}
    anything: Any = None


def back(value: object) -> Any:
    """Write `value` and read it back."""
    result = read(dump.dump(value, 2).encode(), "f", Holder)
    assert result.problems == []
    return result.value


texts = st.text(max_size=20) | st.binary(max_size=8).map(lambda data: data.decode("utf-8", "surrogateescape"))
texts |= st.sampled_from(
    ["", "~", "null", "yes", "1e3", "0o17", "010", "<<", "=", "- a", "a: b", "# a", "a\nb\n", " a ", "1:30"]
)
json_values = st.recursive(
    st.booleans() | st.integers(-(1 << 62), 1 << 62) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(texts, inner, min_size=1, max_size=3),
    max_leaves=6,
)


@given(texts)
def test_text_is_read_back(text: str) -> None:
    written = {"text": text, "texts": [text, text], "named": {"a": text}}
    assert back(written) == written


@given(st.dictionaries(texts, texts, max_size=3))
def test_keys_are_read_back(named: dict[str, str]) -> None:
    assert back({"named": named}) == {"named": named}


@given(json_values)
def test_json_values_are_read_back_with_their_types(value: object) -> None:
    assert repr(back({"anything": value})) == repr({"anything": value})


def test_lists_are_indented_and_multiline_text_is_a_block() -> None:
    assert dump.dump({"a": ["b", {"c": "d\ne\n"}]}, 2) == "a:\n  - b\n  - c: |\n      d\n      e\n"
