"""Addresses and host names as text: parse, normalise, allow and deny. No lookups, no sockets."""
