"""Replay the corpus of every fuzz target, and each input cut short and with a byte changed; atheris is not needed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.fuzz import differences
from tests.fuzz.__main__ import CORPUS
from tests.fuzz.targets import TARGETS

MUTATIONS = 30
"""How many changed inputs are made of each input; the same each time."""


def changed(data: bytes) -> Iterator[bytes]:
    """Yield variants of an input: cut short, with a byte changed, with a part repeated."""
    choose = random.Random(data)
    for _ in range(MUTATIONS if data else 0):
        place, other = choose.randrange(len(data)), choose.randrange(len(data))
        low, high = min(place, other), max(place, other)
        yield choose.choice(
            [
                data[:place],
                data[:place] + bytes([choose.randrange(256)]) + data[place + 1 :],
                data[:high] + data[low:high] + data[high:],
                data[:low] + data[high:],
            ]
        )


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_corpus_keeps_the_promises(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs, "a target needs a corpus to start from"
    for data in inputs:
        TARGETS[name](data)
        for variant in changed(data):
            TARGETS[name](variant)


def test_every_corpus_has_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


KNOWN = [
    *differences.KNOWN_H11, *differences.KNOWN_HTTPTOOLS, *differences.KNOWN_HPACK, *differences.KNOWN_DNS
]  # fmt: skip


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.why[:40])
def test_known_disagreement_has_a_reason(known: differences.Known) -> None:
    assert known.why.endswith(".")


def test_new_disagreement_fails() -> None:
    with pytest.raises(AssertionError, match="a new disagreement"):
        differences._judge(differences.KNOWN_H11, b"", differences.Verdict(200, b"a"), differences.Verdict(200, b"b"))
