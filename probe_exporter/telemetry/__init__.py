"""The exporter's own logs and metrics."""
