"""TLS contexts are made in threads, each once for all probes that wait. `test_verification` tests what they do."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from probe_exporter.config.module import Module
from probe_exporter.config.problems import Place
from probe_exporter.prober.declaration import Prober
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.probers import http, websocket
from probe_exporter.runner import run
from probe_exporter.tls import context as contexts
from probe_exporter.tls import loading
from probe_exporter.tls.context import ClientContext, forget_contexts, remembered
from probe_exporter.tls.loading import client_context
from probe_exporter.tls.settings import TLSSettings
from tests.outcomes import why
from tests.targets import Pki, Site, Tls, reply
from tests.targets.http3 import Quic
from tests.targets.http3 import reply as reply_over_quic
from tests.targets.websocket import WebsocketSite, upgraded

CERTIFICATES = 3000


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Start each test without cached contexts."""
    forget_contexts()
    yield
    forget_contexts()


class Bundle:
    """A named pipe in place of a file with authorities: the thread that reads it waits until it is written.

    Attributes:
        settings: name it.
    """

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.settings = TLSSettings(ca_file=str(path))
        self._path = path

    async def write(self, data: bytes) -> None:
        """Write the authorities, and return once a thread has begun to read them."""
        await asyncio.to_thread(self._path.write_bytes, data)

    def close(self) -> None:
        """Let a thread that still reads go on."""
        os.close(os.open(self._path, os.O_RDWR | os.O_NONBLOCK))


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    made = Bundle(tmp_path / "ca.pem")
    yield made
    made.close()


@pytest.fixture(scope="module")
def many(pki: Pki) -> bytes:
    """Thousands of authorities, more than a megabyte."""
    return (pki.directory / "root.pem").read_bytes() * CERTIFICATES


async def asked(settings: TLSSettings, number: int) -> list[asyncio.Task[ClientContext]]:
    """Return tasks that wait for a context."""
    await loading.load()
    tasks = [asyncio.create_task(client_context(settings)) for _ in range(number)]
    await asyncio.sleep(0)
    assert contexts._making
    return tasks


async def test_context_with_a_large_bundle_is_made_in_a_thread_while_the_loop_takes_turns(
    bundle: Bundle, many: bytes
) -> None:
    """The loop takes turns before the bundle can be read: if it read the bundle, this test would not go on."""
    (task,) = await asked(bundle.settings, 1)
    assert not task.done()
    await bundle.write(many)
    assert isinstance(await task, ClientContext)


async def test_context_is_made_once_for_all_probes_that_wait(
    bundle: Bundle, many: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    really = ClientContext.__init__

    def note(self: ClientContext, settings: TLSSettings, alpn: tuple[str, ...]) -> None:
        threads.append(threading.get_ident())
        really(self, settings, alpn)

    monkeypatch.setattr(ClientContext, "__init__", note)
    tasks = await asked(bundle.settings, 100)
    await bundle.write(many)
    assert len({id(await task) for task in tasks}) == 1
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_cancelled_probe_leaves_the_context_to_the_others(bundle: Bundle, many: bytes) -> None:
    first, second = await asked(bundle.settings, 2)
    first.cancel()
    await asyncio.sleep(0)
    assert first.cancelled()
    await bundle.write(many)
    assert isinstance(await second, ClientContext)


async def test_context_is_kept_for_later_probes_if_its_only_probe_is_cancelled() -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def make() -> object:
        begun.set()
        goes_on.wait()
        return made

    made, settings = object(), TLSSettings()
    task = asyncio.create_task(remembered("kind", settings, make))
    await asyncio.to_thread(begun.wait)
    task.cancel()
    await asyncio.wait([task])
    goes_on.set()
    assert await remembered("kind", settings, object) is made


async def test_context_that_no_probe_waits_for_any_more_is_not_begun() -> None:
    loop, goes_on = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    busy = loop.run_in_executor(None, goes_on.wait)
    made: list[object] = []
    settings = TLSSettings()
    tasks = [asyncio.create_task(remembered(kind, settings, lambda: made.append(None))) for kind in (1, 1, 2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert not contexts._making
    again = asyncio.create_task(remembered(1, settings, object))
    goes_on.set()
    assert await busy
    assert await again is await remembered(1, settings, object)
    assert made == []


async def test_context_that_cannot_be_made_fails_each_waiting_probe_by_an_exception_of_its_own(
    bundle: Bundle,
) -> None:
    tasks = await asked(bundle.settings, 3)
    await bundle.write(b"nothing in PEM form")
    await asyncio.wait(tasks)
    failures = [task.exception() for task in tasks]
    assert len({id(failure) for failure in failures}) == 3
    for failure in failures:
        assert isinstance(failure, ProbeFailed)
        assert (failure.reason, failure.message) == (
            Reason.SETTINGS_UNUSABLE, "tls_config: ca holds no certificate in PEM form",
        )  # fmt: skip


async def test_failed_context_is_made_again(pki: Pki, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.touch()
    for _ in range(2):
        with pytest.raises(ProbeFailed):
            await client_context(TLSSettings(ca_file=str(file)))
    file.write_bytes((pki.directory / "root.pem").read_bytes())
    assert isinstance(await client_context(TLSSettings(ca_file=str(file))), ClientContext)


async def test_context_made_during_a_reload_is_not_kept(bundle: Bundle, many: bytes) -> None:
    """The reload drops all contexts, so that the next ones have the system's authorities of then."""
    (task,) = await asked(bundle.settings, 1)
    forget_contexts()
    await bundle.write(many)
    assert isinstance(await task, ClientContext)
    assert not contexts._contexts


def sparse(file: Path, size: int) -> str:
    """Make a file of some bytes that takes no room, and return its path."""
    file.touch()
    os.truncate(file, size)
    return str(file)


@pytest.mark.parametrize("inline", [True, False], ids=["ca", "ca_file"])
async def test_contexts_are_limited_by_the_bytes_of_their_authorities(tmp_path: Path, inline: bool) -> None:
    """Two of these fit within the limit. The one that was not used for longest is dropped."""

    def large(name: str) -> TLSSettings:
        size = contexts.MAX_CONTEXTS_BYTES // contexts._BYTES_OF_ONE * 2 // 5
        return TLSSettings(ca=name * size) if inline else TLSSettings(ca_file=sparse(tmp_path / name, size))

    first, second, third = large("1"), large("2"), large("3")
    made = [await remembered("kind", settings, object) for settings in (first, second)]
    assert await remembered("kind", first, object) is made[0]
    await remembered("kind", third, object)
    assert await remembered("kind", first, object) is made[0]
    assert await remembered("kind", second, object) is not made[1]


async def test_context_larger_than_the_limit_is_kept_until_another_one_is_made(tmp_path: Path) -> None:
    """It would be made again for each probe otherwise."""
    huge = TLSSettings(ca_file=sparse(tmp_path / "huge", contexts.MAX_CONTEXTS_BYTES))
    small = TLSSettings(insecure_skip_verify=True)
    made = await remembered("kind", huge, object)
    assert await remembered("kind", huge, object) is made
    await remembered("kind", small, object)
    assert await remembered("kind", huge, object) is not made


def _site(pki: Pki) -> Site:
    return Site({"/": reply(200, b"")}, Tls(), pki.directory)


def _quic_site(pki: Pki) -> Site:
    return Site({"/": reply_over_quic(200, b"")}, pki=pki.directory, quic=Quic())


def _websocket_site(pki: Pki) -> Site:
    return WebsocketSite({"/": upgraded()}, Tls(), pki.directory)


@pytest.mark.parametrize(
    ("make_site", "target", "prober", "settings"),
    [
        (_site, "https://localhost:{tls_port}/", http.prober, {}),
        (_quic_site, "https://localhost:{quic_port}/", http.prober, {"enable_http3": True, "enable_http2": False}),
        (_websocket_site, "wss://localhost:{tls_port}/", websocket.prober, {}),
    ],
    ids=["https", "HTTP/3", "wss"],
)
async def test_probe_looks_its_context_up_once(
    pki: Pki,
    make_site: Callable[[Pki], Site],
    target: str,
    prober: Prober[Any],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each lookup takes a system call for each file of the settings."""
    looked: list[str] = []
    really = contexts._stamp

    def note(key: str, path: str) -> tuple[int, int, int]:
        looked.append(key)
        return really(key, path)

    monkeypatch.setattr(contexts, "_stamp", note)
    client = {"tls_config": pki.trust(), **settings}
    whole = prober.settings.model_validate({"http_config": client} if prober is websocket.prober else client)
    async with make_site(pki) as site:
        result = await run(Module("m", prober, whole, 0.0, Place("t")), site.fill(target), 60.0)
    assert why(result) is None
    assert looked == ["ca"]
