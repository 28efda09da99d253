"""Test `probe-exporter modules` and `probers`, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from probe_exporter.plugins import loader
from tests.tools.test_new import tool
from tests.tools.test_run import MODULES, PROBER

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "quake.py").write_text(PROBER.replace('"quake", QuakeSettings, probe_quake', _MORE))
    (tmp_path / "quake.yml").write_text(MODULES)
    return tmp_path


_MORE = (
    '"quake", QuakeSettings, probe_quake, description="Feels the ``earth``.", '
    'reasons=(__import__("probe_exporter").OwnReason("quake_strong", "Too strong."),)'
)


def lines(directory: Path, *words: str) -> list[str]:
    done = tool(directory, *words, "--modules.dir=.")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_modules_prints_one_line_per_module(directory: Path) -> None:
    head, *rows = lines(directory, "modules")
    assert head.split() == ["MODULE", "PROBER", "DESCRIPTION"]
    column = head.index("DESCRIPTION")
    (web,) = [row for row in rows if row.startswith("http_2xx ")]
    assert web[head.index("PROBER") :].startswith("http ")
    assert web[column - 2 : column] == "  "
    assert web[column] != " "
    assert rows == sorted(rows)
    assert {row.split()[0] for row in rows} >= {"polite", "asking", "http_2xx", "icmp"}
    assert [row for row in rows if row != row.rstrip()] == []


def test_modules_shows_place_and_effective_settings_of_a_module(directory: Path) -> None:
    shown = lines(directory, "modules", "polite")
    assert shown[:15] == [
        "polite",
        "  defined at quake.yml:3:3",
        "",
        "  settings:",
        "    prober: quake",
        "    timeout: 30s",
        "    quake:",
        "      preferred_ip_protocol: ip6",
        "      ip_protocol_fallback: true",
        "      inner:",
        "        word: please",
        "        expect: ^fine",
        "        patience: 1s",
        "      tries: 1",
        "",
    ]
    assert shown[15] == "  metrics:"
    assert "probe_quake_bytes The length of the answer." in [" ".join(line.split()) for line in shown[16:]]


def test_probers_shows_settings_metrics_and_reasons_of_a_prober(directory: Path) -> None:
    shown = lines(directory, "probers", "quake")
    assert shown[:4] == ["quake", "  Feels the `earth`.", "  quake.py", ""]
    words = [" ".join(line.split()) for line in shown]
    assert "inner.word a string, by default hello" in words
    assert "inner.patience a duration such as 1.5s, by default 1s" in words
    assert "tries an integer, by default 1" in words
    assert "password a string" in words
    assert "probe_quake_bytes The length of the answer." in words
    assert "quake_strong Too strong." in words


def test_probers_shows_every_shipped_prober(directory: Path) -> None:
    names = sorted(loader.find_probers([])[0])
    shown = lines(directory, "probers", *names)
    assert [line for line in shown if line in names] == names


def test_names_are_printed_alone_for_scripts(directory: Path) -> None:
    names = lines(directory, "modules", "--names")
    assert names == sorted(names)
    assert {"polite", "asking", "http_2xx"} <= set(names)
    assert {"quake", "http"} <= set(lines(directory, "probers", "--names"))


def test_json_output_is_complete(directory: Path) -> None:
    probers = {one["name"]: one for one in json.loads("\n".join(lines(directory, "probers", "--json")))}
    assert {"http", "tcp", "quake"} <= probers.keys()
    assert probers["quake"]["reasons"] == [{"name": "quake_strong", "meaning": "Too strong."}]
    assert probers["quake"]["settings"]["properties"]["tries"]
    (module,) = json.loads("\n".join(lines(directory, "modules", "asking", "--json")))
    assert (module["prober"], module["parameters"][0]["default"]) == ("quake", "tea")
    assert module["settings"]["inner"]["expect"] == "^fine"
    assert "probe_quake_bytes" in module["metrics"]
    assert module["series"]["failed"] > module["series"]["tls"] > module["series"]["plain"] > 3


def test_listing_exits_with_2_for_unknown_names_and_broken_files(directory: Path) -> None:
    done = tool(directory, "probers", "htp")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown prober `htp`; did you mean `http`?" in done.stderr
    done = tool(directory, "modules", "icmp", "redis", "http")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown module `http`: it is a prober, and modules that use it are http_2xx, " in done.stderr
    (directory / "quake.py").write_text("1 / 0")
    done = tool(directory, "modules", "--modules.dir=.")
    assert (done.returncode, done.stdout) == (2, "")
    assert "quake.py can't be loaded: ZeroDivisionError: division by zero (line 1)" in done.stderr
