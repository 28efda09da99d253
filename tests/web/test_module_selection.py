"""Modules that a request names are found at once; those that must be made first are made in a thread, each once."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from probe_exporter.config.module import Module, Modules
from probe_exporter.config.reloading import Configuration, Source
from probe_exporter.history.memory import MemoryHistory
from probe_exporter.history.probe_log import ProbeLog
from probe_exporter.plugins.loader import LoaderError
from probe_exporter.telemetry.counters import Telemetry
from probe_exporter.web.answers import Refused
from probe_exporter.web.module_selection import UnknownModule, modules_made, modules_named
from probe_exporter.web.probing import Probing
from probe_exporter.web.request import WebRequest

PLUGINS = Path(__file__).parents[1] / "own_probers"
CONFIG = "modules: {one: {prober: actor}, two: {prober: actor}}\n"


class Setup:
    """A configuration whose modules are made at their first use, and what handles requests for probes of it."""

    def __init__(self, directory: Path) -> None:
        (directory / "blackbox.yml").write_text(CONFIG)
        telemetry = Telemetry()
        self.configuration = Configuration(Source((str(directory / "blackbox.yml"),), (PLUGINS,)), telemetry)
        self.checked = self.configuration.current.modules
        self.threads: list[int] = []
        self.use({name: self._maker(name) for name in ("one", "two")})
        history = MemoryHistory(10, 1 << 20, ProbeLog(), telemetry.history_lost)
        self.probing = Probing(self.configuration, telemetry, history, ProbeLog(), 0.5, 10)

    def use(self, makers: dict[str, Callable[[], Module]]) -> None:
        """Let the configuration have modules that these functions make."""
        self.configuration.current = replace(self.configuration.current, modules=Modules({}, makers))

    def _maker(self, name: str) -> Callable[[], Module]:
        def make() -> Module:
            self.threads.append(threading.get_ident())
            return self.checked[name]

        return make

    async def probe(self, module: str) -> str:
        """Probe with a module; return the text of the answer."""
        answer = await self.probing.probe(WebRequest("GET", "/probe", {}), f"target=x&module={module}")
        assert isinstance(answer.body, bytes)
        return answer.body.decode()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def test_first_probe_of_a_module_makes_it_in_a_thread(setup: Setup) -> None:
    assert "\nprobe_success 1\n" in await setup.probe("one")
    (thread,) = setup.threads
    assert thread != threading.get_ident()
    assert "\nprobe_success 1\n" in await setup.probe("one")
    assert setup.threads == [thread], "made once"


async def test_probes_that_come_together_make_their_module_once(setup: Setup) -> None:
    answers = await asyncio.gather(*[setup.probe("one") for _ in range(5)])
    assert all("\nprobe_success 1\n" in answer for answer in answers)
    assert len(setup.threads) == 1


async def test_several_modules_of_a_request_are_made_together(setup: Setup) -> None:
    assert await setup.probe("one,two")
    assert len(setup.threads) == 2
    assert len(set(setup.threads)) == 1


def no_files(raised: Exception) -> Callable[[], Module]:
    def make() -> Module:
        try:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/lib/actor.py")
        except OSError as error:
            raise raised from error

    return make


@pytest.mark.parametrize("raised", [ImportError("libssl.so: can't open"), LoaderError("actor.py: OSError")])
async def test_import_without_file_descriptors_is_answered_with_503(setup: Setup, raised: Exception) -> None:
    setup.use({"one": no_files(raised)})
    with pytest.raises(Refused, match="no file descriptor left") as refused:
        await setup.probe("one")
    assert refused.value.status == 503
    setup.use({"one": lambda: setup.checked["one"]})
    assert "\nprobe_success 1\n" in await setup.probe("one"), "the next request tries again"


async def test_other_errors_of_making_a_module_are_not_hidden(setup: Setup) -> None:
    def fail() -> Module:
        raise LoaderError("broken")

    setup.use({"one": fail})
    with pytest.raises(LoaderError, match="broken"):
        await setup.probe("one")


async def test_module_made_while_the_exporter_shuts_down_is_not_probed(setup: Setup) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def make() -> Module:
        begun.set()
        assert go_on.wait(300)
        return setup.checked["one"]

    setup.use({"one": make})
    probe = asyncio.create_task(setup.probe("one"))
    await asyncio.to_thread(begun.wait, 300)
    await setup.probing.drain()
    go_on.set()
    with pytest.raises(Refused, match="shutting down"):
        await probe


def test_made_modules_are_those_that_exist_already(setup: Setup) -> None:
    config = setup.configuration.current
    assert modules_made(config, "one") is None
    assert modules_made(config, "one,two") is None
    assert modules_named(config, "one") == [setup.checked["one"]]
    assert modules_made(config, "one") == [setup.checked["one"]]
    assert modules_made(config, "one,two") is None
    assert len(setup.threads) == 1
    with pytest.raises(UnknownModule):
        modules_made(config, "one,three")
