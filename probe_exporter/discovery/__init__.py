"""Find targets, for Prometheus' HTTP service discovery."""
