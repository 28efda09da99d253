"""A `Config` as YAML again: what is in effect, with its defaults filled in and its secrets masked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from probe_exporter.config import yaml_text
from probe_exporter.config.module import Config, Module
from probe_exporter.prober import Settings
from probe_exporter.quantities import format_duration


def to_yaml(config: Config) -> str:
    """The configuration in effect: defaults filled in, secrets masked, modules by name."""
    modules = {name: plain_module(config.modules[name]) for name in sorted(config.modules)}
    of_all = {} if config.targets is None else {"targets": _plain_block(config.targets, config.targets.model_dump())}
    return yaml_text.dump({**of_all, "modules": modules}, indent=4)


def modules_to_yaml(modules: Sequence[Module]) -> str:
    """Some modules in effect, as a configuration of nothing else."""
    return yaml_text.dump({"modules": {module.name: plain_module(module) for module in modules}}, indent=4)


def module_to_yaml(module: Module) -> str:
    """One module in effect: defaults filled in, secrets masked."""
    return yaml_text.dump(plain_module(module), indent=2)


def plain_module(module: Module) -> dict[str, Any]:
    """What `module_to_yaml` writes, as plain values."""
    plain: dict[str, Any] = {"prober": module.prober.name}
    if module.timeout:
        plain["timeout"] = format_duration(module.timeout)
    if module.description:
        plain["description"] = module.description
    if module.parameters:
        plain["params"] = _plain(module.parameters, {name: p.model_dump() for name, p in module.parameters.items()})
    plain |= _plain_block(module.networking, module.networking.model_dump())
    for name, block in {module.prober.name: module.settings, **module.strays}.items():
        plain[name] = _plain_block(block, block.model_dump(by_alias=True))
    return plain


def _plain_block(block: Settings, dumped: Mapping[str, Any]) -> dict[str, Any]:
    """What `dumped` says of a block, without the keys that are unset and stand for nothing."""
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
