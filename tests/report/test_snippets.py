"""Tests of the texts to copy: shells and YAML readers get exactly the target, module and parameters."""

from __future__ import annotations

import shlex
import subprocess
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from probe_exporter.report.snippets import command, curl, scrape_config, snippets
from tests.exporters import peer

HOSTILE = [
    "https://example.org/a b?c=d&e=f#g",
    "it's; rm -rf / $(id) `id` \\",
    "-x",
    "a\nb\x1b[31mc\x7f",
    "ünïcode ☃",
    "\udcff",
    "{a: b}",
    "yes",
]


def from_shell(text: str) -> list[bytes]:
    """Return the words that bash makes of a command, without its first word."""
    program = f"set -- {text}; shift; printf '%s\\0' \"$@\""
    done = subprocess.run(["bash", "-c", program], capture_output=True, check=True, timeout=600)
    return done.stdout.split(b"\0")[:-1]


def as_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("target", HOSTILE)
def test_command_reaches_the_program_as_it_is(target: str) -> None:
    text = command("http_2xx", target, {"tenant": target}, ["--config.file", "my file.yml"])
    assert text.isprintable()
    words = from_shell(text)
    assert words[:5] == [b"run", b"--config.file", b"my file.yml", b"--param", as_bytes(f"tenant={target}")]
    assert words[-2:] == [b"http_2xx", as_bytes(target)]
    assert (b"--" in words) == target.startswith("-")


@pytest.mark.parametrize("target", HOSTILE)
def test_curl_asks_for_the_target(target: str) -> None:
    text = curl("m&m", target, {"hostname": "h"}, "https://probes.example/prefix/")
    assert text.isprintable()
    url = urlsplit(shlex.split(text)[-1])
    assert (url.scheme, url.netloc, url.path) == ("https", "probes.example", "/prefix/probe")
    given = parse_qs(url.query, keep_blank_values=True, errors="surrogateescape")
    assert given == {"module": ["m&m"], "target": [target], "hostname": ["h"], "debug": ["true"]}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_scrape_config_is_yaml_with_the_target(target: str, value: str) -> None:
    job = yaml.safe_load(scrape_config("mod", [target], {"p": value}))["scrape_configs"][0]
    assert job["static_configs"] == [{"targets": [target]}]
    assert job["params"] == {"module": ["mod"], "p": [value]}


def test_scrape_config_relabels_the_target() -> None:
    job = yaml.safe_load(scrape_config("mod", ["a", "b"], {}, exporter="https://probes.example:1/prefix/"))
    assert job == {
        "scrape_configs": [
            {
                "job_name": "probe_mod",
                "metrics_path": "/prefix/probe",
                "scheme": "https",
                "params": {"module": ["mod"]},
                "static_configs": [{"targets": ["a", "b"]}],
                "relabel_configs": [
                    {"source_labels": ["__address__"], "target_label": "__param_target"},
                    {"source_labels": ["__param_target"], "target_label": "instance"},
                    {"target_label": "__address__", "replacement": "probes.example:1"},
                ],
            }
        ]
    }


@pytest.mark.parametrize(
    ("timeout", "expected"), [(0.0, None), (9.5, None), (9.6, ("60s", "11s")), (90.0, ("91s", "91s"))]
)
def test_scrape_config_waits_as_long_as_the_module(timeout: float, expected: tuple[str, str] | None) -> None:
    job = yaml.safe_load(scrape_config("mod", ["a"], {}, timeout=timeout))["scrape_configs"][0]
    found = (job["scrape_interval"], job["scrape_timeout"]) if "scrape_timeout" in job else None
    assert found == expected


def test_prometheus_accepts_the_scrape_config(tmp_path: object) -> None:
    promtool = peer("promtool")
    text = scrape_config("mod", [target for target in HOSTILE if target != "\udcff"], {"p": "a: b"}, timeout=30)
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", "/dev/stdin"], input=text, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_snippets_are_of_one_probe() -> None:
    made = snippets("mod", "t", {"hostname": "h"}, exporter="http://e/")
    assert made.curl == "curl -sS 'http://e/probe?module=mod&hostname=h&debug=true&target=t'"
    assert made.command == "probe-exporter run --param hostname=h mod t"
    assert yaml.safe_load(made.scrape_config)["scrape_configs"][0]["params"] == {"module": ["mod"], "hostname": ["h"]}
