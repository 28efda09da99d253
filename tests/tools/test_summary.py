"""Test what a person sees of `probe-exporter run`, in a terminal of several widths."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from probe_exporter.testing import Certificate, Peer, Server, expect, hold, serve
from tests.exporters import ROOT, _environment
from tests.targets.several import DENIED, GOOD, REFUSING, REVOKED, stage
from tests.terminals import Terminal, exporter_terminal
from tests.tools.test_new import python, tool

pytestmark = pytest.mark.slow

PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
WIDTHS = pytest.mark.parametrize("columns", [60, 80, 120])


def seen(directory: Path, *words: str, columns: int = 80, **variables: str) -> Terminal:
    """Run a probe in a terminal to its end."""
    environment = {name: value for name, value in _environment().items() if name not in ("NO_COLOR", "COLUMNS")}
    with exporter_terminal(["run", *words], directory, environment | variables, columns=columns) as run:
        run.finish()
    return run


@pytest.fixture
def port() -> Iterator[Server]:
    """A server that only accepts connections."""
    with serve() as server:
        yield server


def widest(text: str) -> int:
    return max(map(cell_len, text.splitlines()))


@pytest.fixture
def page() -> Iterator[Server]:
    with serve(expect(re.compile(b"^GET ")), PAGE) as server:
        yield server


@WIDTHS
def test_success_has_verdict_waterfall_and_samples(tmp_path: Path, page: Server, columns: int) -> None:
    run = seen(tmp_path, "http_2xx", f"http://{page}/", columns=columns)
    assert run.process.returncode == 0
    assert run.text.startswith(f"PASS  http_2xx  http://{page}/\nThe probe succeeded in ")
    phases = re.findall(r"^  (\w+) +[\d.]+ [mµ]?s +█+( .*)?$", run.text, re.MULTILINE)
    assert {"resolve", "connect", "processing", "transfer"} <= {name for name, _ in phases}
    assert any(f"http://{page}/" in about for _, about in phases) == (columns > 60)
    assert "\nMeasured\n" in run.text
    assert "  probe_http_status_code 200\n" in run.text
    assert widest(run.text) <= columns


@WIDTHS
def test_failure_has_reason_advice_and_chain(tmp_path: Path, columns: int) -> None:
    certificate = Certificate(days=-3)
    with serve(hold(), tls=True, certificate=certificate) as server:
        words = ("http_2xx", f"https://localhost:{server.port}/", f"--set=tls_config.ca={json.dumps(certificate.pem)}")
        run = seen(tmp_path, *words, columns=columns)
    assert run.process.returncode == 1
    title, verdict, _, *rest = run.text.splitlines()
    assert title == f"FAIL  http_2xx  https://localhost:{server.port}/"
    assert verdict.startswith("The probe failed in phase tls after ")
    text = " ".join(" ".join(rest).split())
    assert text.startswith("certificate_expired: ")
    assert "What to try Renew the certificate and reload the server" in text
    assert "✗ tls" in text
    assert re.search(r"server localhost expired [23] days ago", text)
    assert "The verification failed." in text
    assert "Measured" not in text
    assert widest(run.text) <= columns


def test_redirects_show_a_chain_once(tmp_path: Path) -> None:
    def play(peer: Peer) -> None:
        peer.send(PAGE if b"/b" in peer.line() else REDIRECT)

    with serve(play, tls=True) as server:
        words = ("http_2xx", f"https://localhost:{server.port}/a", "--set=tls_config.insecure_skip_verify=true")
        run = seen(tmp_path, *words, columns=120)
    assert run.process.returncode == 0, run.text
    assert run.text.count("Certificates of localhost") == 1
    assert run.text.count("Not verified: the module sets insecure_skip_verify.") == 1


@WIDTHS
def test_several_runs_have_a_table_and_certificates_name_their_sender(tmp_path: Path, columns: int) -> None:
    with stage(tmp_path) as made:
        (tmp_path / "blackbox.yml").write_text(made.config)
        run = seen(tmp_path, "every", made.every, columns=columns)
        again = seen(tmp_path, "again", made.again, columns=columns)
    assert run.process.returncode == 0, run.text
    assert f"\nThe certificate of stolen, sent by {REVOKED}, is revoked.\n" in run.text
    table = run.text.partition("\nRuns\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (127\S+(?: \(decides\))?) +(PASS|FAIL) +[\d.]+ [mµ]?s +(\w*)", table, re.MULTILINE) == [
        (f"{GOOD} (decides)", "PASS", ""),
        (REFUSING, "FAIL", "connect_refused"),
        (REVOKED, "PASS", ""),
        (DENIED, "FAIL", "target_denied"),
    ]
    assert f"\nPhases of {GOOD}\n" in run.text
    text = " ".join(run.text.split())
    assert f"Certificates of localhost sent by {GOOD} (" in text
    assert re.search(rf"Certificates of localhost sent by {REVOKED} \([^)]+\)\. Verified, but revoked\.", text)
    assert "stolen revoked, 59 days left" in text
    assert "stolen: Its authority has revoked it" in text
    assert "probe_address_success" not in run.text, "the table says it"
    assert again.process.returncode == 1
    assert re.findall(r"^  (attempt \d(?: \(decides\))?) +FAIL ", again.text, re.MULTILINE) == [
        "attempt 1", "attempt 2", "attempt 3 (decides)"
    ]  # fmt: skip
    assert "\nPhases of attempt 3\n" in again.text
    assert max(widest(run.text), widest(again.text)) <= columns


def test_one_run_of_several_needs_no_table(tmp_path: Path, port: Server) -> None:
    (tmp_path / "blackbox.yml").write_text("modules: {m: {prober: tcp, attempts: {}}}")
    run = seen(tmp_path, "m", str(port))
    assert run.process.returncode == 0
    assert "\nPhases\n" in run.text
    assert "Runs" not in run.text


def test_debug_adds_log_and_settings(tmp_path: Path, page: Server) -> None:
    run = seen(tmp_path, "http_2xx", f"http://{page}/", "--debug")
    assert "\nLog\n" in run.text
    assert "Resolved target address" in run.text
    assert "\nSettings\n  prober: http\n" in run.text


PICKY = '''\
from probe_exporter import Probe, ProbeFailed, Prober, Reason, Settings

async def probe(probe: Probe, settings: Settings) -> None:
    """Fails."""
    if probe.target == "bug":
        raise KeyError("a bug")
    raise ProbeFailed(Reason.EXPECTATION, "the answer is wrong", answer="PONG \\x1b[2J" + "1234 " * 100)

prober = Prober("picky", Settings, probe)
'''


@WIDTHS
def test_details_of_a_failure_are_below_its_message(tmp_path: Path, columns: int) -> None:
    """The log has them in full."""
    (tmp_path / "picky.py").write_text(PICKY)
    run = seen(tmp_path, "picky.py", "x", "--debug", columns=columns)
    assert "\nexpectation: the answer is wrong\n  answer: PONG \\x1b[2J1234 1234" in run.text
    failure, log = (" ".join(part.split()) for part in run.text.split("\nLog\n"))
    assert 50 < failure.count("1234") < 100
    assert log.count("1234") == 100
    assert widest(run.text) <= columns


def test_exception_of_a_prober_has_its_traceback_in_lines(tmp_path: Path) -> None:
    (tmp_path / "picky.py").write_text(PICKY)
    run = seen(tmp_path, "picky.py", "bug", columns=120)
    assert "\nTraceback (most recent call last):\n" in run.text
    assert '\n    raise KeyError("a bug")\n' in run.text
    assert "\nKeyError: 'a bug'\nFAIL  picky  bug\n" in run.text


def test_colours_are_left_out_where_no_color_is_set(tmp_path: Path) -> None:
    coloured = re.compile(r"\x1b\[[0-9;]*3[1-7]m")
    assert coloured.search(seen(tmp_path, "tcp_connect", "127.0.0.1:1").output)
    assert not coloured.search(seen(tmp_path, "tcp_connect", "127.0.0.1:1", NO_COLOR="1").output)


def test_control_characters_of_target_and_server_are_not_obeyed(tmp_path: Path) -> None:
    hostile = b"HTTP/1.1 302 Found\r\nLocation: http://\x1b]0;owned\x07\x1b[2J/\r\nContent-Length: 0\r\n\r\n"
    with serve(expect(re.compile(b"^GET ")), hostile) as server:
        run = seen(tmp_path, "http_2xx", f"http://{server}/", "--debug", NO_COLOR="1")
    run_of_target = seen(tmp_path, "http_2xx", "http://\x1b[2J\x9b31m\u202eabc/", NO_COLOR="1")
    for text in (run.output, run_of_target.output):
        assert "owned\x07" not in text
        assert "\x1b[2J" not in text
        assert "\x9b" not in text
        assert "\u202e" not in text
    assert "\\x1b[2J" in run_of_target.text


@WIDTHS
def test_several_targets_have_a_table_with_failures_first(tmp_path: Path, port: Server, columns: int) -> None:
    (tmp_path / "targets.txt").write_text("127.0.0.1:1\n")
    run = seen(tmp_path, "tcp_connect", str(port), "--targets=targets.txt", columns=columns)
    assert run.process.returncode == 1
    table = run.text[run.text.index("RESULT") :]
    rows = [line.split()[:2] for line in table.splitlines() if line.startswith(("PASS", "FAIL"))]
    assert rows == [["FAIL", "127.0.0.1:1"], ["PASS", str(port)]]
    assert "connect_refused" in table
    assert "1 of 2 probes failed." in table
    assert "2/2" in run.text  # the progress bar
    assert widest(table) <= columns


def test_successful_targets_have_no_column_of_reasons(tmp_path: Path, port: Server) -> None:
    run = seen(tmp_path, "tcp_connect", str(port), f"localhost:{port.port}")
    assert run.process.returncode == 0
    assert "All 2 probes succeeded." in run.text
    assert "REASON" not in run.text


def test_watch_prints_a_line_for_each_probe_and_a_report_where_the_verdict_changes(tmp_path: Path) -> None:
    """Ctrl-C ends it with a sentence, and exit code 130."""
    number = 0

    def answer(peer: Peer) -> None:
        nonlocal number
        if not peer.line():
            return  # Ctrl-C came before the request
        number += 1
        peer.send(PAGE if number != 3 else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")

    with serve(answer) as server:
        words = ["run", "http_2xx", f"http://{server}/", "--watch=10ms"]
        with exporter_terminal(words, tmp_path, _environment()) as run:
            run.expect("FAIL  http_2xx")
            run.expect("http_status: ")
            while run.text.count("PASS  http_2xx") < 2:
                assert run.read()
            run.type("\x03")
            code = run.finish()
    assert code == 130
    assert re.search(r"^\d\d:\d\d:\d\d  PASS +[\d.]+ [mµ]?s$", run.text, re.MULTILINE)
    assert re.search(r"^\^?C?\d+ probes, 1 failed; least / mean / most time: ", run.text, re.MULTILINE)
    assert "Traceback" not in run.text


def test_pipe_gets_metrics_without_the_library_of_the_terminal(tmp_path: Path, port: Server) -> None:
    """The same command in a pipe prints what it always did, byte for byte, and does not import rich."""
    code = (
        "import sys; from probe_exporter import cli; code = cli.main(); "
        "sys.stderr.write(repr(sorted(n for n in sys.modules if n.split('.')[0] == 'rich'))); sys.exit(code)"
    )
    done = python(tmp_path, "-c", code, "run", "tcp_connect", str(port))
    assert (done.returncode, done.stderr) == (0, "[]")
    assert done.stdout.startswith("# HELP probe_dns_lookup_time_seconds ")
    assert "probe_success 1\n" in done.stdout


def test_library_of_the_terminal_is_imported_by_two_files_alone() -> None:
    """Both are imported if a person sees the output."""
    package = ROOT / "probe_exporter"
    importing = {
        path for path in package.rglob("*.py") if re.search(r"^\s*(from|import) rich\b", path.read_text(), re.MULTILINE)
    }
    assert {str(path.relative_to(package)) for path in importing} == {"tools/summary.py", "tools/doctor/terminal.py"}


def test_text_can_be_asked_for_in_a_pipe(tmp_path: Path) -> None:
    done = tool(tmp_path, "run", "tcp_connect", "127.0.0.1:1", "--output=text")
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  tcp_connect  127.0.0.1:1\n")
    assert "\x1b" not in done.stdout
