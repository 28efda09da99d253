"""ICMP echo: messages, and the sockets that all pings share."""
