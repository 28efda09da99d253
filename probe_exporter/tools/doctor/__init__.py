"""``probe-exporter doctor``: check what probing needs of this machine."""
