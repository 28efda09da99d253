"""Load OpenSSL at the first connection that needs TLS, in a thread: it takes 0.1 s and 10 MiB of memory.

Files that every prober loads import no file that needs OpenSSL, but within the functions that use TLS. Those are
called after `load`.
"""

from __future__ import annotations

import asyncio
import importlib

CONTEXT = "probe_exporter.tls.context"
"""The file that needs all that a connection with TLS needs."""


class _State:
    loaded = False


async def load() -> None:
    """Import what a connection with TLS needs, unless this process has it."""
    if not _State.loaded:
        await asyncio.to_thread(importlib.import_module, CONTEXT)
        _State.loaded = True
