"""``python _grpc_server.py PLAIN SECURE MUTUAL BARE PKI READY``: run gRPC servers (grpcio) on these ports.

It is a process of its own because grpcio has threads and must not be forked. It imports no other file of ours, so it
runs from any directory.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TOKEN = "Bearer sesame"
DATA = b"\x00\xff\x10"
"""The metadata ``authorization`` and ``x-data-bin`` that the service ``closed`` requires."""

SLOW = 1.5
"""Seconds after which the service ``slow`` answers."""

STATUSES = {
    "": "SERVING", "up": "SERVING", "grün": "SERVING", "closed": "SERVING", "slow": "SERVING", "down": "NOT_SERVING",
    "unknown": "UNKNOWN",
}  # fmt: skip
"""The services and their status."""


def main() -> None:
    """Serve until killed."""
    grpc = importlib.import_module("grpc")
    plain, secure, mutual, bare = map(int, sys.argv[1:5])
    pki, ready = Path(sys.argv[5]), Path(sys.argv[6])
    leaf = ((pki / "leaf.key").read_bytes(), (pki / "leaf.pem").read_bytes())
    serving = grpc.server(ThreadPoolExecutor(8), interceptors=[_interceptor(grpc)])
    _add_services(serving)
    for host in ("127.0.0.1", "[::1]"):
        serving.add_insecure_port(f"{host}:{plain}")
        serving.add_secure_port(f"{host}:{secure}", grpc.ssl_server_credentials([leaf]))
    ca = (pki / "root.pem").read_bytes()
    serving.add_secure_port(f"127.0.0.1:{mutual}", grpc.ssl_server_credentials([leaf], ca, require_client_auth=True))
    empty = grpc.server(ThreadPoolExecutor(1))
    empty.add_insecure_port(f"127.0.0.1:{bare}")
    serving.start()
    empty.start()
    ready.touch()
    serving.wait_for_termination()


def _add_services(serving: Any) -> None:
    health, messages, stubs = (importlib.import_module(f"grpc_health.v1.{name}") for name in (
        "health", "health_pb2", "health_pb2_grpc"))  # fmt: skip
    statuses = messages.HealthCheckResponse.ServingStatus
    servicer = health.HealthServicer()
    for service, status in STATUSES.items():
        servicer.set(service, statuses.Value(status))
    stubs.add_HealthServicer_to_server(servicer, serving)


def _interceptor(grpc: Any) -> Any:
    """Make the interceptor of the services ``closed`` and ``slow``."""

    class TokenCheck(grpc.ServerInterceptor):  # type: ignore[misc]
        def intercept_service(self, go_on: Callable[[Any], Any], details: Any) -> Any:
            handler = go_on(details)
            if handler is None:
                return None
            metadata = dict(details.invocation_metadata)

            def check(request: Any, context: Any) -> Any:
                if request.service == "closed" and (
                    metadata.get("authorization") != TOKEN or metadata.get("x-data-bin") != DATA
                ):
                    context.abort(grpc.StatusCode.UNAUTHENTICATED, "100% grün: who are you?")
                if request.service == "slow":
                    time.sleep(SLOW)
                return handler.unary_unary(request, context)

            return grpc.unary_unary_rpc_method_handler(check, handler.request_deserializer, handler.response_serializer)

    return TokenCheck()


if __name__ == "__main__":
    main()
