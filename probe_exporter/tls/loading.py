"""Load OpenSSL at the first connection that needs TLS, in a thread: it takes 0.1 s and 10 MiB of memory.

Files that every prober loads import no file that needs OpenSSL, but within the functions that use TLS. Those are
called after `load` or `client_context`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from probe_exporter.tls.settings import TLSSettings

if TYPE_CHECKING:
    from probe_exporter.tls.context import ClientContext

CONTEXT = "probe_exporter.tls.context"
"""The file that needs all that a connection with TLS needs."""

EXAMINATION = "probe_exporter.protocols.pki.examination"
"""The file that needs all that a closer look at certificates needs."""


_loaded: dict[str, Any] = {}
"""The modules of these files. An ``import`` in each probe would take a percent of it."""


async def load(file: str = CONTEXT) -> None:
    """Import what a connection with TLS needs, unless this process has it.

    Args:
        file: `CONTEXT`, or `EXAMINATION` for the examination of certificates too.
    """
    if file not in _loaded:
        await asyncio.to_thread(load_now, file)


def load_now(file: str = CONTEXT) -> None:
    """Import it in this thread. A context is made and dropped: OpenSSL needs 20 ms for the first one, 5 for others."""
    context = importlib.import_module(CONTEXT)
    if CONTEXT not in _loaded:
        context.ClientContext(TLSSettings(insecure_skip_verify=True), ())
    _loaded[file] = importlib.import_module(file)
    _loaded[CONTEXT] = context


def client_context(settings: TLSSettings, alpn: tuple[str, ...] = ()) -> Coroutine[Any, Any, ClientContext]:
    """Return the context for some settings, shared by all connections with equal ones: see `context.remembered`.

    Args:
        settings: a module's ``tls_config``.
        alpn: the protocols to offer, best first.

    Raises:
        ProbeFailed: the settings can't be used.
    """
    return _loaded[CONTEXT].client_context(settings, alpn) if CONTEXT in _loaded else _first_context(settings, alpn)


async def _first_context(settings: TLSSettings, alpn: tuple[str, ...]) -> ClientContext:
    await load()
    return await client_context(settings, alpn)
