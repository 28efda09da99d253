"""Finished probes: kept in memory or in a file, for debugging."""
