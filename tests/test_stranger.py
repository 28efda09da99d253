"""Tests of a user's prober: one file of 40 lines in a directory that `--modules.dir` names."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe_exporter.testing import expect, hold, serve
from tests.deadlines import async_timed_out
from tests.exporters import Server, ours, ours_from_scratch
from tests.test_cli import run, run_here
from tests.waiting import PATIENCE

FINGER = '''\
"""The finger prober (RFC 1288): asks a host for one of its users."""

from __future__ import annotations

from probe_exporter import Metric, OwnReason, Probe, ProbeFailed, Prober, Regexp, Size, SourceSettings, Text, connect
from probe_exporter import host_and_port, required

DURATION = Metric("probe_finger_duration_seconds", "How long each phase took.", ("phase",))
ANSWER = Metric("probe_finger_answer_bytes", "How much the host says of the user.")
UNKNOWN = OwnReason("finger_unknown_user", "The host knows no such user.")


class FingerSettings(SourceSettings):
    """The ``finger`` block of a module."""

    rules = (required("user"),)
    user: Text = ""
    unknown: Regexp = Regexp("(?i)no such user")
    limit: Size = 65536


async def probe_finger(probe: Probe, settings: FingerSettings) -> None:
    """Asks a host what it knows of a user."""
    host, port = host_and_port(probe.target, 79)
    answer = b""
    with await connect(probe, host, port, settings, seconds=DURATION) as connection, probe.phase("query", DURATION):
        connection.send(settings.user.encode() + b"\\r\\n")
        while len(answer) < settings.limit and (more := await connection.read()):
            answer += more
    probe.set(ANSWER, len(answer))
    if settings.unknown.search(answer):
        raise ProbeFailed(UNKNOWN, f"the host knows no {settings.user}")


prober = Prober("finger", FingerSettings, probe_finger, reasons=(UNKNOWN,))
'''

MODULES = "modules: {finger_root: {prober: finger, finger: {user: root}}}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the prober's file and a module of it."""
    path = tmp_path_factory.mktemp("stranger")
    (path / "finger.py").write_text(FINGER)
    (path / "finger.yml").write_text(MODULES)
    return path


@pytest.fixture(scope="module")
def exporter(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ours_from_scratch(tmp_path_factory.mktemp("exporter"), f"--modules.dir={directory}") as running:
        yield running


def test_own_prober_has_less_than_40_lines() -> None:
    assert len([line for line in FINGER.splitlines() if line]) < 40


async def test_own_prober_probes_and_measures(exporter: Server) -> None:
    with serve(expect(b"root\r\n"), b"Login: root\r\n") as target:
        answer = await exporter.probe("finger_root", str(target))
    assert "\nprobe_success 1\n" in answer.text
    assert "\nprobe_finger_answer_bytes 13\n" in answer.text
    assert '\nprobe_finger_duration_seconds{phase="query"} ' in answer.text


async def test_own_prober_fails_with_own_reason(exporter: Server) -> None:
    with serve(expect(b"root\r\n"), b"root: No such user.\r\n") as target:
        answer = await exporter.probe("finger_root", str(target))
    assert '\nprobe_failure_info{phase="",reason="finger_unknown_user"} 1\n' in answer.text
    assert "\nprobe_finger_answer_bytes 21\n" in answer.text, "what was measured before is there"


async def test_own_prober_times_out(exporter: Server) -> None:
    with serve(expect(b"root\r\n"), b"Login: ", hold()) as target:
        path = f"/probe?module=finger_root&target={target}"
        answer = await async_timed_out(
            lambda seconds: exporter.get(path, {"X-Prometheus-Scrape-Timeout-Seconds": f"{seconds + 0.5}"}),
            lambda answer: 'phase="query"' in answer.text,
        )
    assert '\nprobe_failure_info{phase="query",reason="timeout_probe"} 1\n' in answer.text


async def test_own_prober_appears_in_metadata(exporter: Server) -> None:
    metadata = json.loads((await exporter.get("/metadata")).text)
    (prober,) = [prober for prober in metadata["probers"] if prober["name"] == "finger"]
    assert prober["description"] == "Asks a host what it knows of a user."
    assert prober["source"].endswith("/finger.py")
    assert {"user", "unknown", "limit", "source_ip_address"} <= prober["settings"]["properties"].keys()
    assert {"probe_finger_answer_bytes", "probe_ip_protocol"} <= {metric["name"] for metric in prober["metrics"]}
    assert prober["reasons"] == [{"name": "finger_unknown_user", "meaning": "The host knows no such user."}]
    assert [module["name"] for module in metadata["modules"] if module["prober"] == "finger"] == ["finger_root"]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("{}", "modules.m.finger.user: `user` is required"),
        ("{user: root, unknwon: x}", "modules.m.finger.unknwon: unknown key `unknwon`; did you mean `unknown`?"),
        ("{user: root, limit: 5}", "modules.m.finger.limit: "),
        ("{user: root, unknown: '('}", "modules.m.finger.unknown: not a regular expression"),
        ("{user: [root]}", "modules.m.finger.user: expected a string, found a list"),
    ],
)
def test_own_prober_settings_are_checked(directory: Path, tmp_path: Path, block: str, problem: str) -> None:
    (tmp_path / "mine.yml").write_text(f"modules:\n  m: {{prober: finger, finger: {block}}}\n")
    done = run_here(tmp_path, "--config.file=mine.yml", f"--modules.dir={directory}", "--config.check")
    assert done.returncode == 1
    assert "mine.yml:2:" in done.stderr
    assert problem in done.stderr


def test_broken_own_prober_prevents_start(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "finger.py").write_text(FINGER.replace("Regexp, ", ""))
    (tmp_path / "finger.yml").write_text(MODULES)
    for flags in [(), ("--config.check",), ("--config.check", "--modules.ignore-errors")]:
        done = (run_here if flags else run)(tmp_path, "--modules.dir=.", *flags)
        assert done.returncode == 1
        assert "finger.py can't be loaded: NameError: name 'Regexp' is not defined (line 18)" in done.stderr


async def test_broken_own_prober_can_be_ignored_and_reloaded(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "finger.py").write_text(FINGER.replace("Regexp, ", ""))
    (own / "finger.yml").write_text(MODULES)
    with ours(tmp_path, f"--modules.dir={own}", "--modules.ignore-errors") as exporter:
        assert (await exporter.probe("finger_root", "127.0.0.1:1")).status == 400
        assert (await exporter.probe("tcp_connect", f"127.0.0.1:{exporter.port}")).status == 200
        log = exporter.log.read_text()
        assert f"{own}/finger.py: broken, and ignored: can't be loaded: NameError: name 'Regexp' is not defined" in log
        assert f"modules.finger_root: left out: its prober is broken, see {own}/finger.py" in log
        (own / "finger.py").write_text(FINGER)
        exporter.process.send_signal(signal.SIGHUP)
        give_up = time.monotonic() + PATIENCE
        while (answer := await exporter.probe("finger_root", "127.0.0.1:1")).status != 200:
            assert time.monotonic() < give_up, "it was not read again"
            await asyncio.sleep(0.05)
        assert 'reason="connect_refused"' in answer.text
