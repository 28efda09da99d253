"""``python -m benchmarks.dns_server PORT``: answer every DNS query on 127.0.0.1 with the same records.

It replaces a real name server, which would need to be installed. Its CPU time is not measured.
"""

from __future__ import annotations

import socket
import struct
import sys

# The address of the queried name, the name server of its zone, and the address of that server.
ANSWER = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + bytes([192, 0, 2, 1])
AUTHORITY = b"\xc0\x10" + struct.pack(">HHIH", 2, 1, 3600, 6) + b"\3ns1\xc0\x10"
ADDITIONAL = b"\3ns1\xc0\x10" + struct.pack(">HHIH", 1, 1, 3600, 4) + bytes([192, 0, 2, 53])
HEADER = struct.pack(">5H", 0x8580, 1, 1, 1, 1)


def main() -> None:
    """Serve until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", int(sys.argv[1])))
        print("listening", flush=True)
        while True:
            query, client = server.recvfrom(512)
            server.sendto(query[:2] + HEADER + query[12:] + ANSWER + AUTHORITY + ADDITIONAL, client)


if __name__ == "__main__":
    main()
