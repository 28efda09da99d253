"""Tests of the command line: exit codes, output streams and the order of the start."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from probe_exporter import cli
from probe_exporter.start import IGNORED_SIGNALS
from probe_exporter.version import VERSION
from tests.exporters import run_ours
from tests.web.test_routes import PLUGINS

GOOD = "modules: {one: {prober: http}}\n"
QUESTIONABLE = "modules: {one: {prober: http, http: {no_follow_redirects: true}}}\n"
BAD = "modules:\n  one: {prober: http, tiemout: 3s}\n  two: {prober: nonsense}\n"


def run(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it exits. tests/test_startup.py has runs with an interpreter of their own."""
    return run_ours(directory, *flags)


def run_here(directory: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the same in this process, without the cost of a new one; only for runs that exit before serving."""
    root, out, err = logging.getLogger(), io.StringIO(), io.StringIO()
    level, handlers = root.level, root.handlers[:]
    obeyed = {one: signal.getsignal(one) for one in (signal.SIGHUP, *IGNORED_SIGNALS)}
    others = {name: logging.getLogger(name).level for name in ("asyncio", "aiohttp")}
    try:
        with contextlib.chdir(directory), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(flags)
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.handlers[:] = handlers
        for name, before in others.items():
            logging.getLogger(name).setLevel(before)
        for one, handler in obeyed.items():
            signal.signal(one, handler)
    return subprocess.CompletedProcess(flags, code, out.getvalue(), err.getvalue())


def messages(text: str) -> list[str]:
    return re.findall(r'msg=("(?:[^"\\]|\\.)*"|\S+)', text)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a working directory with a good config."""
    (tmp_path / "blackbox.yml").write_text(GOOD)
    return tmp_path


def test_config_check_exits_with_0_for_good_config(directory: Path) -> None:
    done = run(directory, "--config.check")
    assert (done.returncode, done.stdout) == (0, "")
    assert messages(done.stderr) == [
        '"Starting probe-exporter"',
        '"Loaded the configuration"',
        '"The configuration is good"',
    ]


def test_config_check_exits_with_1_and_reports_all_errors(directory: Path) -> None:
    (directory / "blackbox.yml").write_text(BAD)
    done = run(directory, "--config.check")
    assert (done.returncode, done.stdout) == (1, "")
    assert "blackbox.yml:2:23: modules.one.tiemout" in done.stderr
    assert "blackbox.yml:3:" in done.stderr


def test_config_check_fails_on_warnings_only_if_strict(directory: Path) -> None:
    (directory / "blackbox.yml").write_text(QUESTIONABLE)
    done = run_here(directory, "--config.check")
    assert done.returncode == 0
    assert re.search(r"level=WARN .*no_follow_redirects", done.stderr)
    done = run_here(directory, "--config.check", "--config.strict")
    assert done.returncode == 1
    assert re.search(r"level=ERROR .*no_follow_redirects", done.stderr)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--config.file=missing.yml"], "missing.yml"),
        (["--config.file=none*.yml"], "none*.yml"),
        (["--modules.dir=missing"], "missing"),
    ],
)
def test_missing_config_exits_with_1(directory: Path, flags: list[str], says: str) -> None:
    done = run_here(directory, *flags)
    assert done.returncode == 1
    assert messages(done.stderr)[-1] == '"The configuration can\'t be used"'
    assert says in done.stderr


def test_shipped_modules_are_used_without_config(tmp_path: Path) -> None:
    done = run_here(tmp_path, "--config.check")
    assert done.returncode == 0
    modules = re.search(r"modules=(\d+)", done.stderr)
    assert modules is not None
    assert int(modules[1]) >= 12


def test_config_file_is_relative_and_repeatable(directory: Path) -> None:
    (directory / "more").mkdir()
    (directory / "more" / "a.yml").write_text("modules: {two: {prober: http}}\n")
    done = run_here(directory, "--config.check", "--config.file=blackbox.yml", "--config.file=more")
    assert "files=blackbox.yml,more/a.yml modules=2" in done.stderr


def test_port_in_use_exits_with_1(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(directory, f"--web.listen-address={address}")
    assert done.returncode == 1
    assert f'err="cannot listen on {address}: Address already in use"' in done.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--web.external-url=%zz"], "external URL"),
        (["--web.external-url='http://x/'"], "quotes"),
        (["--web.listen-address=nowhere"], "has no port"),
    ],
)
def test_bad_url_or_address_exits_with_1(directory: Path, flags: list[str], says: str) -> None:
    done = run_here(directory, *flags)
    assert done.returncode == 1
    assert messages(done.stderr)[1:] == ['"Loaded the configuration"', '"The exporter can\'t start"']
    assert says in done.stderr


@pytest.mark.parametrize("flag", ["--web.external-url=%zz", "--web.listen-address=nowhere"])
def test_config_check_ignores_web_flags(directory: Path, flag: str) -> None:
    assert run_here(directory, "--config.check", flag).returncode == 0


def test_unsupported_vsock_address_is_refused(directory: Path) -> None:
    done = run_here(directory, "--web.listen-address=vsock://:9115")
    assert done.returncode == 1
    assert "not in this version" in done.stderr


def test_usage_error_is_one_line_and_exits_with_1(directory: Path) -> None:
    done = run(directory, "--nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "probe-exporter: error: unknown long flag '--nope', try --help\n"


def test_unknown_probe_log_level_is_a_warning(directory: Path) -> None:
    """The program gets far enough to find the port in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(directory, f"--web.listen-address={address}", "--log.prober=loud")
    assert "Address already in use" in done.stderr
    assert len(re.findall(r"level=WARN .*loud", done.stderr)) == 1


def test_log_level_and_format_are_applied(directory: Path) -> None:
    assert run_here(directory, "--config.check", "--log.level=Error").stderr == ""
    lines = run_here(directory, "--config.check", "--log.format=json").stderr.splitlines()
    assert [json.loads(line)["level"] for line in lines] == ["INFO", "INFO", "INFO"]


def test_version_is_printed(directory: Path) -> None:
    done = run(directory, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert VERSION in done.stdout


def test_config_schema_includes_own_probers(directory: Path) -> None:
    done = run_here(directory, "config", "schema", f"--modules.dir={PLUGINS}")
    assert (done.returncode, done.stderr) == (0, "")
    module = json.loads(done.stdout)["$defs"]["Module"]
    names = re.findall(r'"([^"]*)"', json.dumps(module["properties"]["prober"]))
    assert {"http", "actor"} <= set(names)


def test_config_schema_refuses_broken_prober(directory: Path) -> None:
    (directory / "broken.py").write_text("nonsense(\n")
    done = run(directory, "config", "schema", f"--modules.dir={directory}")
    assert (done.returncode, done.stdout) == (1, "")
    assert "broken.py" in done.stderr
