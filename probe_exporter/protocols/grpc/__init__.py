"""gRPC calls and the health-checking messages."""
