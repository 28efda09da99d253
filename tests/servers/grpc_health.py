"""grpcio: gRPC servers with grpcio's health service, plain, over TLS, and with mutual TLS."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.processes import running
from tests.servers import Room, _grpc_server, server


@dataclass(frozen=True)
class GrpcHealth:
    """The ports of the running gRPC servers: three have the same services, `bare` has none."""

    plain: int
    secure: int
    mutual: int
    bare: int


@server
def grpc_health(room: Room) -> Iterator[GrpcHealth]:
    if not all(importlib.util.find_spec(package) for package in ("grpc", "grpc_health")):
        pytest.skip("grpcio or grpcio-health-checking is not installed")
    made = GrpcHealth(*(room.port() for _ in range(4)))
    ports = (made.plain, made.secure, made.mutual, made.bare)
    ready = room.directory / "ready"
    # -P: Python must not import from this directory, whose files are named like packages.
    command = [sys.executable, "-P", _grpc_server.__file__, *map(str, (*ports, room.pki.directory, ready))]
    with running(command, room.directory, room.directory / "log", ready.exists):
        yield made
