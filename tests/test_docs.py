"""Tests of the documentation: generated pages, links and commands match the code."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from docs import reference_pages
from docs.key_examples import EXAMPLES
from probe_exporter.config import loading
from probe_exporter.config.schema import json_schema
from probe_exporter.config.series import series_of
from probe_exporter.flags import Flags
from probe_exporter.plugins.loader import load_probers
from probe_exporter.web.config_file import load as load_web_config
from tests.exporters import _environment, ours, peer, run_ours
from tests.programs import find
from tests.targets import Pki

ROOT = Path(__file__).parents[1]
TEXT = {".py", ".toml", ".txt", ".md", ".yml", ".sh"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def generator() -> ModuleType:
    """docs/generate.py, which is a script and in no package."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", generator().PAGES)
def test_generated_pages_are_up_to_date(name: str) -> None:
    """If this fails, run `make docs` and review the diff."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == generator().PAGES[name]()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(document: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not link.startswith(("http://", "https://")):
            assert (document.parent / link).exists(), f"{document.name} links to {link}"


def test_files_name_no_registry_or_local_path() -> None:
    """Mirrors and home directories differ from machine to machine."""
    forbidden = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|deb\.debian\.org|/root/|/home/\w+/")
    for path in ROOT.glob("**/*"):
        parts = path.relative_to(ROOT).parts
        if path.suffix in TEXT and not parts[0].startswith((".git", ".venv")):
            found = forbidden.findall(path.read_text(encoding="utf-8", errors="replace"))
            assert not found or path == Path(__file__), f"{path.relative_to(ROOT)} names {found}"


def test_flags_in_documents_exist() -> None:
    """Of the exporter itself: their names have dots."""
    files = [*DOCUMENTS, *ROOT.glob("modules/*.yml"), *filter(Path.is_file, ROOT.glob("examples/*"))]
    named = {
        flag for file in files for flag in re.findall(r"--([a-z]+\.[a-z.-]*[a-z])", file.read_text(encoding="utf-8"))
    }
    assert named
    assert {re.sub("[.-]", "_", flag) for flag in named} <= Flags.__annotations__.keys()


README = (ROOT / "README.md").read_text(encoding="utf-8")


def yaml_blocks(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "how-to" / page).read_text(encoding="utf-8"), re.DOTALL)


CONFIGURATIONS = [
    (page.name, text)
    for page in sorted(ROOT.glob("docs/how-to/*.md"))
    for text in yaml_blocks(page.name)
    if re.search("^modules:", text, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "text"), CONFIGURATIONS, ids=[page for page, _ in CONFIGURATIONS])
def test_configurations_in_how_to_pages_load(page: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / "modules.yml"
    file.write_text(text, encoding="utf-8")
    assert loading.load([file], load_probers([]), strict=True).modules, page


@pytest.mark.parametrize("block", EXAMPLES)
def test_examples_of_keys_load(block: str, tmp_path: Path) -> None:
    file = tmp_path / "modules.yml"
    file.write_text(EXAMPLES[block], encoding="utf-8")
    assert loading.load([file], load_probers([]), strict=False).modules


def test_reference_says_since_when_a_key_exists() -> None:
    """If this fails, add the key and the version to `NEW` in docs/reference_pages.py."""
    first = json.loads((ROOT / "tests" / "golden" / "keys-0.1.0.json").read_text(encoding="utf-8"))
    schema = json_schema(load_probers([]))
    for block, value in {"File": schema, **schema["$defs"]}.items():
        if block in first:
            added = value["properties"].keys() - set(first[block].split())
            assert added == {
                key for key in value["properties"] if {(block, key), ("", key)} & reference_pages.NEW.keys()
            }


def test_keys_whose_form_is_not_obvious_have_an_example() -> None:
    """Lists, mappings, durations and sizes are in the example of their block; `cert` and such are PEM texts."""
    schema = json_schema(load_probers([]))
    assert EXAMPLES.keys() == {"File", *schema["$defs"]}
    missing = {
        f"{block}.{key}"
        for block, value in {"File": schema, **schema["$defs"]}.items()
        for key, form in value["properties"].items()
        if re.search(r'"(array|object)"|\(ns\||KB', json.dumps(form)) and not form.get("deprecated")
        if not re.search(rf"\b{key}:", EXAMPLES[block])
    }
    assert missing == set()


HOW_TO = {page.name: page.read_text(encoding="utf-8") for page in ROOT.glob("docs/how-to/*.md")}


def test_modules_of_how_to_pages_are_shipped() -> None:
    """In commands, and in the table of protocols, which has each prober that needs no settings of its own."""
    shipped = loading.load([*ROOT.glob("modules/*.yml")], load_probers([])).modules
    run = {name for text in HOW_TO.values() for name in re.findall(r"probe-exporter run ([a-z_0-9]+) \S", text)}
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \|", HOW_TO["probe.md"], re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert run
    assert run | listed <= shipped.keys()
    assert {shipped[name].prober.name for name in listed} == load_probers([]).keys() - {"udp", "unix"}


def test_page_about_certificates_lists_the_probers_that_have_its_keys() -> None:
    [listed] = re.findall(r"\(((?:`\w+`(?:,\s)?)+)\),\nbeside `tls_config`", HOW_TO["certificates.md"])
    probers = load_probers([]).items()
    having = {name for name, prober in probers if "check_revoked" in prober.settings.model_fields}
    assert set(re.findall(r"`(\w+)`", listed)) == having


def test_metrics_of_how_to_pages_exist() -> None:
    documented = set(
        re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    queries = [query for text in HOW_TO.values() for query in re.findall(r"```promql\n(.*?)```", text, re.DOTALL)]
    names = {name for query in queries for name in re.findall(r"\b(?:probe|blackbox)_\w+", query)}
    assert names
    assert names <= documented


def test_page_about_scale_has_the_series_of_a_module() -> None:
    page = (ROOT / "docs" / "how-to" / "scale.md").read_text(encoding="utf-8")
    [written] = re.findall(r'"series": (\{.*\})', page)
    module = loading.load([ROOT / "modules" / "blackbox.yml"], load_probers([])).modules["http_2xx"]
    assert json.loads(written) == series_of(module).model_dump()


def test_web_configuration_in_how_to_page_loads(pki: Pki, tmp_path: Path) -> None:
    for name, original in (
        ("exporter.pem", "leaf.pem"),
        ("exporter.key", "leaf.key"),
        ("prometheus-ca.pem", "root.pem"),
    ):
        shutil.copy(pki.directory / original, tmp_path / name)
    (text,) = yaml_blocks("tls-and-passwords.md")
    hashed = "$2b$04$gNbqzOh2tvx540RVVXPHA.8UBBwtTBXx1veLfxlB0UjWA1k6pq8wa"  # of the password x
    (tmp_path / "web.yml").write_text(text.replace("$2y$10$…", hashed), encoding="utf-8")
    load_web_config(tmp_path / "web.yml")


@pytest.mark.slow
def test_scrape_configuration_of_readme_is_accepted_by_promtool(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    command = [peer("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_readme_request_gives_shown_output(tmp_path: Path) -> None:
    """The curl of the README's first screen gives the shown lines, apart from durations."""
    ((path, lines),) = re.findall(r"\$ curl -s 'localhost:9115(\S+)' \| grep -v '\^#'\n([^$]*?)```", README)
    with ours(tmp_path) as exporter:
        answer = (await exporter.get(path.replace("9115", str(exporter.port)))).text.splitlines()
    kept = [line for line in answer if not line.startswith("#")]
    assert [without_time(line) for line in kept] == [without_time(line) for line in lines.splitlines()]


@pytest.mark.slow
def test_readme_command_gives_shown_output(tmp_path: Path) -> None:
    """The command of the README's first screen gives the shown lines, apart from durations and the bars of phases."""
    ((words, shown),) = re.findall(r"\$ probe-exporter (run [^\n]*)\n(.*?)```", README, re.DOTALL)
    done = run_ours(tmp_path, *words.split(), "--output=text", COLUMNS="100")
    assert without_durations(done.stdout) == without_durations(shown)


@pytest.mark.slow
def test_screenshot_can_be_taken_anew(tmp_path: Path) -> None:
    find("chromium")
    command = [sys.executable, str(ROOT / "docs" / "screenshots.py"), str(tmp_path)]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    image = (tmp_path / "overview.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert 10_000 < len(image) < 100_000


def without_durations(text: str) -> list[str]:
    """Return the lines with durations and bars of any size alike; a pipe may have no ✗ and no █."""
    lines = [re.sub(r"[\d.]+ [mµ]?s\b[ █#]*", "… ", line) for line in text.strip().splitlines()]
    return [" ".join(line.split()) for line in lines]


def without_time(line: str) -> str:
    """Replace the value of a seconds sample, unless it is a whole number."""
    return re.sub(r"(?<=[s}] )\d\.\d+(e-\d+)?$", "…", line) if "_seconds" in line else line
