"""Write a `Config` as YAML, with defaults and masked secrets. Without secrets, it reads back as the same config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from probe_exporter.config.module import Config, Module
from probe_exporter.config.nodes import BOOLEANS, NULLS, parse_number
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import encode
from probe_exporter.settings.quantities import format_duration


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML: with defaults, masked secrets, and modules sorted by name."""
    modules = {name: plain_module(config.modules[name]) for name in sorted(config.modules)}
    of_all = {} if config.targets is None else {"targets": _plain_block(config.targets, config.targets.model_dump())}
    sources = {name: _plain_block(one, one.model_dump()) for name, one in sorted(config.discovery.items())}
    return dump({**of_all, "modules": modules, **({"discovery": sources} if sources else {})}, indent=4)


def targets_to_yaml(config: Config) -> str:
    """Return the `targets` of all modules as YAML; empty if there are none."""
    if config.targets is None:
        return ""
    return dump({"targets": _plain_block(config.targets, config.targets.model_dump())}, indent=4)


def modules_to_yaml(modules: Sequence[Module]) -> str:
    """Return a configuration of some modules alone, as YAML."""
    return dump({"modules": {module.name: plain_module(module) for module in modules}}, indent=4)


def module_to_yaml(module: Module) -> str:
    """Return one module as YAML: with defaults, and with masked secrets."""
    return dump(plain_module(module), indent=2)


def plain_module(module: Module) -> dict[str, Any]:
    """Return the plain values that `module_to_yaml` writes."""
    plain: dict[str, Any] = {"prober": module.prober.name}
    if module.timeout:
        plain["timeout"] = format_duration(module.timeout)
    if module.description:
        plain["description"] = module.description
    if module.parameters:
        plain["params"] = _plain(module.parameters, {name: _dumped(module, name) for name in module.parameters})
    for key, patterns in {"keep": module.keep, "drop": module.drop}.items():
        if patterns:
            plain[key] = [pattern.text for pattern in patterns]
    plain |= _plain_block(module.networking, module.networking.model_dump())
    plain |= _plain_block(module.runs, module.runs.model_dump())
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        plain[name] = _plain_block(block, block.model_dump(by_alias=True))
    return plain


def _dumped(module: Module, parameter: str) -> dict[str, Any]:
    """Return the plain values of the declaration of a parameter."""
    return module.parameters[parameter].model_dump() | {"default": module.shown_default(parameter)}


def _plain_block(block: Settings, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """Return `dumped` without keys of the block that are unset and have an empty default."""
    plain = {}
    for name, info in type(block).model_fields.items():
        key = info.alias or name
        value = getattr(block, name)
        unset = name not in block.model_fields_set
        default = info.get_default(call_default_factory=True, validated_data={}) if unset else None
        if info.exclude or (unset and value == default and (not value or isinstance(value, Settings))):
            continue
        plain[key] = _plain(value, dumped[key])
    return plain


def _plain(value: object, dumped: Any) -> Any:
    if isinstance(value, Settings):
        return _plain_block(value, dumped)
    if isinstance(value, Mapping):
        return {key: _plain(item, dumped[key]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, other) for item, other in zip(value, dumped, strict=True)]
    return dumped


def dump(value: Any, indent: int) -> str:
    """Return `value` as a YAML document in block style: keys in their order, lists indented.

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
"""Unusual line breaks of YAML 1.1, which are safe in double quotes only."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper without aliases and with indented lists."""

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
