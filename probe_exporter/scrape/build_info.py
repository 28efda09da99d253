"""Name, version and revision of a program, from the first metric of its page that ends in ``_build_info``."""

from __future__ import annotations

from probe_exporter.scrape.page import Selection

_SUFFIX = "_build_info"
_OF_RUNTIMES = ("go_build_info",)
"""Metrics with this suffix that describe the runtime and not the program."""

MAX_LABEL_CHARACTERS = 128
"""Characters of a label whose value comes from the target."""


def selection() -> Selection:
    """Return the selection of the samples that `program_of` needs."""
    return Selection(lambda _: True, lambda name: name.endswith(_SUFFIX) and name not in _OF_RUNTIMES, room=1)


def program_of(kept: Selection) -> tuple[str, str, str, str] | None:
    """Return the metric, and the program's name, version and revision; None if there is no such metric."""
    if not kept.kept:
        return None
    sample = kept.kept[0]
    said = dict(sample.labels)
    name = sample.name.removesuffix(_SUFFIX)
    return sample.name, name, short(said.get("version")), short(said.get("revision"))


def short(value: object) -> str:
    """Return a text shortened for a label; an empty string for anything else."""
    return value[:MAX_LABEL_CHARACTERS] if isinstance(value, str) else ""
