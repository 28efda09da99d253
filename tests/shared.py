"""Finds the material that lies beside the repository: example configurations and those of real users, with verdicts.

It is looked for in the directory that ``PROBE_EXPORTER_SHARED`` names, else in ``../shared``, and read in place.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DIRECTORY = Path(os.environ.get("PROBE_EXPORTER_SHARED", Path(__file__).parents[2] / "shared"))

EXAMPLES = DIRECTORY / "examples-compat"
CORPUS = DIRECTORY / "corpus"

needed = pytest.mark.skipif(not DIRECTORY.is_dir(), reason=f"{DIRECTORY.name} does not lie beside the repository")


def files(directory: Path, pattern: str = "*.yml") -> list[Path]:
    """The files of a shared directory, in order; none where it is absent."""
    return sorted(directory.glob(pattern))


def verdicts() -> dict[str, bool]:
    """What the original says of each file of the corpus: whether it accepts it."""
    table = CORPUS / "verdicts.tsv"
    lines = table.read_text().splitlines()[1:] if table.is_file() else []
    return {name: verdict == "accept" for name, verdict, *_ in (line.split("\t") for line in lines)}
