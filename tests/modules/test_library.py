"""The module library is complete: each prober has shipped modules, tests, and a page that names everything."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from probe_exporter.config import loading
from probe_exporter.network.settings import SourceSettings
from probe_exporter.plugins import loader
from probe_exporter.plugins.inventory import declared
from probe_exporter.prober.failure import Reason
from probe_exporter.tls.settings import CertificateSettings
from tests.modules.library import PROBERS

LIBRARY = loader.library()
DOCS = Path(__file__).parents[2] / "docs/modules"
CERTIFICATE_KEYS = {*CertificateSettings.model_fields}
NAMES = sorted(path.stem for path in LIBRARY.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_prober_has_a_page_and_tests(name: str) -> None:
    assert (DOCS / f"{name}.md").exists()
    assert (Path(__file__).parent / f"test_{name}.py").exists()


@pytest.mark.parametrize("name", NAMES)
def test_prober_has_shipped_modules(name: str) -> None:
    modules = loading.load([LIBRARY / f"{name}.yml"], PROBERS, strict=True).modules
    assert name in modules
    for module in modules.values():
        assert module.prober.name == name
        assert 10 < len(module.description) < 120


def test_module_names_are_unique_across_files() -> None:
    """The loader refuses duplicates; here it loads all files at once."""
    assert len(loading.load(sorted(LIBRARY.glob("*.yml")), PROBERS, strict=True).modules) > len(NAMES)


PAGES = sorted(DOCS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_examples_load(page: Path, tmp_path: Path) -> None:
    examples = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert examples or page.stem not in NAMES
    for example in examples:
        (tmp_path / "modules.yml").write_text(example, encoding="utf-8")
        assert loading.load([tmp_path / "modules.yml"], PROBERS, strict=True).modules


@pytest.mark.parametrize("name", NAMES)
def test_page_names_all_metrics_settings_reasons_and_modules(name: str) -> None:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    prober = PROBERS[name]
    modules = loading.load([LIBRARY / f"{name}.yml"], PROBERS, strict=True).modules
    metrics = {metric.name for metric in declared(sys.modules[prober.probe.__module__])}
    settings = prober.settings.model_fields.keys() - SourceSettings.model_fields.keys() - CERTIFICATE_KEYS
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    named = {word for span in spans for word in re.findall(r"[a-z0-9_]+", span)}
    assert {*modules, *metrics, *settings, *prober.reasons} - named == set()


def test_page_about_certificates_names_all_keys_that_probers_with_tls_share() -> None:
    text = (DOCS.parent / "how-to" / "certificates.md").read_text(encoding="utf-8")
    assert {key for key in CERTIFICATE_KEYS if f"`{key}`" in text or f"`{key}: " in text} == CERTIFICATE_KEYS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_names_only_what_exists(page: Path) -> None:
    modules = loading.load([LIBRARY / f"{page.stem}.yml"], PROBERS).modules
    (prober,) = {module.prober.name: module.prober for module in modules.values()}.values()
    text = page.read_text(encoding="utf-8")
    metrics = {metric.name for metric in declared(sys.modules[prober.probe.__module__])}
    assert set(re.findall(rf"\bprobe_{page.stem}_\w+", text)) <= metrics
    assert first_column(text, "Settings") <= set(prober.settings.model_fields)
    assert first_column(text, "Metrics") <= metrics
    assert first_column(text, "Reasons") <= {*prober.reasons, *(reason.value for reason in Reason)}
    assert first_column(text, "Modules") <= set(modules)


def first_column(text: str, heading: str) -> set[str]:
    """Return the code in the first column of the tables under a heading."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"no section {heading}"
    rows = [row.split("|")[1] for row in section[1].splitlines() if row.startswith("|")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}
