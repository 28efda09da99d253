"""``probe-exporter modules`` and ``probers``: list modules and probers, in a line each or in full."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from probe_exporter.config.catalogue import module_info, prober_info
from probe_exporter.config.dump import module_to_yaml, plain_module
from probe_exporter.config.module import Config, Module
from probe_exporter.config.one_module import module_hint
from probe_exporter.config.shapes import shape_of
from probe_exporter.plugins.inventory import measured
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.metrics import Metric
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import nearest

WIDTH = 120  # characters of a line


class UnknownName(Exception):
    """There is no module or prober with a given name."""


def modules(config: Config, names: Sequence[str], *, as_json: bool) -> str:
    """Return all modules in a line each, or some in full.

    Raises:
        UnknownName: one of the names is unknown.
    """
    for name in names:
        if name not in config.modules:
            raise UnknownName(f"unknown module `{name}`{module_hint(config, name)}")
    chosen = [config.modules[name] for name in names or sorted(config.modules)]
    if as_json:
        return _json([_module_data(module) for module in chosen])
    if names:
        return "\n".join([_module(module) for module in chosen])
    return table(("MODULE", "PROBER", "DESCRIPTION"), [(m.name, m.prober.name, m.description) for m in chosen])


def probers(config: Config, names: Sequence[str], *, as_json: bool) -> str:
    """Return all probers in a line each, or some in full.

    Raises:
        UnknownName: one of the names is unknown.
    """
    for name in names:
        if name not in config.probers:
            raise UnknownName(f"unknown prober `{name}`{nearest(name, list(config.probers))}")
    chosen = [config.probers[name] for name in names or sorted(config.probers)]
    if as_json:
        return _json([prober_info(prober).model_dump() for prober in chosen])
    if names:
        return "\n".join([_prober(prober) for prober in chosen])
    return table(("PROBER", "DESCRIPTION"), [(prober.name, _plain(prober.summary)) for prober in chosen])


def names(loaded: Iterable[str]) -> str:
    """Return the names of modules or probers, one a line, for scripts."""
    return "".join([f"{name}\n" for name in sorted(loaded)])


def _json(items: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(items, indent=2) + "\n"


def _module_data(module: Module) -> dict[str, Any]:
    """Describe a module as `/metadata` does, with its settings and metrics."""
    effective = plain_module(module)
    metrics = prober_info(module.prober).metrics
    return {
        **module_info(module).model_dump(),
        "settings": effective[module.prober.name],
        "metrics": [metric.name for metric in metrics],
    }


def _module(module: Module) -> str:
    """Describe a module: its place, its settings and its metrics."""
    lines = [module.name, *_wrapped(module.description), f"  defined at {module.place}", ""]
    lines += ["  settings:", textwrap.indent(module_to_yaml(module), "    ")]
    return "\n".join([*lines, "  metrics:", _metrics(module.prober)])


def _prober(prober: Prober[Any]) -> str:
    """Describe a prober: its settings, its metrics and its own reasons."""
    info = prober_info(prober)
    lines = [prober.name, *_wrapped(prober.summary), f"  {info.source}", ""]
    lines += ["  settings:", _indented(settings_rows(prober.settings))]
    lines += ["  metrics:", _metrics(prober)]
    if prober.reasons:
        lines += [
            "  own reasons for failure:",
            _indented([(reason.value, reason.meaning) for reason in prober.reasons]),
        ]
    return "\n".join(lines)


def _metrics(prober: Prober[Any]) -> str:
    return _indented([(_series(metric), metric.help) for metric in measured(prober)])


def settings_rows(settings: type[Settings], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each key with its type and default. Keys of inner blocks have dots."""
    defaults = settings.model_construct().model_dump(warnings=False)
    for name, info in settings.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        if isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            yield from settings_rows(info.annotation, f"{key}.")
            continue
        wanted = _wanted(info)
        if name not in defaults:
            wanted += ", required"
        elif defaults[name] not in (None, "", (), [], {}):
            wanted += f", by default {_word(defaults[name])}"
        yield key, wanted


def _wanted(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return f"one of {', '.join(map(_word, filter(None, get_args(info.annotation))))}"
    return shape_of(info.annotation, info.metadata).expected


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _series(metric: Metric) -> str:
    return f"{metric.name}{{{','.join(metric.labels)}}}" if metric.labels else metric.name


# --- text --------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Collection[Sequence[str]]) -> str:
    """Format rows as columns; the last column is not padded."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)][:-1]
    line: Callable[[Sequence[str]], str] = lambda row: "  ".join(  # noqa: E731
        [*[cell.ljust(width) for cell, width in zip(row, widths, strict=False)], row[-1]]
    )
    return "".join([line(row).rstrip() + "\n" for row in (head, *rows)])


def _indented(rows: Iterable[tuple[str, str]]) -> str:
    """Format pairs as two indented columns; the second is wrapped."""
    pairs = list(rows) or [("none", "")]
    width = min(max(len(key) for key, _ in pairs), 56)
    lines: list[str] = []
    for key, text in pairs:
        rest = " " * (width + 6)
        start = f"    {key.ljust(width)}  "
        if len(key) > width:
            lines.append(start.rstrip())
            start = rest
        lines += textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=rest) or [start.rstrip()]
    return "\n".join([*lines, ""])


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(_plain(text), WIDTH, initial_indent="  ", subsequent_indent="  ")


def _plain(text: str) -> str:
    """Return the line of a docstring without its markup."""
    return text.replace("``", "`")
