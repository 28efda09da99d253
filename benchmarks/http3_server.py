"""``python -m benchmarks.http3_server PORT DIRECTORY``: an HTTP/3 server on 127.0.0.1 with one page.

It shows the certificate ``leaf.pem`` of the directory. aioquic provides QUIC; the server's CPU time is not measured.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent, StreamDataReceived

from tests.targets.http3 import SETTLED, data, head

PAGE = b"<html><body>good morning</body></html>"
RESPONSE = head(200, ("content-type", "text/html"), ("content-length", str(len(PAGE)))) + data(PAGE)


class _Connection(QuicConnectionProtocol):
    """A client's connection. Every request gets the same page."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ProtocolNegotiated):
            control = self._quic.get_next_available_stream_id(is_unidirectional=True)
            self._quic.send_stream_data(control, SETTLED)
        elif isinstance(event, StreamDataReceived) and event.stream_id % 4 == 0 and event.end_stream:
            self._quic.send_stream_data(event.stream_id, RESPONSE, end_stream=True)


async def main() -> None:
    """Serve until killed."""
    directory = Path(sys.argv[2])
    # In callgrind a client takes long to answer, and packets that are sent twice would be counted.
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"], initial_rtt=5.0)
    configuration.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")
    await serve("127.0.0.1", int(sys.argv[1]), configuration=configuration, create_protocol=_Connection)
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
