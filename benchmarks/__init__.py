"""Measure what a probe costs this exporter and the original, in one run."""
