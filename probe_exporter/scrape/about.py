"""What a page of metrics says of its program: the labels of the first metric that ends in ``_build_info``."""

from __future__ import annotations

from probe_exporter.scrape.page import Selection

_SUFFIX = "_build_info"
_OF_RUNTIMES = ("go_build_info",)
"""Metrics of that name that tell what the program was made with, not what it is."""

_LONGEST = 128
"""Characters of a label whose value somebody else wrote."""


def selection() -> Selection:
    """What is to be kept of a page."""
    return Selection(lambda _: True, lambda name: name.endswith(_SUFFIX) and name not in _OF_RUNTIMES, room=1)


def told(kept: Selection) -> tuple[str, str, str, str] | None:
    """The metric, and name, version and revision of the program; None where there is no such metric."""
    if not kept.kept:
        return None
    sample = kept.kept[0]
    said = dict(sample.labels)
    name = sample.name.removesuffix(_SUFFIX)
    return sample.name, name, short(said.get("version")), short(said.get("revision"))


def short(value: object) -> str:
    """A text as the value of a label; nothing for what is none."""
    return value[:_LONGEST] if isinstance(value, str) else ""
