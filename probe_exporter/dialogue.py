"""A dialogue with a server, step by step: what to expect and what to send (``query_response``)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from probe_exporter.fields import Regexp, Text, encode
from probe_exporter.prober import Settings
from probe_exporter.rules import Block, required

_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def _value_is_utf8(block: Block) -> Iterator[tuple[str, str]]:
    value = block.get("value")
    if isinstance(value, str) and not _is_utf8(encode(value)):
        yield "value", "a label's value must be UTF-8"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class Label(Settings):
    """A label of ``probe_expect_info``; its value is a template of what ``expect`` matched."""

    rules = (required("name"), _value_is_utf8)
    name: Text = ""
    value: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        if not _LABEL_NAME.fullmatch(self.name):
            yield "name", "not a label name of Prometheus: what is not a letter, a digit or _ becomes _"


def _expects_one_thing(block: Block) -> Iterator[tuple[str, str]]:
    if "expect" in block and block.get("expect_bytes"):
        yield "expect_bytes", "`expect_bytes` and `expect` exclude each other"


def _labels_differ(block: Block) -> Iterator[tuple[str, str]]:
    seen = set()
    labels = block.get("labels")
    for label in labels if isinstance(labels, list | tuple) else ():
        name = label.get("name") if isinstance(label, Mapping) else None
        if name and name in seen:
            yield "labels", f"the label {name} is here twice"
        seen.add(name)


class Step(Settings):
    """One entry of ``query_response``: expect a line or bytes, send, start TLS, in this order."""

    rules = (_expects_one_thing, _labels_differ)
    expect: Regexp | None = None
    expect_bytes: Text = ""
    labels: tuple[Label, ...] | None = None
    send: Text = ""
    starttls: bool = False

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.labels is not None and self.expect is None:
            yield "labels", "labels have no effect without `expect`"


def _labels_once(block: Block) -> Iterator[tuple[str, str]]:
    """Two steps with labels would be one metric with two sets of label names."""
    steps = block.get("query_response")
    labelled = [
        step
        for step in (steps if isinstance(steps, list | tuple) else ())
        if isinstance(step, Mapping) and "labels" in step and "expect" in step
    ]
    if len(labelled) > 1:
        yield "query_response", "only one step may have `labels`"


class DialogueSettings(Settings):
    """What any prober that talks in steps understands."""

    rules = (_labels_once,)
    query_response: tuple[Step, ...] = ()
