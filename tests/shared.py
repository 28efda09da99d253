"""Find configurations outside the repository: examples, and a corpus of real ones with the original's verdicts.

They are in the directory ``PROBE_EXPORTER_SHARED``, by default ``../shared``. Tests that need it skip without it.
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
    """Return the files of a directory in order; none if the directory is missing."""
    return sorted(directory.glob(pattern))


def verdicts() -> dict[str, bool]:
    """Return whether the original accepts each file of the corpus, by its name."""
    table = CORPUS / "verdicts.tsv"
    lines = table.read_text().splitlines()[1:] if table.is_file() else []
    return {name: verdict == "accept" for name, verdict, *_ in (line.split("\t") for line in lines)}
