"""ICMP echo: messages and pings."""
