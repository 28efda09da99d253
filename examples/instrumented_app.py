"""An application with Prometheus metrics: counts its operations and serves the count on :2112/metrics.

python examples/instrumented_app.py
curl -s localhost:2112/metrics | grep myapp
curl -s 'localhost:9115/probe?module=exporter&target=localhost:2112' | grep probe_exporter
"""

from __future__ import annotations

import sys
import time

from prometheus_client import Counter, start_http_server

PROCESSED = Counter("myapp_processed_ops_total", "Operations that the application has processed.")


def main(port: int = 2112) -> None:
    """Serve the metrics and process an operation every two seconds."""
    start_http_server(port)
    while True:
        PROCESSED.inc()
        time.sleep(2)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
