"""Plain values to YAML text that `document` reads back as the same values."""

from __future__ import annotations

from typing import Any

import yaml

from probe_exporter.config.nodes import BOOLEANS, NULLS, parse_number
from probe_exporter.fields import encode


def dump(value: Any, indent: int) -> str:
    """`value` as a YAML document in block style, keys in their order, lists indented.

    Strings that hold bytes (as surrogate escapes) become ``!!binary``.
    """
    return yaml.dump(
        value,
        Dumper=_Dumper,
        indent=indent,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=1_000_000,
    )


_LINE_BREAKS = frozenset("\x85\u2028\u2029")
"""What YAML 1.1 takes for line breaks beside the usual ones: safe in double quotes only."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper without aliases, and with lists indented under their keys."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    try:
        text.encode()
    except UnicodeEncodeError:
        return dumper.represent_binary(encode(text))
    ambiguous = text in BOOLEANS or text in NULLS or parse_number(text) is not None or _LINE_BREAKS & set(text)
    style = '"' if ambiguous else "|" if "\n" in text.rstrip("\n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
