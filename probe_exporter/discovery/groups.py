"""Write targets as Prometheus' HTTP service discovery reads them: one JSON object for each target, with its labels.

The labels make relabeling short. ``__param_target``, ``__param_module`` and ``instance`` are set, so that a scrape
configuration has to set only ``__address__``, to this exporter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MAX_TARGETS = 10_000
"""Targets of one source: more than one exporter probes in a usual scrape interval."""

MAX_BODY_BYTES = 16 << 20
"""Bytes of a response: 10,000 targets with 1.6 KB of labels each."""


class DiscoveryError(Exception):
    """The targets of a source can't be found; the message says why.

    Attributes:
        status: the HTTP status of the response; with any but 200, Prometheus keeps the targets that it has.
    """

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


def too_many_targets(source: str) -> DiscoveryError:
    """Return the error of a source with more than `MAX_TARGETS` targets."""
    return DiscoveryError(f'Source "{source}" has more than {MAX_TARGETS} targets: divide it', 500)


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Args:
        module: the value of the parameter ``module``.
        params: further parameters of the request.
        labels: labels of its series, and labels that begin with ``__meta_`` for relabeling.
    """

    target: str
    module: str
    params: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def group(self, source: str) -> dict[str, object]:
        """Return the target of a source as Prometheus reads it."""
        parameters = {**self.params, "target": self.target, "module": self.module}
        labels = {f"__param_{name}": value for name, value in parameters.items()}
        own = {"__meta_probe_source": source, "instance": self.target}
        return {"targets": [self.target], "labels": {**own, **labels, **self.labels}}


def encode(source: str, targets: Iterable[Target]) -> bytes:
    """Return the targets of a source as JSON.

    Raises:
        DiscoveryError: there are too many, or their labels are too long.
    """
    pieces, size = [], 2
    for target in targets:
        piece = json.dumps(target.group(source), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        pieces.append(piece)
        size += len(piece) + 1
        if len(pieces) > MAX_TARGETS:
            raise too_many_targets(source)
        if size > MAX_BODY_BYTES:
            raise DiscoveryError(
                f'Source "{source}" has more than {MAX_BODY_BYTES >> 20} MiB of labels: divide it', 500
            )
    return b"[" + b",".join(pieces) + b"]"
