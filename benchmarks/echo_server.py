"""``python -m benchmarks.echo_server PORT``: a WebSocket server on 127.0.0.1 that sends each short message back.

Its CPU time is not measured.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys

_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_CLOSE = 8
_KEY = re.compile(rb"(?i)sec-websocket-key: *([^\r\n]+)")


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Open one WebSocket, and echo its messages of up to 125 bytes until the client closes it."""
    found = _KEY.search(await reader.readuntil(b"\r\n\r\n"))
    if found is not None:
        accept = base64.b64encode(hashlib.sha1(found[1].strip() + _SUFFIX).digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        opcode = 0
        while opcode != _CLOSE:
            try:
                first, size = await reader.readexactly(2)
                mask = await reader.readexactly(4)
                masked = await reader.readexactly(size & 0x7F)
            except asyncio.IncompleteReadError:
                break
            opcode = first & 0x0F
            text = bytes(byte ^ mask[at % 4] for at, byte in enumerate(masked))
            writer.write(bytes((first, len(text))) + text)
    writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
