"""``probe-exporter doctor``: check this machine and its surroundings for what probes need."""
