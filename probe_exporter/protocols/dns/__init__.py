"""DNS messages, without I/O."""
