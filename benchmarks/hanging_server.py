"""``python -m benchmarks.hanging_server PORT``: accept connections on 127.0.0.1 and never answer.

It keeps a connection until the client closes it.
"""

from __future__ import annotations

import asyncio
import resource
import sys


async def main() -> None:
    """Serve until killed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
