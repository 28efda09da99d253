"""What docs/modules/ says of the library's probers: nothing is left out, and its examples load."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from probe_exporter import config, loader
from probe_exporter.addressing import SourceSettings
from probe_exporter.measured import declared

PROBERS = loader.load_probers([])
LIBRARY = loader.library()
DOCS = Path(__file__).parents[2] / "docs/modules"
PAGES = sorted(page for page in DOCS.glob("*.md") if (LIBRARY / f"{page.stem}.py").exists())

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_a_page_names_all_that_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prober = PROBERS[page.stem]
    modules = config.load([LIBRARY / f"{page.stem}.yml"], PROBERS, strict=True).modules
    metrics = {metric.name for metric in declared(sys.modules[prober.probe.__module__])}
    settings = prober.settings.model_fields.keys() - SourceSettings.model_fields.keys()
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    named = {word for span in spans for word in re.findall(r"[a-z0-9_]+", span)}
    assert {*modules, *metrics, *settings, *prober.reasons} - named == set()


def test_the_examples_of_a_page_load(page: Path, tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        path = tmp_path / "modules.yml"
        path.write_text(example)
        config.load([path], PROBERS, strict=True)
