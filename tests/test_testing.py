"""Tests of the pytest plugin: scripted peers, and the outcome of probes against them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.run import Probe
from probe_exporter.settings.block import Settings
from probe_exporter.testing import (
    Certificate,
    Peer,
    Turn,
    UdpServer,
    expect,
    hold,
    load_prober,
    reset,
    run_module,
    run_prober,
    serve,
    serve_udp,
    start_tls,
    wait,
)
from tests.deadlines import timed_out
from tests.exporters import _environment
from tests.waiting import PATIENCE

SOURCE = '''
"""Sends a line, and after STARTTLS another."""

from __future__ import annotations

from probe_exporter import (
    Connection, ConnectSettings, Metric, Probe, Prober, SourceSettings, TLSSettings, Text, connect, connect_udp,
    host_and_port, start_tls,
)

DURATION = Metric("probe_lines_duration_seconds", "How long each phase took.", ("phase",))
LENGTH = Metric("probe_lines_bytes", "The length of the answer.", ("line",))


class LinesSettings(ConnectSettings):
    say: Text = "one"
    starttls: bool = False
    udp: bool = False


async def probe_lines(probe: Probe, settings: LinesSettings) -> None:
    host, port = host_and_port(probe.target, 7)
    if settings.udp:
        with await connect_udp(probe, host, port, settings, seconds=DURATION) as datagrams:
            datagrams.send(settings.say.encode())
            probe.set(LENGTH, len(await datagrams.read()), "one")
        return
    with await connect(probe, host, port, settings, seconds=DURATION) as connection:
        probe.log("Connected", port=port)
        with probe.phase("lines", DURATION):
            await ask(probe, connection, settings.say)
            if settings.starttls:
                await start_tls(probe, connection, settings.tls_config, host, seconds=DURATION)
                await ask(probe, connection, "two")


async def ask(probe: Probe, connection: Connection, line: str) -> None:
    connection.send(line.encode() + b"\\\\r\\\\n")
    probe.set(LENGTH, len(await connection.until(b"\\\\n", limit=100)), line)


prober = Prober("lines", LinesSettings, probe_lines)
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "lines.py"
    path.write_text(SOURCE.replace("\\\\", "\\"))
    return path


@pytest.fixture(scope="module")
def lines(file: Path) -> Prober[Any]:
    return load_prober(file)


def test_serve_plays_script_in_order(lines: Prober[Any]) -> None:
    with serve(expect(b"one\r\n"), wait(0.1), b"an ", wait(0.05), b"answer\n") as target:
        began = time.perf_counter()
        result = run_prober(lines, target, timeout=PATIENCE)
        took = time.perf_counter() - began
    assert result.success
    assert (result.reason, result.phase, result.message) == ("", "", "")
    assert result.metrics == {'probe_lines_bytes{line="one"}': 9}
    assert result.all_metrics["probe_success"] == 1
    assert 0.15 < result.all_metrics['probe_lines_duration_seconds{phase="lines"}'] < took
    assert target.heard == b"one\r\n"
    assert ("Connected", {"port": target.port}) in result.log


def test_expect_accepts_pattern(lines: Prober[Any]) -> None:
    with serve(expect(re.compile(rb"^t\w+\r\n$")), b"fine\n") as target:
        assert run_prober(lines, target, {"say": "twelve"}).success


@pytest.mark.parametrize("expected", [b"two\r\n", b"one\r\nand more", re.compile(rb"^two")])
def test_expect_fails_test_on_mismatch(lines: Prober[Any], expected: bytes | re.Pattern[bytes]) -> None:
    with pytest.raises(AssertionError, match=r"of the probe, heard b'one"), serve(expect(expected), b"x\n") as target:
        timed_out(lambda seconds: run_prober(lines, target, timeout=seconds), lambda _: target.heard)


@pytest.mark.parametrize(
    ("turn", "reason", "phase"),
    [
        (b"", "connect_closed", "lines"),
        (b"no end", "connect_closed", "lines"),
        (b"x" * 200, "protocol_error", "lines"),
        (hold(), "timeout_probe", "lines"),
        (reset(), "connect_reset", "lines"),
        (wait(1.0), "timeout_probe", "lines"),
    ],
    ids=["close", "cut", "flood", "hold", "reset", "wait"],
)
def test_serve_can_misbehave(lines: Prober[Any], turn: Turn, reason: str, phase: str) -> None:
    with serve(expect(b"one\r\n"), turn) as target:
        result = timed_out(
            lambda seconds: run_prober(lines, target, timeout=seconds),
            lambda result: result.phase == phase,
            [0.5, 0.9] if reason == "timeout_probe" else [PATIENCE],
        )
    assert (result.success, result.reason, result.phase) == (False, reason, phase)
    assert result.message


def test_serve_stops_listening_after_block(lines: Prober[Any]) -> None:
    with serve() as target:
        pass
    assert run_prober(lines, target).reason == "connect_refused"


def test_serve_speaks_tls_and_starttls(lines: Prober[Any]) -> None:
    with serve(expect(b"one\r\n"), b"in secret\n", tls=True) as target:
        result = run_prober(lines, target, {"tls": True, "tls_config": target.tls_config})
        assert result.success
        assert 'probe_lines_duration_seconds{phase="tls"}' in result.all_metrics
        assert run_prober(lines, target, {"tls": True}).reason == "certificate_unknown_authority"
    with serve(expect(b"one\r\n"), b"go on\n", start_tls(), expect(b"two\r\n"), b"secure\n") as target:
        result = run_prober(lines, target, {"starttls": True, "tls_config": target.tls_config})
    assert result.metrics == {'probe_lines_bytes{line="one"}': 5, 'probe_lines_bytes{line="two"}': 6}


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (Certificate(days=-3), "certificate_expired"),
        (Certificate(names=("elsewhere.test",)), "certificate_wrong_name"),
    ],
)
def test_serve_can_show_bad_certificate(lines: Prober[Any], certificate: Certificate, reason: str) -> None:
    with serve(tls=True, certificate=certificate) as target:
        assert run_prober(lines, target, {"tls": True, "tls_config": target.tls_config}).reason == reason


def test_serve_accepts_function_as_turn(lines: Prober[Any]) -> None:
    def echo(peer: Peer) -> None:
        peer.send(peer.line())

    with serve(echo) as target:
        assert run_prober(lines, target, {"say": "echo"}).metrics == {'probe_lines_bytes{line="echo"}': 5}


def test_serve_reports_error_in_turn_function(lines: Prober[Any]) -> None:
    def mistaken(peer: Peer) -> None:
        raise AssertionError("not what I thought")

    with pytest.raises(AssertionError, match="AssertionError in a turn: not what I thought"), serve(mistaken) as target:
        run_prober(lines, target, timeout=PATIENCE)


def test_serve_udp_answers_by_function(lines: Prober[Any]) -> None:
    with serve_udp(lambda query: [query.upper() + b"!"] if query == b"one" else []) as target:
        assert run_prober(lines, target, {"udp": True}).metrics == {'probe_lines_bytes{line="one"}': 4}
        unanswered = timed_out(
            lambda seconds: run_prober(lines, target, {"udp": True, "say": "two"}, timeout=seconds),
            lambda _: target.heard[1:],
        )
        assert unanswered.reason == "timeout_probe"
        assert set(target.heard) == {b"one", b"two"}


def test_serve_udp_releases_port(lines: Prober[Any]) -> None:
    with serve_udp(lambda query: []) as target:
        assert isinstance(target, UdpServer)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", target.port))


def test_run_prober_reads_settings_as_from_yaml(lines: Prober[Any]) -> None:
    with pytest.raises(ValueError, match=r"settings sya: unknown key `sya`; did you mean `say`\?"):
        run_prober(lines, "127.0.0.1:1", {"sya": "x"})
    with pytest.raises(ValueError, match="settings tls: expected true or false, found an integer"):
        run_prober(lines, "127.0.0.1:1", {"tls": 3})


def test_run_module_fills_in_parameters(lines: Prober[Any], tmp_path: Path) -> None:
    yml = tmp_path / "lines.yml"
    yml.write_text(
        'modules: {asking: {prober: lines, params: {what: {pattern: "[a-z]+"}}, lines: {say: "${param:what}"}}}'
    )
    with serve(expect(b"tea\r\n"), b"here\n") as target:
        assert run_module(lines, yml, "asking", target, {"what": "tea"}).success
    with pytest.raises(ValueError, match='needs the parameter "what"'):
        run_module(lines, yml, "asking", target)
    with pytest.raises(ValueError, match="unknown module `aksing`; did you mean `asking`"):
        run_module(lines, yml, "aksing", target)


@pytest.mark.parametrize("value", ['"1"', "None", "[]"])
def test_run_prober_fails_probe_that_sets_no_number(file: Path, tmp_path: Path, value: str) -> None:
    wrong = tmp_path / "lines.py"
    wrong.write_text(re.sub(r"(?<=set\(LENGTH, ).*(?=, )", value, file.read_text()))
    with serve(expect(b"one\r\n"), b"answer\n") as target:
        result = run_prober(load_prober(wrong), target, timeout=PATIENCE)
    assert (result.success, result.reason) == (False, "internal_error")
    assert "metric probe_lines_bytes was given" in result.message


def test_run_prober_says_which_labels_a_sample_lacks(file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "lines.py"
    wrong.write_text(re.sub(r"(?<=set\(LENGTH, )", '1, "too", ', file.read_text()))
    with serve(expect(b"one\r\n"), b"answer\n") as target:
        result = run_prober(load_prober(wrong), target, timeout=PATIENCE)
    assert result.reason == "internal_error"
    assert result.message.startswith("probe_lines_bytes takes 1 label value (line), and was given 3: 'too', ")


@pytest.mark.parametrize("module", ["testing", "flags", "tools.commands"])
def test_module_imports_nothing_of_the_server(module: str) -> None:
    """The plugin is loaded by every pytest where the exporter is installed, the others by every command."""
    code = f"""
import probe_exporter.{module}, sys
print(*[name for name in sys.modules if name.split(".")[0] == "aiohttp" or name.startswith("probe_exporter.web")])
"""
    done = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


def test_fixtures_stop_peers_and_report_mismatch(file: Path, tmp_path: Path) -> None:
    """Run a separate pytest with every warning as an error."""
    (tmp_path / "test_lines.py").write_text(
        f"""
from pathlib import Path
from probe_exporter.testing import expect, load_prober, run_prober

PROBER = load_prober(Path({str(file)!r}))

def test_good(tcp_target, udp_target):
    assert run_prober(PROBER, tcp_target(expect(b"one\\r\\n"), b"x\\n")).success
    assert run_prober(PROBER, udp_target(lambda query: [b"x"]), {{"udp": True}}).success

def test_bad(tcp_target):
    run_prober(PROBER, tcp_target(expect(b"other")), timeout=60)
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "probe_exporter.testing", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=600)
    assert "2 passed, 1 error" in done.stdout
    assert "AssertionError: expected b'other' of the probe, heard b'one\\r\\n'" in done.stdout


def test_prober_that_blocks_past_its_deadline_fails_the_test() -> None:
    async def probe(probe: Probe, settings: Settings) -> None:
        time.sleep(0.5)  # noqa: ASYNC251  (the subject of the test)

    with pytest.raises(pytest.fail.Exception, match=r"the prober blocked the event loop until .* use await"):
        run_prober(Prober("act", Settings, probe), "a target", timeout=0.2)
