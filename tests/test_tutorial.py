"""Tests of docs/writing-a-prober.md: its files are run and its commands give the shown output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import probe_exporter
from probe_exporter.config import loading
from probe_exporter.testing import Server, expect, load_prober, run_prober, serve, serve_udp, start_tls
from tests.deadlines import timed_out
from tests.exporters import ROOT, _environment, ours
from tests.test_api import imported
from tests.waiting import PATIENCE, wait_until

TEXT = (ROOT / "docs" / "writing-a-prober.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
SESSIONS = re.findall(r"^```console\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
PROBERS = [name for name in FILES if name.endswith(".py") and not name.startswith("test_")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the tutorial's files."""
    directory = tmp_path_factory.mktemp("tutorial")
    for name, text in FILES.items():
        (directory / name).write_text(text, encoding="utf-8")
    return directory


def test_tutorial_has_expected_files() -> None:
    assert [*FILES] == ["teapot.py", "teapot.yml", "test_teapot.py", "mailroom.py", "kettle.py", "pyproject.toml"]


def test_tutorial_first_prober_has_less_than_40_lines() -> None:
    assert len([line for line in FILES["teapot.py"].splitlines() if line]) < 40


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".py")])
def test_tutorial_imports_only_the_api(name: str) -> None:
    assert set(imported(FILES[name])) <= {"probe_exporter", "probe_exporter.testing"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        ["ruff", "check", "--config"],
        ["ruff", "format", "--check", "--config"],
        ["mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache" / "others"), "--config-file"],
    ],
    ids=["ruff", "format", "mypy"],
)
def test_tutorial_code_passes_lint(written: Path, check: list[str]) -> None:
    files = [name for name in FILES if name.endswith(".py")]
    done = python(written, "-m", *check, os.devnull if "mypy" in check else str(ROOT / "pyproject.toml"), *files)
    assert done.returncode == 0, done.stdout + done.stderr


def python(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = _environment()
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=600)


TYPED = {
    "probe-exporter": ["-m", "probe_exporter"],
    "python -m pytest": ["-m", "pytest", "-p", "probe_exporter.testing", "-p", "no:cacheprovider"],
}


@pytest.mark.slow
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.split("\n")[0])
def test_tutorial_commands_give_shown_output(written: Path, session: str) -> None:
    """Durations, log lines and lines under an ellipsis are not compared."""
    for command, answer in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
        program = next(name for name in TYPED if command.startswith(f"{name} "))
        done = python(written, *TYPED[program], *command.removeprefix(program).split())
        lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("time=")]
        typed = [timeless(line) for line in lines]
        shown = [timeless(line) for line in answer.splitlines()]
        if "…" not in shown:
            assert typed == shown
        pattern = "".join([r"(?:.*\n)*" if line == "…" else re.escape(line) + r"\n" for line in shown])
        assert re.fullmatch(pattern, "".join([f"{line}\n" for line in typed])), typed


def timeless(line: str) -> str:
    return re.sub(r"(_seconds(?:\{.*\})?|passed in) \d+\.?\d*(?:e-\d+)?s?$", r"\1 …", line)


# --- the probers -------------------------------------------------------------------------------------------


async def test_tutorial_prober_works_in_exporter(written: Path, tmp_path: Path) -> None:
    """The exporter loads the prober from its directory, with modules, reason and metrics."""
    with (
        ours(tmp_path, f"--modules.dir={written}") as exporter,
        serve(expect(b"TEA?\r\n"), b"TEA 93.5 0\r\n") as teapot,
    ):
        answer = await exporter.probe("tea", str(teapot))
        metadata = json.loads((await exporter.get("/metadata")).text)
    assert "\nprobe_teapot_temperature_celsius 93.5\n" in answer.text
    assert '\nprobe_failure_info{phase="",reason="teapot_empty"} 1\n' in answer.text
    (prober,) = [prober for prober in metadata["probers"] if prober["name"] == "teapot"]
    assert prober["description"] == "Asks a teapot how hot it is, and how full."
    assert prober["reasons"] == [{"name": "teapot_empty", "meaning": "There is no tea left."}]
    assert {"probe_teapot_cups", "probe_teapot_temperature_celsius"} <= {metric["name"] for metric in prober["metrics"]}
    assert {"tea", "tea_for_babies"} <= {module["name"] for module in metadata["modules"]}


MAILROOM = {"username": "me", "password": "hush"}


def mailroom(*more: object) -> Server:
    return serve(b"220 post.example hello\r\n", *more)  # type: ignore[arg-type]  # turns


def test_tutorial_mailroom_logs_in_over_tls(written: Path) -> None:
    prober = load_prober(written / "mailroom.py")
    tls = (expect(b"STARTTLS\n"), b"220 go on\r\n", start_tls())
    with mailroom(*tls, expect(b"LOGIN me hush\n"), b"235 welcome\r\n") as target:
        result = run_prober(prober, target, {**MAILROOM, "tls_config": target.tls_config})
    assert result.success, result.message
    assert result.metrics == {'probe_mailroom_server_info{name="post.example"}': 1}
    assert 'probe_mailroom_duration_seconds{phase="tls"}' in result.all_metrics
    with mailroom(*tls) as target:
        assert run_prober(prober, target, {**MAILROOM}).reason == "certificate_unknown_authority"
    with mailroom(expect(b"LOGIN me hush\n"), b"535 no\r\n") as target:
        assert run_prober(prober, target, {**MAILROOM, "starttls": False}).reason == "dialogue_no_match"


def test_tutorial_mailroom_rules_and_cautions_apply(written: Path, tmp_path: Path) -> None:
    prober = load_prober(written / "mailroom.py")
    with pytest.raises(ValueError, match="settings username: a username needs a `password`"):
        run_prober(prober, "127.0.0.1:1", {"username": "me"})
    file = tmp_path / "m.yml"
    file.write_text("modules: {m: {prober: mailroom, mailroom: {username: me, password: x, starttls: no}}}")
    (warning,) = loading.load([file], {"mailroom": prober}).warnings
    assert str(warning).endswith("modules.m.mailroom.starttls: sends the password in clear")


def test_tutorial_kettle_retries_until_answer(written: Path) -> None:
    prober = load_prober(written / "kettle.py")
    asked: list[bytes] = []

    def answer(query: bytes) -> list[bytes]:
        asked.append(query)
        return [b"1"] if len(asked) >= 3 else []

    with serve_udp(answer) as kettle:
        result = run_prober(prober, kettle, {"again": "100ms"}, timeout=PATIENCE)
        tries = result.metrics["probe_kettle_tries"]
        wait_until(lambda: len(asked) == tries)
    assert tries >= 3, "it may have asked once more before it has read the answer"
    assert result.metrics == {"probe_kettle_tries": tries, "probe_kettle_boiling": 1}
    with serve_udp(lambda query: []) as kettle:
        silent = timed_out(
            lambda seconds: run_prober(prober, kettle, {"again": "100ms"}, timeout=seconds),
            lambda silent: silent.metrics.get("probe_kettle_tries", 0) > 1,
            [0.25, 3.0, 12.0],
        )
    assert (silent.reason, silent.phase) == ("timeout_probe", "query")
    timeout = silent.all_metrics["probe_timeout_seconds"]
    assert 1 < silent.metrics["probe_kettle_tries"] <= timeout / 0.1 + 1, "again, and not before it is time"
    with serve_udp(lambda query: [b"!"]) as kettle:
        assert run_prober(prober, kettle, timeout=PATIENCE).reason == "protocol_error"


def test_tutorial_setting_types_are_in_the_api() -> None:
    named = set(re.findall(r"^\| .*?`([A-Z]\w+)`.*?\|", TEXT, re.MULTILINE)) - {"Metric"}
    assert named
    assert named <= set(probe_exporter.__all__)


def test_tutorial_metric_table_is_correct() -> None:
    rows = re.findall(r"^\| `(Metric\(.*?\))` \| (.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 6
    for declaration, reports in rows:
        probe = probe_exporter.Probe("target", 0.0)
        metric = eval(declaration, {"Metric": probe_exporter.Metric})
        calls = re.findall(r"`(probe\.\w+\((?:\"\w+\", )?(\w+)(?:, [^`]*)?\))`", reports)
        assert calls
        for call, name in calls:
            phase = eval(call, {"probe": probe, name: metric})
            if phase is not None:
                with phase:
                    pass
        assert metric.name in {
            family.name + {"info": "_info", "counter": "_total"}.get(family.type, "")
            for family in probe.samples.collect()
        }


@pytest.mark.slow
def test_tutorial_package_adds_prober(written: Path, tmp_path: Path) -> None:
    """pip builds and installs the package; the exporter needs no flag."""
    command = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
    done = python(written, *command, "--no-build-isolation", "--target", str(tmp_path / "site"), ".")
    assert done.returncode == 0, done.stderr
    environment = _environment() | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "site")])}
    shown = subprocess.run(
        [sys.executable, "-m", "probe_exporter", "probers", "teapot"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert f"{tmp_path}/site/teapot.py" in shown.stdout
    assert "probe_teapot_temperature_celsius" in shown.stdout
