"""TLS as a client, without I/O: settings, contexts, verification, metrics of a handshake."""
