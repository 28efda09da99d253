"""The smallest exporter there is: text over HTTP on :7777, and no client library.

    python examples/smallest_exporter.py
    curl -s localhost:7777/metrics
    curl -s 'localhost:9115/probe?module=exporter&target=localhost:7777' | grep probe_exporter

The ``exporter`` prober finds something to say about it: a counter's name should end in ``_total``.
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
    """Answers every GET with the metrics."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(METRICS)))
        self.end_headers()
        self.wfile.write(METRICS)


def main(port: int = 7777) -> None:
    """Serve until somebody ends it."""
    ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
