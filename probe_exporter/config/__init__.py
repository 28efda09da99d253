"""Configuration files to one frozen `Config`."""

from probe_exporter.config.loading import (
    KEPT,
    Config,
    ConfigError,
    Module,
    Place,
    Problem,
    block_cautions,
    digest,
    load,
    validated,
)

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
