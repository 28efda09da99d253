"""Test `probe-exporter run`: one probe from a terminal, with the reason of its failure."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from probe_exporter.testing import Peer, expect, serve
from tests.exporters import _environment
from tests.tools.test_new import tool, tool_here

pytestmark = pytest.mark.slow

PROBER = '''
"""A line for a line."""

from __future__ import annotations

from probe_exporter import (
    Duration, Metric, Probe, ProbeFailed, Prober, Reason, Regexp, Secret, Settings, SourceSettings, Text, connect,
    host_and_port,
)

LENGTH = Metric("probe_quake_bytes", "The length of the answer.")


class Inner(Settings):
    word: Text = "hello"
    expect: Regexp = Regexp("^fine")
    patience: Duration = 1.0


class QuakeSettings(SourceSettings):
    inner: Inner = Inner()
    tries: int = 1
    password: Secret = Secret("")


async def probe_quake(probe: Probe, settings: QuakeSettings) -> None:
    host, port = host_and_port(probe.target, 7)
    with await connect(probe, host, port, settings) as connection, probe.phase("asking"):
        connection.send(f"{settings.inner.word} {settings.tries} {settings.password.reveal()}\\n".encode())
        answer = await connection.until(b"\\n", limit=100)
    probe.set(LENGTH, len(answer))
    if not settings.inner.expect.search(answer):
        raise ProbeFailed(Reason.EXPECTATION, f"the answer {answer.decode()!r} does not match")


prober = Prober("quake", QuakeSettings, probe_quake)
'''

MODULES = """
modules:
  polite: {prober: quake, timeout: 30s, quake: {inner: {word: please}}}
  asking:
    prober: quake
    params: {what: {pattern: "[a-z]+", default: tea}}
    quake: {inner: {word: "${param:what}"}}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a directory with a prober and modules for it."""
    (tmp_path / "quake.py").write_text(PROBER)
    (tmp_path / "quake.yml").write_text(MODULES)
    return tmp_path


def asked(line: bytes, directory: Path, *words: str, answer: bytes = b"fine\n") -> subprocess.CompletedProcess[str]:
    """Run a probe of a server that expects a line. TARGET in `words` becomes its address."""
    with serve(expect(line), answer) as target:
        return tool(directory, "run", *[str(target) if word == "TARGET" else word for word in words])


def test_run_needs_only_a_file_and_a_target(directory: Path) -> None:
    done = asked(b"hello 1 \n", directory, "quake.py", "TARGET")
    assert (done.returncode, done.stderr) == (0, "")
    assert "probe_quake_bytes 4\n" in done.stdout
    assert "probe_success 1\n" in done.stdout
    assert "probe_timeout_seconds 10\n" in done.stdout


def test_run_reads_set_values_as_yaml(directory: Path) -> None:
    """Values are parsed as YAML. Text that is not valid YAML is a string."""
    words = [
        "--set=inner.word=[hey",
        "--set",
        "inner.patience=1m",
        "--set=tries=3",
        "--set=password=12",
        "--timeout=20s",
    ]
    done = asked(b"[hey 3 12\n", directory, "quake.py", "TARGET", *words)
    assert done.returncode == 0, done.stderr
    assert "probe_timeout_seconds 20\n" in done.stdout


def test_run_prints_the_reason_of_a_failure_and_exits_with_1(directory: Path) -> None:
    done = asked(b"hello 1 \n", directory, "quake.py", "TARGET", answer=b"never\n")
    assert done.returncode == 1
    assert 'probe_failure_info{phase="",reason="expectation"} 1\n' in done.stdout
    assert done.stderr == (
        "The probe failed: expectation: the answer 'never' does not match\n"
        "  The target responded, but not as the module expects.\n"
    )


def test_run_debug_shows_log_metrics_and_masked_settings(directory: Path) -> None:
    done = asked(b"hello 1 hidden\n", directory, "quake.py", "TARGET", "--debug", "--set=password=hidden")
    assert done.returncode == 0
    for part in ("Logs for the probe:", 'msg="Resolved target address"', "probe_quake_bytes 4", "password: <secret>"):
        assert part in done.stdout
    assert "hidden" not in done.stdout + done.stderr


def test_run_takes_a_module_from_a_file(directory: Path) -> None:
    done = asked(b"please 1 \n", directory, "quake.py", "TARGET", "--module=quake.yml:polite")
    assert done.returncode == 0, done.stderr
    assert "probe_timeout_seconds 30\n" in done.stdout


def test_run_takes_a_loaded_module_by_name(directory: Path) -> None:
    done = asked(b"please 1 \n", directory, "polite", "TARGET", "--modules.dir=.")
    assert done.returncode == 0, done.stderr
    done = asked(b"coffee 1 \n", directory, "asking", "TARGET", "--modules.dir=.", "--param", "what=coffee")
    assert done.returncode == 0, done.stderr
    done = asked(b"", directory, "tcp_connect", "TARGET")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["polite"], b"please 3 \n"),
        (["polite", "--set=inner.word=[hey"], b"[hey 3 \n"),
        (["asking", "--param=what=coffee"], b"coffee 3 \n"),
        (["quake.py", "--module=quake.yml:polite"], b"please 3 \n"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_run_set_changes_a_setting_of_a_module_and_keeps_the_others(
    directory: Path, words: list[str], line: bytes
) -> None:
    subject, *more = words
    sources = [] if subject.endswith(".py") else ["--modules.dir=."]
    done = asked(line, directory, subject, "TARGET", "--set=tries=3", *sources, *more)
    assert done.returncode == 0, done.stderr


def test_run_set_changes_a_shipped_module(directory: Path) -> None:
    ok = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    with serve(expect(re.compile(rb"^GET ")), ok) as target:
        assert tool(directory, "run", "http_2xx", f"http://{target}/").returncode == 1
    with serve(expect(re.compile(rb"^GET ")), ok) as target:
        done = tool(directory, "run", "http_2xx", f"http://{target}/", "--set=valid_status_codes=[404]")
    assert done.returncode == 0, done.stderr


def test_run_several_targets_print_metrics_with_a_label(directory: Path) -> None:
    """What Prometheus's text format parser and a textfile collector accept: one declaration for each name."""
    with serve(b"fine\n") as good, serve(b"never\n") as bad:
        (directory / "targets.txt").write_text(f"{bad}  # a comment\ntcp_connect {bad}\n")
        words = ("polite", str(good), "--targets=targets.txt", "--modules.dir=.")
        done = tool(directory, "run", *words)
    assert done.returncode == 1
    values = {
        (sample.labels["target"], sample.labels["module"]): sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
        if sample.name == "probe_success"
    }
    assert values == {(str(good), "polite"): 1, (str(bad), "polite"): 0, (str(bad), "tcp_connect"): 1}
    assert done.stdout.count("# HELP probe_success ") == 1
    assert done.stderr == (
        f"The probe of {bad} with polite failed: expectation: the answer 'never' does not match\n"
        "  The target responded, but not as the module expects.\n"
    )


def test_run_json_prints_an_object_a_line(directory: Path) -> None:
    with serve(b"fine\n") as good, serve(b"never\n") as bad:
        words = ("polite", str(good), str(bad), "--modules.dir=.", "--output=json")
        done = tool(directory, "run", *words)
    assert (done.returncode, done.stderr) == (1, "")
    first, second = map(json.loads, done.stdout.splitlines())
    assert (first["target"], first["result"], second["reason"]) == (str(good), "success", "expectation")
    assert {"module", "started", "events", "phases", "tls", "families", "settings"} <= first.keys()
    assert "id" not in first


def test_run_hostname_parameter_works_as_in_a_request(directory: Path) -> None:
    host = expect(re.compile(rb"^Host: www.example.test\r"))
    with serve(expect(re.compile(rb"^GET ")), host, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as target:
        done = tool(
            directory, "run", "http_2xx", f"http://{target}/", "--param", "hostname=www.example.test", "--debug"
        )
    assert done.returncode == 0, done.stdout


def test_run_exits_with_130_without_a_traceback_when_interrupted(directory: Path) -> None:
    heard = threading.Event()

    def hear(peer: Peer) -> None:
        peer.line()
        heard.set()
        peer.receive(1)

    with serve(hear) as target:
        command = [sys.executable, "-m", "probe_exporter", "run", "quake.py", str(target)]
        process = subprocess.Popen(
            command, cwd=directory, env=_environment(), stderr=subprocess.PIPE, text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # see below
        )  # fmt: skip  # background jobs of a shell ignore SIGINT; the child has no threads yet
        assert heard.wait(60)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")


REFUSED = {
    ("quake.py", "t", "--set=tires=3"): "--set tires: unknown key `tires`; did you mean `tries`?",
    ("quake.py", "t", "--set=tries=x", "--set=inner.expect=(", "--set=inner.patience=3"): (
        "--set tries: expected an integer, found a string\n"
        "--set inner.expect: not a regular expression (RE2): missing ): (\n"
        "--set inner.patience: a duration needs a unit, as in 3s\n"
    ),
    ("polite", "t", "--modules.dir=.", "--set=timeout=3s"): "; --timeout sets the timeout",
    ("quake.py", "t", "--set=timeout=3s"): "; --timeout sets the timeout",
    ("quake.py", "t", "--set=tries=3", "--set=tries.x=3"): "--set tries.x: tries has a value of its own",
    ("quake.py", "t", "--module=quake.yml"): (
        "prober quake: quake.yml has several modules for it, say which: quake.yml:NAME with one of polite, asking"
    ),
    ("quake.py", "t", "--module=quake.yml:rude"): "unknown module `rude`",
    (
        "quake.py",
        "t",
        "--module=quake.yml:polite",
        "--set=tires=1",
    ): "--set tires: unknown key `tires`; did you mean `tries`?",
    ("polite", "t", "--modules.dir=.", "--set=inner.wird=x", "--set=tries=x"): (
        "--set inner.wird: unknown key `wird`; did you mean `word`?\n--set tries: expected an integer, found a string"
    ),
    ("none.py", "t"): "none.py can't be loaded: FileNotFoundError",
    ("polit", "t", "--modules.dir=."): "unknown module `polit`; did you mean `polite`?",
    (
        "quake",
        "t",
        "--modules.dir=.",
    ): "unknown module `quake`: it is a prober, and modules that use it are polite, asking",
    ("polite", "t", "--modules.dir=.", "--module=quake.yml"): (
        "--module is for the file of a prober, and polite is a module: to change a setting of a module, use --set"
    ),
    ("polite", "t", "--set=tries"): (
        "'tries' does not have the form KEY=VALUE: --set is for a key of the prober, such as tries=3; use --param for"
    ),
    ("polite", "--targets=none.txt"): "none.txt: can't be read: No such file or directory",
    ("polite", "t", "--watch=0s"): "the interval must be greater than 0",
    ("polite", "t", "--modules.dir=.", "--param=x=y"): "module polite has no parameter x",
    ("http_2xx", "t", "--param=hostnam=x"): "module http_2xx has no parameter hostnam; did you mean `hostname`?",
    ("asking", "t", "--modules.dir=.", "--param=what=TEA"): 'The parameter "what" of module "asking" does not match',
    ("polite", "t", "--config.file=none.yml"): "none.yml: can't be read: No such file or directory",
    ("polite", "t", "--timeout=0s"): "the timeout must be greater than 0",
    ("polite", "t", "--timeout=5"): "5",
    ("polite", "t", "--param=x"): "'x' does not have the form KEY=VALUE",
    ("polite",): "the following arguments are required: TARGET, or --targets FILE",
}


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_run_exits_with_2_and_a_message_for_unusable_arguments(
    directory: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, errors = tool_here(directory, monkeypatch, capsys, "run", *words)
    assert (code, out) == (2, "")
    assert REFUSED[words] in errors


def test_run_program_exits_with_2_without_a_traceback(directory: Path) -> None:
    done = tool(directory, "run", "none.py", "t")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("probe-exporter run: none.py can't be loaded: FileNotFoundError")
    assert "Traceback" not in done.stderr
