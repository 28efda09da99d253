"""Load OpenSSL at the first connection that needs TLS, in a thread: it takes 0.1 s and 10 MiB of memory.

Files that every prober loads import no file that needs OpenSSL, but within the functions that use TLS. Those are
called after `load`. They import a file, and not a name from it: that takes four times as long, and each probe does it.
"""

from __future__ import annotations

import asyncio
import importlib

from probe_exporter.tls.settings import TLSSettings

CONTEXT = "probe_exporter.tls.context"
"""The file that needs all that a connection with TLS needs."""

EXAMINATION = "probe_exporter.protocols.pki.examination"
"""The file that needs all that a closer look at certificates needs."""


_loaded: set[str] = set()


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
    importlib.import_module(file)
    _loaded.update((CONTEXT, file))
