"""Encode samples and families in the negotiated exposition format, for /probe and /metrics.

Families are sorted by name and samples by label, so that the same samples are always the same bytes. `encode` is the
fast path for a probe's `Samples`; `encode_families` encodes any family of prometheus_client.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from prometheus_client.metrics_core import Metric as Family

from probe_exporter.exposition import protobuf_format, text_format
from probe_exporter.exposition.formats import TEXT, Format
from probe_exporter.prober.metrics import Samples

log = logging.getLogger(__name__)

Blocks = Iterator[tuple[str, bytes]]


class Encoder(NamedTuple):
    """The functions of one encoding: for all samples of a run, and for the families of prometheus_client, as blocks."""

    samples: Callable[[Samples, Format], bytes]
    blocks: Callable[[Iterable[Family], Format], Blocks]
    end: bytes = b""

    def with_registry(self, samples: Samples, format: Format) -> bytes:
        """Encode all samples of a run, and the families of its registry."""
        blocks = dict(_without_duplicates(self.blocks(samples.collect(), format)))
        return b"".join([blocks[name] for name in sorted(blocks)]) + self.end


_ENCODERS = {
    "text": Encoder(text_format.text, text_format.blocks),
    "openmetrics": Encoder(text_format.text, text_format.blocks, text_format.END_OF_OPENMETRICS),
    "protobuf": Encoder(protobuf_format.delimited, protobuf_format.delimited_blocks),
    "protobuf-text": Encoder(protobuf_format.text, protobuf_format.text_blocks),
    "protobuf-compact": Encoder(protobuf_format.compact, protobuf_format.compact_blocks),
}


def encode(samples: Samples, format: Format = TEXT) -> bytes:
    """Encode one probe's samples, and the families in its `Probe.registry`, in `format`."""
    encoder = _ENCODERS[format.encoding]
    write = encoder.with_registry if samples.has_registry else encoder.samples
    try:
        return write(samples, format)
    except (OverflowError, struct.error):  # an int beyond the range of float, such as a size that a peer sent
        return write(samples.as_floats(), format)


def encode_families(families: Iterable[Family], format: Format = TEXT) -> bytes:
    """Encode prometheus_client's families in `format`: ``encode_families(registry.collect(), …)``."""
    encoder = _ENCODERS[format.encoding]
    return b"".join([block for _, block in sorted(encoder.blocks(families, format))]) + encoder.end


def _without_duplicates(blocks: Blocks) -> Blocks:
    """Yield the first block of each name, since a name must not appear twice; the exporter's own come first."""
    seen = set()
    for name, block in blocks:
        if name in seen:
            _warn_of_duplicate(name)
        else:
            seen.add(name)
            yield name, block


@lru_cache(maxsize=1024)  # once per name, not per probe
def _warn_of_duplicate(name: str) -> None:
    log.warning(
        "A prober's registry holds a metric that the probe reports too: the registry's is left out",
        extra={"fields": {"metric": name}},
    )
