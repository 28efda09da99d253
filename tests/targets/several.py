"""A name with four addresses, each in another state, and an exporter's configuration that probes all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.targets.authority import Authority
from tests.targets.dns import DnsServer, Zone
from tests.targets.nodes import Node, hang_up, nodes, page, pem_context

CONFIG = """
modules:
  every:
    prober: http
    timeout: 60s
    addresses: {{policy: any}}
    resolver: {{servers: ["127.0.0.1:{dns}"], timeout: 60s}}
    targets: {{deny: [127.0.0.5]}}
    http: {{check_revoked: true, tls_config: {{ca_file: "{ca}", server_name: localhost}}}}
  again:
    prober: tcp
    timeout: 60s
    attempts: {{max: 3}}
    tcp: {{query_response: [{{expect: hello}}]}}
"""

GOOD, REFUSING, REVOKED, DENIED = "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"
"""The addresses of ``many.test``."""


class Stage(NamedTuple):
    """The servers, while they run.

    Attributes:
        config: of an exporter that probes them.
        every: the target of the module `every`: a name with four addresses.
        again: the target of the module `again`: a server that closes each connection at once.
    """

    config: str
    every: str
    again: str


@asynccontextmanager
async def _serve(directory: Path) -> AsyncIterator[Stage]:
    async with Authority(directory) as authority:
        point = authority.url("/list")
        authority.issue(point, name="renewed")
        authority.pages["/list"] = authority.crl(authority.issue(point, name="stolen").serial_number)
        servers = {
            GOOD: Node(page(), pem_context(directory, "renewed")),
            REFUSING: Node(),
            REVOKED: Node(page(), pem_context(directory, "stolen")),
            DENIED: Node(page(), pem_context(directory, "renewed")),
        }
        zone = Zone({"many.test": [[*servers]]})
        async with DnsServer(zone) as dns, nodes(servers) as secure, nodes({GOOD: Node(hang_up)}) as closing:
            config = CONFIG.format(dns=dns["port"], ca=authority.ca_file)
            yield Stage(config, f"https://many.test:{secure}/", f"{GOOD}:{closing}")


@contextmanager
def stage(directory: Path) -> Iterator[Stage]:
    """Run the servers in a thread of their own, with certificates in `directory`."""
    loop, ready, over = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    made: list[Stage] = []

    async def serve() -> None:
        try:
            async with _serve(directory) as servers:
                made.append(servers)
                ready.set()
                await over.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(300)
        yield made[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()
