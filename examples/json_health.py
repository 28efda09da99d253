"""An application without Prometheus metrics: serves a JSON health page on :8081/health.

    python examples/json_health.py
    probe-exporter --config.file=examples/values.yml
    curl -s 'localhost:9115/probe?module=app_health&target=localhost:8081/health' | grep app_

``examples/values.yml`` turns values of the page into metrics.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HEALTH = {
    "status": "degraded",
    "version": "2.4.1",
    "requests": 51873,
    "queues": {"mail": {"length": 17, "oldest_ms": 4500}, "reports": {"length": 0, "oldest_ms": 0}},
    "checks": [{"name": "database", "state": "ok"}, {"name": "disk", "state": "warning"}],
}


class Handler(BaseHTTPRequestHandler):
    """Answer every GET with the page."""

    def do_GET(self) -> None:
        body = json.dumps(HEALTH).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Uptime-Seconds", "86400")
        self.end_headers()
        self.wfile.write(body)


def main(port: int = 8081) -> None:
    """Serve until the process is stopped."""
    ThreadingHTTPServer(("", port), Handler).serve_forever()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
