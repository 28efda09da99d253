"""Finished probes, kept for whoever debugs."""

from probe_exporter.history.memory import (
    MAX_BYTES,
    TOO_LARGE,
    History,
    HistoryError,
    MemoryHistory,
    Query,
    Recent,
    weight,
)

__all__ = [
    "MAX_BYTES",
    "TOO_LARGE",
    "History",
    "HistoryError",
    "MemoryHistory",
    "Query",
    "Recent",
    "weight",
]
