"""Configuration files to one frozen `Config`.

The names are imported when they are first used: to load files takes YAML, to run a module does not.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probe_exporter.config.loading import KEPT, block_cautions, digest, load, validated
    from probe_exporter.config.module import Config, ConfigError, Module
    from probe_exporter.config.problems import Place, Problem
else:

    def __getattr__(name: str) -> Any:
        for file in ("problems", "module", "loading"):
            if name in _NAMES[file]:
                return getattr(import_module(f"{__name__}.{file}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    _NAMES = {
        "loading": ("KEPT", "block_cautions", "digest", "load", "validated"),
        "module": ("Config", "ConfigError", "Module"),
        "problems": ("Place", "Problem"),
    }

__all__ = [
    "KEPT",
    "Config",
    "ConfigError",
    "Module",
    "Place",
    "Problem",
    "block_cautions",
    "digest",
    "load",
    "validated",
]
