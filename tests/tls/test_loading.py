"""OpenSSL is loaded once, in a thread, by the first connection that needs TLS; so is what examines certificates."""

from __future__ import annotations

import importlib
import threading
from types import ModuleType

import pytest

from probe_exporter.tls import loading
from probe_exporter.tls.context import ClientContext
from probe_exporter.tls.settings import TLSSettings


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "_loaded", {})


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The files that are imported, each with the number of the thread."""
    files: list[tuple[str, int]] = []
    really = importlib.import_module

    def note(name: str) -> ModuleType:
        files.append((name, threading.get_ident()))
        return really(name)

    monkeypatch.setattr(importlib, "import_module", note)
    return files


async def test_first_load_imports_in_a_thread_and_later_ones_do_nothing(imported: list[tuple[str, int]]) -> None:
    await loading.load()
    files = set(imported)
    ((name, thread),) = files
    assert name == "probe_exporter.tls.context"
    assert thread != threading.get_ident()
    await loading.load()
    assert set(imported) == files


async def test_examination_is_loaded_with_openssl(imported: list[tuple[str, int]]) -> None:
    await loading.load(loading.EXAMINATION)
    assert [name for name, _ in imported] == [loading.CONTEXT, loading.EXAMINATION]
    imported.clear()
    await loading.load()
    await loading.load(loading.EXAMINATION)
    assert not imported


async def test_first_context_of_the_process_is_made_in_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL needs 20 ms for it."""
    made: list[int] = []
    really = ClientContext.__init__

    def note(self: ClientContext, settings: TLSSettings, alpn: tuple[str, ...]) -> None:
        made.append(threading.get_ident())
        really(self, settings, alpn)

    monkeypatch.setattr(ClientContext, "__init__", note)
    await loading.load()
    await loading.load(loading.EXAMINATION)
    assert len(made) == 1
    assert made[0] != threading.get_ident()


async def test_failed_load_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(name)

    with monkeypatch.context() as without_files:
        without_files.setattr(importlib, "import_module", fail)
        with pytest.raises(OSError, match="context"):
            await loading.load()
    await loading.load()
    assert loading.CONTEXT in loading._loaded
