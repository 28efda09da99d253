"""Test `probe-exporter prometheus-config`: promtool accepts its output, and Prometheus scrapes what it should."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from tests import exporters
from tests.exporters import peer
from tests.tools.test_new import tool_here
from tests.waiting import eventually

pytestmark = pytest.mark.slow

TARGETS = """\
# web
https://a.example/x?y=z&u#top
icmp 10.0.0.1  # the router
http_2xx 2001:db8::1
probe-exporter yes
"""


class Writer:
    """Runs the tool in a directory."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._fixtures = (monkeypatch, capsys)

    def run(self, *words: str) -> tuple[int, str, str]:
        return tool_here(self.directory, *self._fixtures, "prometheus-config", "--targets=targets.txt", *words)

    def write(self, *words: str) -> str:
        code, out, errors = self.run("--module=http_2xx", *words)
        assert (code, errors) == (0, "")
        return out


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Writer:
    (tmp_path / "targets.txt").write_text(TARGETS)
    return Writer(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--exporter=[::1]:9115"],
        ["--shards=3", "--exporter=probe-{shard}.example:9115"],
        ["--shards=2", "--exporter=a:1", "--exporter=b:2"],
        ["--shards=3", "--shard=2"],
        ["--shards=1", "--shard=0"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_the_configuration(writer: Writer, words: list[str]) -> None:
    (writer.directory / "prometheus.yml").write_text(writer.write(*words))
    command = [peer("promtool"), "check", "config", "prometheus.yml"]
    done = subprocess.run(command, cwd=writer.directory, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_module_has_a_job_with_its_targets(writer: Writer) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(writer.write())["scrape_configs"]}
    assert [*jobs] == ["probe_http_2xx", "probe_icmp", "probe_probe-exporter", "probe-exporter"]
    assert jobs["probe_http_2xx"]["static_configs"] == [{"targets": ["https://a.example/x?y=z&u#top", "2001:db8::1"]}]
    assert jobs["probe_icmp"]["params"] == {"module": ["icmp"]}
    assert jobs["probe_probe-exporter"]["static_configs"] == [{"targets": ["yes"]}]
    assert jobs["probe-exporter"]["static_configs"] == [{"targets": ["127.0.0.1:9115"]}]


def test_timeout_of_a_module_of_the_configuration_lets_prometheus_wait(writer: Writer) -> None:
    (writer.directory / "own.yml").write_text(
        "modules: {http_2xx: {prober: http, timeout: 20s}, icmp: {prober: icmp}, probe-exporter: {prober: tcp}}"
    )
    jobs = {job["job_name"]: job for job in yaml.safe_load(writer.write("--config.file=own.yml"))["scrape_configs"]}
    assert jobs["probe_http_2xx"]["scrape_timeout"] == "21s"
    assert "scrape_timeout" not in jobs["probe_icmp"]


async def scraped(directory: Path, text: str) -> list[tuple[str, str]]:
    """Return exporter and probed target of all probes that a Prometheus scrapes."""
    (directory / "prometheus.yml").write_text(text)
    listed = sum(
        len(group["targets"]) for job in yaml.safe_load(text)["scrape_configs"] for group in job["static_configs"]
    )
    with exporters.prometheus(directory, "--config.file=prometheus.yml") as prometheus:
        found = await eventually(
            lambda: targets_of(prometheus), lambda all: len(all["activeTargets"]) + len(all["droppedTargets"]) == listed
        )
    urls = [urlsplit(target["scrapeUrl"]) for target in found["activeTargets"]]
    return [(url.netloc, parse_qs(url.query)["target"][0]) for url in urls if url.path == "/probe"]


async def targets_of(prometheus: exporters.Server) -> dict[str, list[dict[str, Any]]]:
    response = await prometheus.get("/api/v1/targets")
    data: dict[str, list[dict[str, Any]]] = {"activeTargets": [], "droppedTargets": []}
    return data | json.loads(response.text)["data"] if response.status == 200 else data


MANY = [f"http://127.0.0.1/{number}" for number in range(40)]


async def test_prometheus_divides_the_targets_among_the_exporters(writer: Writer) -> None:
    (writer.directory / "targets.txt").write_text("\n".join(MANY))
    text = writer.write("--shards=2", "--exporter=127.0.0.1:1", "--exporter=127.0.0.1:2")
    found = await scraped(writer.directory, text)
    assert sorted(target for _, target in found) == sorted(MANY)
    assert {address for address, _ in found} == {"127.0.0.1:1", "127.0.0.1:2"}


async def test_each_of_several_prometheis_scrapes_its_own_targets(writer: Writer) -> None:
    (writer.directory / "targets.txt").write_text("\n".join(MANY))
    halves = []
    for shard in ("0", "1"):
        text = writer.write("--shards=2", f"--shard={shard}", "--exporter=127.0.0.1:1")
        halves.append([target for _, target in await scraped(writer.directory, text)])
    assert all(halves)
    assert sorted([*halves[0], *halves[1]]) == sorted(MANY)


REFUSED = {
    (): "targets.txt:2: no module",
    ("--module=x", "--shards=2"): "1 exporters for 2 shards: give --exporter 2 times, or once with {shard}, as in",
    ("--module=x", "--exporter=a:1", "--exporter=b:2"): "2 exporters: to divide the targets among them add --shards 2",
    ("--module=x", "--shards=2", "--shard=2"): "--shard 2: the shards are 0 to 1 (--shards 2)",
    ("--module=x", "--exporter=http://a:1"): "--exporter http://a:1: expected HOST:PORT, such as 127.0.0.1:9115",
    ("--module=x", "--exporter=a"): "--exporter a: expected HOST:PORT",
    ("--module=htp_2xx", "--config.file=own.yml"): "unknown module `htp_2xx`; did you mean `http_2xx`?",
    ("--module=x", "--shards=0"): "expected 1 or more",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_unusable_arguments_exit_with_2_and_say_what_to_do(writer: Writer, words: tuple[str, ...]) -> None:
    (writer.directory / "own.yml").write_text("modules: {http_2xx: {prober: http}}")
    code, out, errors = writer.run(*words)
    assert (code, out) == (2, "")
    assert REFUSED[words] in errors
