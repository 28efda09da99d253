"""Tests of the current configuration: a bad file never replaces a good one, and unchanged files are not read again."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from probe_exporter.config import dump
from probe_exporter.config.loading import load
from probe_exporter.config.module import ConfigError
from probe_exporter.config.reloading import REFUSALS, Configuration, Source
from probe_exporter.plugins.loader import LoaderError, library, load_probers
from probe_exporter.runner import run
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.tls.loading import client_context
from probe_exporter.tls.settings import TLSSettings
from tests.cost import short_turns

GOOD = "modules: {one: {prober: http}}\n"
BETTER = "modules: {one: {prober: http}, two: {prober: http, timeout: 3s}}\n"
BAD = "modules: {one: {prober: http, tiemout: 3s}}\n"

PROBER = """
from probe_exporter import Probe, Prober, Settings

async def probe_own(probe: Probe, settings: Settings) -> None:
    "Nothing."

prober = Prober("own", Settings, probe_own, description="%s")
"""


BROKEN = PROBER.replace("async def", "1 / 0\n\n\nasync def", 1)


class Setup:
    """A config file, the configuration loaded from it, and the reload metrics."""

    def __init__(self, directory: Path, text: str = GOOD) -> None:
        self.directory = directory
        self.file = directory / "blackbox.yml"
        self.file.write_text(text)
        self.telemetry = Telemetry()
        self.configuration = Configuration(Source((str(self.file),), (directory,)), self.telemetry)

    @property
    def modules(self) -> set[str]:
        return set(self.configuration.current.modules)

    @property
    def successful(self) -> float | None:
        return self._value("successful")

    @property
    def stamp(self) -> float | None:
        return self._value("success_timestamp_seconds")

    def _value(self, name: str) -> float | None:
        return self.telemetry.registry.get_sample_value(f"blackbox_exporter_config_last_reload_{name}")


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_first_load_refuses_bad_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiemout"):
        Setup(tmp_path, BAD)


def test_first_load_counts_as_reload(setup: Setup) -> None:
    assert (setup.modules, setup.successful) == ({"one"}, 1)
    assert setup.stamp


async def test_reload_applies_changed_file(setup: Setup) -> None:
    before = setup.configuration.current
    setup.file.write_text(BETTER)
    await setup.configuration.reload()
    assert setup.modules == {"one", "two"}
    assert set(before.modules) == {"one"}, "running probes keep theirs"


async def test_reload_keeps_config_if_file_is_bad(setup: Setup) -> None:
    stamp = setup.stamp
    setup.file.write_text(BAD)
    with pytest.raises(ConfigError, match=r"blackbox\.yml:1:31: modules\.one\.tiemout"):
        await setup.configuration.reload()
    assert (setup.modules, setup.successful, setup.stamp) == ({"one"}, 0, stamp)


async def test_reload_keeps_config_if_file_is_a_link_to_itself(setup: Setup) -> None:
    setup.file.unlink()
    setup.file.symlink_to(setup.file)
    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        await setup.configuration.reload()
    assert (setup.modules, setup.successful) == ({"one"}, 0)


async def test_reload_refuses_bad_file_each_time(setup: Setup) -> None:
    setup.file.write_text(BAD)
    for _ in range(2):
        with pytest.raises(ConfigError):
            await setup.configuration.reload()


@pytest.mark.parametrize("again", ["reload", "reload_if_changed"])
async def test_reload_succeeds_after_file_is_fixed(setup: Setup, again: str) -> None:
    setup.file.write_text(BAD)
    with pytest.raises(ConfigError):
        await setup.configuration.reload()
    setup.file.write_text(GOOD)
    await getattr(setup.configuration, again)()
    assert setup.successful == 1


async def test_reload_without_change_updates_timestamp_only(setup: Setup) -> None:
    before, stamp = setup.configuration.current, setup.stamp
    await setup.configuration.reload()
    assert setup.configuration.current is before
    assert stamp is not None
    assert setup.stamp is not None
    assert setup.stamp > stamp


async def test_auto_reload_without_change_does_nothing(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "probe_exporter")
    before, stamp = setup.configuration.current, setup.stamp
    await setup.configuration.reload_if_changed()
    assert setup.configuration.current is before
    assert setup.stamp == stamp
    assert caplog.records == []


async def test_auto_reload_applies_changed_file(setup: Setup) -> None:
    setup.file.write_text(BETTER)
    await setup.configuration.reload_if_changed()
    assert setup.modules == {"one", "two"}


@pytest.mark.parametrize("harm", ["spoil", "remove"])
async def test_auto_reload_logs_bad_file_once(setup: Setup, harm: str) -> None:
    if harm == "spoil":
        setup.file.write_text(BAD)
    else:
        setup.file.unlink()
    with pytest.raises(REFUSALS):
        await setup.configuration.reload_if_changed()
    assert setup.successful == 0
    await setup.configuration.reload_if_changed()
    assert (setup.modules, setup.successful) == ({"one"}, 0)


async def test_auto_reload_notices_new_prober_file(setup: Setup) -> None:
    (setup.directory / "own.py").write_text(PROBER % "first")
    setup.file.write_text("modules: {mine: {prober: own}}\n")
    await setup.configuration.reload()
    assert setup.configuration.current.modules["mine"].prober.description == "first"
    (setup.directory / "own.py").write_text(PROBER % "second")
    await setup.configuration.reload_if_changed()
    assert setup.configuration.current.modules["mine"].prober.description == "second"


async def test_reload_refuses_broken_prober_file(setup: Setup) -> None:
    (setup.directory / "own.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(LoaderError, match=r"own\.py"):
        await setup.configuration.reload()
    assert (setup.modules, setup.successful) == ({"one"}, 0)


async def test_reload_logs_warnings(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    setup.file.write_text("modules: {one: {prober: http, http: {no_follow_redirects: true}}}\n")
    await setup.configuration.reload()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any("no_follow_redirects" in warning for warning in warnings)


async def test_reload_refuses_warnings_if_strict(tmp_path: Path) -> None:
    file = tmp_path / "blackbox.yml"
    file.write_text("modules: {one: {prober: http, http: {no_follow_redirects: true}}}\n")
    with pytest.raises(ConfigError, match="no_follow_redirects"):
        Configuration(Source((str(file),), strict=True), Telemetry())


async def test_reload_drops_tls_contexts_of_old_config(tmp_path: Path) -> None:
    """A refused configuration changes nothing else."""
    setup = Setup(tmp_path)
    context = await client_context(TLSSettings())
    setup.file.write_text(BAD)
    with pytest.raises(ConfigError):
        await setup.configuration.reload()
    assert await client_context(TLSSettings()) is context
    setup.file.write_text(BETTER)
    await setup.configuration.reload()
    assert await client_context(TLSSettings()) is not context


def many_modules(timeout: int) -> str:
    """A configuration with 2,000 modules, of which a reload makes all anew."""
    module = "{{prober: tcp, timeout: {}s, tcp: {{query_response: [{{expect: '^{} '}}]}}}}"
    return "modules:\n" + "".join([f"  tcp_{one}: {module.format(timeout, one)}\n" for one in range(2_000)])


@pytest.mark.slow
async def test_reload_of_thousands_of_modules_lets_probes_go_on(tmp_path: Path) -> None:
    """Each probe that began before or during the reload succeeds, and no turn of the loop takes long."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"7 is the number\n")
        await reader.read()
        writer.close()

    setup = Setup(tmp_path, many_modules(timeout=60))
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        setup.file.write_text(many_modules(timeout=61))

        async def probe() -> float:
            module = setup.configuration.current.modules["tcp_7"]
            result = await run(module, target, module.timeout)
            assert result.success, result.failure
            return result.timeout

        with short_turns():
            reload = asyncio.create_task(setup.configuration.reload())
            assert await probe() == 60.0
            while not reload.done():
                await probe()
            await reload
            assert await probe() == 61.0


# --- probers that are broken -------------------------------------------------------------------------------


async def test_reload_loads_new_prober_file_and_its_modules(setup: Setup) -> None:
    """The same holds for a changed file and a removed file."""
    own = setup.directory / "own.py"
    own.write_text(PROBER % "first")
    (setup.directory / "own.yml").write_text("modules: {mine: {prober: own}}")
    await setup.configuration.reload_if_changed()
    assert setup.configuration.current.modules["mine"].prober.description == "first"
    own.write_text(PROBER % "later")
    await setup.configuration.reload_if_changed()
    assert setup.configuration.current.modules["mine"].prober.description == "later"
    own.unlink()
    with pytest.raises(ConfigError, match="unknown prober `own`"):
        await setup.configuration.reload_if_changed()
    assert setup.modules == {"one", "mine"}, "the config before stays in use"


async def test_reload_keeps_prober_if_its_file_breaks(setup: Setup) -> None:
    own = setup.directory / "own.py"
    own.write_text(PROBER % "good")
    await setup.configuration.reload()
    own.write_text(BROKEN)
    with pytest.raises(LoaderError, match=r"own\.py can't be loaded: ZeroDivisionError: division by zero \(line 4\)"):
        await setup.configuration.reload()
    assert "own" in setup.configuration.current.probers


MODULES = """
modules:
  mine: {prober: own, timeout: 2s, own: {anything: [1, {may: stand}], here: yes}}
  other: {prober: http, own: {even: here}}
"""


def test_ignore_errors_drops_broken_probers_and_their_modules(tmp_path: Path) -> None:
    (tmp_path / "renamed.py").write_text(BROKEN)  # declares `own`, and never gets to it
    (tmp_path / "own.yml").write_text(MODULES)
    source = Source((str(tmp_path / "own.yml"),), (tmp_path,), ignore_errors=True)
    config = source.read()
    assert set(config.modules) == {"other"}
    assert "own" not in config.probers
    assert config.probers_not_loaded == 1
    assert [str(warning) for warning in config.warnings] == [
        f"{tmp_path}/own.yml:3:3: modules.mine: left out: its prober is broken, see {tmp_path}/renamed.py",
        f"{tmp_path}/own.yml:4:25: modules.other.own: a block of another prober has no effect: this module's is http",
        f"{tmp_path}/renamed.py: broken, and ignored: can't be loaded: ZeroDivisionError: division by zero (line 4)",
    ]


def test_ignore_errors_refuses_unknown_prober(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    (tmp_path / "own.yml").write_text("modules: {mine: {prober: htpp}}")
    with pytest.raises(ConfigError, match="unknown prober `htpp`"):
        Source((str(tmp_path / "own.yml"),), (tmp_path,), ignore_errors=True).read()


def test_ignore_errors_refuses_broken_prober_if_strict(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BROKEN)
    (tmp_path / "own.yml").write_text("modules: {mine: {prober: own}}")
    with pytest.raises(ConfigError) as refused:
        Source((str(tmp_path / "own.yml"),), (tmp_path,), strict=True, ignore_errors=True).read()
    assert len(refused.value.problems) == 2


# --- shipped modules ---------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a configuration, so that the shipped modules are in use."""
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own"
    own.mkdir(mode=0o755)
    return own


def test_shipped_modules_are_what_they_are_when_all_are_checked_at_load(elsewhere: Path) -> None:
    """They are made on first use; a test of the library loads all files strictly."""
    files = sorted(library().glob("*.yml"))
    checked = load(files, load_probers([]), strict=True)
    config = Source().read()
    assert not config.modules.checked
    assert len(config.modules) == len(checked.modules)
    assert sorted(config.modules) == sorted(checked.modules)
    assert dump.to_yaml(config) == dump.to_yaml(checked)
    assert {name: module.place for name, module in config.modules.items()} == {
        name: module.place for name, module in checked.modules.items()
    }
    assert "icmp" in config.modules
    assert config.modules["icmp"] is config.modules["icmp"]
    assert "nothing" not in config.modules
    assert config.modules.get("nothing") is None
    assert not config.guarded


def test_shipped_modules_have_no_targets_of_their_own(elsewhere: Path) -> None:
    """A module with `targets` puts a guard on all others, which is decided at load."""
    assert [name for name, module in Source().read().modules.items() if module.networking.targets] == []


def test_targets_of_a_directory_hold_for_shipped_modules(elsewhere: Path) -> None:
    (elsewhere / "own.yml").write_text("targets: {allow: [192.0.2.0/24]}")
    config = Source((), (elsewhere,)).read()
    assert config.guarded
    assert config.modules["icmp"].network is not None


def test_targets_of_one_module_guard_shipped_modules(elsewhere: Path) -> None:
    (elsewhere / "own.yml").write_text("modules: {mine: {prober: icmp, targets: {deny: [192.0.2.1]}}}")
    config = Source((), (elsewhere,)).read()
    network = config.modules["http_2xx"].network
    assert network is not None
    assert network.guard is not None


def test_name_of_a_shipped_module_can_be_defined_once_only(elsewhere: Path) -> None:
    (elsewhere / "own.yml").write_text("modules: {icmp: {prober: icmp}}")
    with pytest.raises(ConfigError, match=r"own\.yml:1:11: modules\.icmp: module `icmp` is defined twice; the first"):
        Source((), (elsewhere,)).read()


def test_reload_finds_the_shipped_modules_again(elsewhere: Path) -> None:
    before, after = Source().read(), Source((), (elsewhere,)).read()
    assert before.modules["redis"].prober is after.modules["redis"].prober
