"""Lookups and sockets: the only code that connects to targets."""
