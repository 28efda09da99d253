"""OpenSSL is loaded once, in a thread, by the first connection that needs TLS."""

from __future__ import annotations

import importlib
import threading

import pytest

from probe_exporter.tls import loading


async def test_first_load_imports_in_a_thread_and_later_ones_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[tuple[str, int]] = []
    monkeypatch.setattr(loading._State, "loaded", False)
    monkeypatch.setattr(importlib, "import_module", lambda name: imported.append((name, threading.get_ident())))
    await loading.load()
    await loading.load()
    ((name, thread),) = imported
    assert name == "probe_exporter.tls.context"
    assert thread != threading.get_ident()


async def test_failed_load_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading._State, "loaded", False)

    def fail(name: str) -> None:
        raise OSError(name)

    with monkeypatch.context() as without_files:
        without_files.setattr(importlib, "import_module", fail)
        with pytest.raises(OSError, match="context"):
            await loading.load()
    await loading.load()
