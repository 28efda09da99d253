"""The smallest exporter: serves metrics as text on :7777, without a client library.

    python examples/smallest_exporter.py
    curl -s localhost:7777/metrics
    curl -s 'localhost:9115/probe?module=exporter&target=localhost:7777' | grep probe_exporter

The ``exporter`` prober has one lint finding: the name of a counter should end with ``_total``.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

METRICS = b"""\
# HELP myapp_processed_ops_total1 Operations that the application has processed.
# TYPE myapp_processed_ops_total1 counter
myapp_processed_ops_total1{date="Thursday"} 1622
"""


class Handler(BaseHTTPRequestHandler):
    """Answer every GET with the metrics."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(METRICS)))
        self.end_headers()
        self.wfile.write(METRICS)


def main(port: int = 7777) -> None:
    """Serve until the process is stopped."""
    ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
