"""What strangers write as targets and host names takes little memory, however long it is and however many there are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from probe_exporter.addresses import endpoints, literals, spellings
from probe_exporter.addresses.host_names import to_ascii
from probe_exporter.cache import MAX_CACHE_BYTES
from probe_exporter.prober.failure import ProbeFailed
from tests.cost import costs_at_most
from tests.memory import growth

LONG = 64 * 1024


def host_and_port(text: str) -> object:
    return endpoints.host_and_port(text, 80)


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [
        literals.literal,
        literals.fingerprint,
        spellings.interpret,
        spellings.normal,
        endpoints.split_host_port,
        endpoints.port_number,
        host_and_port,
    ],
)
@pytest.mark.parametrize("pattern", ["{:x>65536}", "{:0>65536}", "{:x>65536}:80", "{:x>65536}.:x"])
def test_long_texts_take_bounded_memory(function: Callable[[str], object], pattern: str) -> None:
    with growth() as grown:
        for number in range(150):
            with suppress(ProbeFailed, ValueError):
                function(pattern.format(number))
    assert grown[0] < MAX_CACHE_BYTES + (1 << 20)


@pytest.mark.parametrize("text", ["\u00df" * 65536, "\u00ad" * 65536, "\ufdfa." * 30000])
def test_long_names_beyond_ascii_cost_nothing(text: str) -> None:
    with costs_at_most(1), pytest.raises(ValueError, match="more than 1024 characters"):
        to_ascii(text)
