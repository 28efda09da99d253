"""A process imports what it needs and no more: after each command, the modules that may be loaded are listed by name.

Serving is a real process: it answers /-/healthy, gets SIGTERM, and reports the modules that it has loaded by then.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from probe_exporter import flags
from probe_exporter.history.memory import MAX_BYTES
from probe_exporter.plugins.loader import load_probers
from probe_exporter.telemetry.logs import FORMATS, LEVELS
from tests.cost import expect_cheaper
from tests.exporters import _environment
from tests.http_client import ask
from tests.processes import free_port, listening, running

FLAG_FILES = {"", "__main__", "cli", "flags", "settings", "settings.quantities", "version"}
"""Our files that the flags need."""

LIBRARIES = {"aiohttp", "annotated_types", "idna", "prometheus_client", "pydantic", "re2", "uvloop", "yaml"}
"""The libraries that serving needs for any configuration, and their own imports."""

CHECK_LIBRARIES = {"annotated_types", "idna", "prometheus_client", "pydantic", "re2", "yaml"}
"""The libraries that checking a configuration needs."""

NO_PROBER = {
    *("addresses", "config", "exposition", "history", "plugins", "prober", "settings", "telemetry", "web", "workers"),
    *("cache", "cli", "exporter", "flags", "runner", "start", "version", "__main__"),
    *("network.policy", "network.settings", "probers", "report", "runs.settings", "tls.settings"),
}
"""Folders and files of ours that serving may load before any prober is in use."""

REPORT = """
import atexit, json, os, sys
def report():
    with open(os.environ["MODULES_FILE"], "w") as file:
        json.dump(sorted(sys.modules), file)
atexit.register(report)
from probe_exporter.cli import main
sys.argv[0] = "probe-exporter"
sys.exit(main())
"""


class Loaded:
    """The names of the modules that a process had loaded at its end."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)

    @property
    def ours(self) -> set[str]:
        """Files of the exporter, by their dotted names below the package."""
        return {
            name.removeprefix("probe_exporter").removeprefix(".")
            for name in self.names
            if name.split(".")[0] == "probe_exporter"
        }

    @property
    def libraries(self) -> set[str]:
        """Packages of others, beyond what a bare Python has loaded."""
        tops = {name.split(".")[0] for name in self.names - bare_python("")}
        return {top for top in tops - sys.stdlib_module_names if not top.startswith(("probe_exporter", "_"))}

    def plugins(self) -> set[str]:
        """Stems of the files of probers outside the package."""
        prefix = "probe_exporter_plugin_"
        return {name.removeprefix(prefix).rpartition("_")[0] for name in self.names if name.startswith(prefix)}


def bare_python(code: str) -> frozenset[str]:
    """The modules that Python has loaded after some code."""
    command = [sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True, timeout=600)
    return frozenset(json.loads(done.stdout))


def libraries_of(names: set[str]) -> set[str]:
    """Some libraries, and all libraries that these import."""
    return Loaded(bare_python(f"import {', '.join(sorted(names))}")).libraries


def finished(directory: Path, *arguments: str) -> Loaded:
    """Run a command to its end."""
    file = directory / "modules.json"
    subprocess.run(
        [sys.executable, "-c", REPORT, *arguments],
        cwd=directory,
        env=_environment() | {"MODULES_FILE": str(file)},
        capture_output=True,
        timeout=600,
    )
    return Loaded(json.loads(file.read_text()))


def served(directory: Path, *arguments: str, paths: Sequence[str] = ()) -> Loaded:
    """Start the exporter; when it accepts connections, request some paths as a browser, and end it."""
    file, port = directory / "modules.json", free_port()
    command = [sys.executable, "-c", REPORT, f"--web.listen-address=127.0.0.1:{port}", *arguments]
    environment = _environment() | {"MODULES_FILE": str(file)}
    log = directory / "exporter.log"
    with running(command, directory, log, listening(port), environment=environment) as process:
        for path in paths:
            assert ask(port, path, headers={"Accept": "text/html"}).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(600) == 0, log.read_text()
    return Loaded(json.loads(file.read_text()))


def configured(directory: Path, modules: str) -> str:
    """Write a configuration; return the flag that names it."""
    (directory / "own.yml").write_text(f"modules: {{{modules}}}")
    return "--config.file=own.yml"


# --- before a configuration is read ------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["--help-man"], ["--nope"], ["nope"]])
def test_flags_import_no_library(tmp_path: Path, arguments: list[str]) -> None:
    loaded = finished(tmp_path, *arguments)
    assert loaded.ours <= FLAG_FILES
    assert loaded.libraries == set()
    assert not {"asyncio", "email", "logging", "ssl"} & loaded.names


@pytest.mark.parametrize("arguments", [["run", "--help"], ["run"], ["modules", "--nope"]])
def test_help_of_a_subcommand_imports_no_library(tmp_path: Path, arguments: list[str]) -> None:
    loaded = finished(tmp_path, *arguments)
    assert loaded.ours <= FLAG_FILES | {"tools", "tools.commands"}
    assert loaded.libraries == set()


def test_package_imports_nothing() -> None:
    assert Loaded(bare_python("import probe_exporter")).ours == {""}


def test_pytest_plugin_imports_pytest_alone() -> None:
    loaded = Loaded(bare_python("import probe_exporter.testing") - bare_python("import pytest"))
    assert (loaded.ours, loaded.libraries) == ({"", "testing"}, set())


def test_names_in_flags_are_those_of_the_files_that_define_them() -> None:
    """They are repeated there, so that ``--help`` need not import the log and the history."""
    assert list(LEVELS) == [*flags.LOG_LEVELS]
    assert list(FORMATS) == [*flags.LOG_FORMATS]
    assert flags.DEFAULT_HISTORY_BYTES == MAX_BYTES


# --- with a configuration ----------------------------------------------------------------------------------


def allowed(name: str, rooms: set[str]) -> bool:
    """Whether a file of ours is in one of some folders, or leads to one."""
    return any(name == room or name.startswith(f"{room}.") or room.startswith(f"{name}.") for room in rooms) or not name


def test_check_of_shipped_modules_loads_no_prober_and_no_server(tmp_path: Path) -> None:
    loaded = finished(tmp_path, "--config.check")
    assert loaded.libraries <= libraries_of(CHECK_LIBRARIES)
    assert {name for name in loaded.ours if not allowed(name, NO_PROBER - {"history", "web", "workers"})} == set()
    assert loaded.plugins() == set()


def test_serving_shipped_modules_loads_no_prober(tmp_path: Path) -> None:
    loaded = served(tmp_path)
    assert loaded.libraries <= libraries_of(LIBRARIES)
    assert {name for name in loaded.ours if not allowed(name, NO_PROBER)} == set()
    assert loaded.plugins() == set()
    assert not {"history.file", "workers.supervisor"} & loaded.ours


def test_first_page_loads_the_template_engine_and_no_prober(tmp_path: Path) -> None:
    """Probes, metrics and static files do without it."""
    assert "jinja2" not in served(tmp_path, paths=["/metrics", "/-/healthy", "/static/style.css"]).libraries
    loaded = served(tmp_path, paths=["/"])
    assert loaded.libraries <= libraries_of(LIBRARIES | {"jinja2"})
    assert "jinja2" in loaded.libraries
    assert {name for name in loaded.ours if not allowed(name, NO_PROBER)} == set()


FEW = {"aioquic", "cel_expr_python", "jsonpath", "websockets", "hpack", "sqlite3"}
"""Libraries of few configurations."""


@pytest.mark.parametrize("run", [finished, served])
def test_configuration_loads_the_probers_that_it_names(tmp_path: Path, run: object) -> None:
    flag = configured(tmp_path, "one: {prober: http}, two: {prober: icmp}")
    loaded = finished(tmp_path, "--config.check", flag) if run is finished else served(tmp_path, flag)
    assert {name for name in loaded.ours if name.startswith("probers.")} == {"probers.http", "probers.icmp"}
    assert not loaded.libraries & FEW
    assert not {name for name in loaded.ours if name.startswith(("protocols.grpc", "protocols.dns", "scrape"))}
    assert loaded.plugins() == set()


@pytest.mark.parametrize(
    ("module", "prober", "library"),
    [
        ("prober: http, http: {fail_if_body_json_matches_cel: 'body.a == 1'}", "http", "cel_expr_python"),
        ("prober: grpc", "grpc", None),
        ("prober: dns, dns: {query_name: x}", "dns", None),
        ("prober: tcp, unix: {}", "unix", None),
    ],
)
def test_blocks_and_keys_load_what_they_need(tmp_path: Path, module: str, prober: str, library: str | None) -> None:
    """A block of another prober has no effect, and yet it is checked."""
    loaded = finished(tmp_path, "--config.check", configured(tmp_path, f"one: {{{module}}}"))
    assert f"probers.{prober}" in loaded.ours
    assert loaded.libraries & FEW == ({library} if library else set())


@pytest.mark.parametrize(
    "module",
    [*(f"one: {{prober: {name}}}" for name in ("http", "tcp", "icmp")), "one: {prober: dns, dns: {query_name: x}}"],
)
def test_probe_without_tls_loads_no_openssl(tmp_path: Path, module: str) -> None:
    """It takes 10 MiB. The target refuses connections: nothing listens on the port."""
    loaded = served(tmp_path, configured(tmp_path, module), paths=["/probe?module=one&target=127.0.0.1:1"])
    assert {"network.connection", "tls.settings"} <= loaded.ours
    assert not loaded.libraries & {"OpenSSL", "cryptography"}


def test_shipped_prober_of_the_library_is_loaded_alone(tmp_path: Path) -> None:
    loaded = finished(tmp_path, "--config.check", configured(tmp_path, "one: {prober: redis}"))
    assert loaded.plugins() == {"redis"}
    assert not {name for name in loaded.ours if name.startswith("probers.")}


def test_every_shipped_prober_has_the_name_of_its_file() -> None:
    """The loader knows names from files; so a file with another name would never be found."""
    probers = load_probers([])
    assert {name: probers[name].name for name in probers} == {name: name for name in probers}
    assert len(probers) > 15


def test_code_of_a_user_is_run_at_load_though_no_module_names_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    (own / "broken.py").write_text("1 / 0\n")
    command = [sys.executable, "-m", "probe_exporter", "--config.check", f"--modules.dir={own}"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero (line 1)" in done.stderr


# --- what it costs -----------------------------------------------------------------------------------------


def cpu_seconds(*arguments: str) -> float:
    """CPU time of a Python process: the least of five, for all that disturbs it adds to it."""
    return min(map(_cpu_seconds, [arguments] * 5))


def _cpu_seconds(arguments: tuple[str, ...], environment: dict[str, str] | None = None) -> float:
    command = [sys.executable, *arguments]
    process = subprocess.Popen(command, env=environment or _environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # else the object would wait for a process that is gone
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_help_and_version_cost_little_more_than_reading_flags(flag: str) -> None:
    expect_cheaper(cpu_seconds("-m", "probe_exporter", flag), 4 * cpu_seconds("-c", "import argparse"), flag)


HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def cpu_seconds_until_healthy(directory: Path, environment: dict[str, str]) -> float:
    """CPU time of an exporter with its shipped modules, from its start to its first answer."""
    port = free_port()
    command = [sys.executable, "-m", "probe_exporter", f"--web.listen-address=127.0.0.1:{port}"]
    with running(command, directory, directory / "exporter.log", listening(port), environment=environment) as process:
        with socket.create_connection(("127.0.0.1", port), 600) as connection:
            connection.sendall(HEALTHY)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        threads = Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9


@pytest.mark.longest
@pytest.mark.slow
def test_serving_costs_little_more_than_importing_its_libraries(tmp_path: Path) -> None:
    """Both with bytecode, which installers make: the first run of each only writes it."""
    environment = {k: v for k, v in _environment().items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path / "bytecode")
    code = "import aiohttp.web, pydantic, uvloop, prometheus_client"
    runs = [
        (cpu_seconds_until_healthy(tmp_path, environment), _cpu_seconds(("-c", code), environment)) for _ in range(6)
    ]
    served, imported = map(min, zip(*runs[1:], strict=True))
    expect_cheaper(served, 1.6 * imported, "a start")
