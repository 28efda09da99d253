"""Check the kernel's settings: permission to ping, IPv6, open files, source ports. No packet is sent."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

from probe_exporter.flags import FILES_PER_PROBE, RESERVED_FILES
from probe_exporter.tools.doctor.finding import Finding

PROC_NET = Path("/proc/sys/net")

TIME_WAIT_SECONDS = 60
"""Seconds for which the kernel keeps the source port of a closed connection (TCP_TIMEWAIT_LEN)."""

OUTSIDE_IPV6 = "2001:db8::1"
"""An address for documentation (RFC 3849): connecting a UDP socket looks up its route and sends nothing."""


def ping() -> Finding:
    """Check that this process may open an ICMP socket, as the icmp prober does."""
    for kind, by in ((socket.SOCK_DGRAM, "net.ipv4.ping_group_range"), (socket.SOCK_RAW, "CAP_NET_RAW")):
        try:
            socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
        except OSError:
            continue
        return Finding("ping", "pass", f"permitted by {by}")
    return Finding(
        "ping",
        "fail",
        "not permitted: probes of the icmp prober fail with the reason icmp_permission",
        'sysctl -w net.ipv4.ping_group_range="0 2147483647"',
    )


def ipv6(outside: str = OUTSIDE_IPV6) -> Finding:
    """Check that IPv6 has a loopback address and a route.

    Args:
        outside: an address that should have a route.
    """
    if not (PROC_NET / "ipv6").exists():
        return Finding(
            "ipv6", "warn", "the kernel has no IPv6: a target with an IPv6 address fails unless a module prefers IPv4",
            "set preferred_ip_protocol: ip4 in the modules",
        )  # fmt: skip
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as sock:
            sock.bind(("::1", 0))
    except OSError as error:
        message = f"::1 can't be used ({error.strerror}): targets on IPv6 loopback fail"
        return Finding("ipv6", "warn", message, "sysctl -w net.ipv6.conf.lo.disable_ipv6=0")
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.connect((outside, 9))
    except OSError:
        return Finding(
            "ipv6", "warn", "no route: a target that has an IPv6 address fails unless a module prefers IPv4",
            "set preferred_ip_protocol: ip4 in the modules, or: ip -6 route add default via ROUTER dev INTERFACE",
        )  # fmt: skip
    return Finding("ipv6", "pass", "there are a loopback address and a route")


def open_files(probes: int, limit: int | None = None) -> Finding:
    """Check that the limit on open files allows so many concurrent probes.

    Args:
        probes: as --probe.max-concurrent.
        limit: the hard limit, which the exporter makes its soft limit; None for that of this process.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if limit is None else limit
    wanted = RESERVED_FILES + FILES_PER_PROBE * probes
    if hard == resource.RLIM_INFINITY:
        return Finding("open files", "pass", f"no limit: enough for {probes} concurrent probes")
    if hard >= wanted:
        return Finding("open files", "pass", f"up to {hard}: enough for {probes} concurrent probes")
    allowed = max(1, (hard - RESERVED_FILES) // FILES_PER_PROBE)
    message = f"up to {hard}: enough for {allowed} concurrent probes, not for {probes} (--probe.max-concurrent)"
    return Finding("open files", "fail", message, f"ulimit -n {wanted} (in a systemd unit: LimitNOFILE={wanted})")


def source_ports(probes: int, settings: Path = PROC_NET / "ipv4") -> Finding:
    """Check that there are enough source ports for so many concurrent connections to one address.

    Args:
        probes: as --probe.max-concurrent.
        settings: the directory with the files of the kernel's settings.
    """
    try:
        first, last = map(int, (settings / "ip_local_port_range").read_text().split())
        reuse = int((settings / "tcp_tw_reuse").read_text())
    except (OSError, ValueError):
        return Finding("source ports", "skip", f"{settings} can't be read")
    ports = last - first + 1
    rate = "" if reuse == 1 else f", {ports // TIME_WAIT_SECONDS} new connections a second to one address and port"
    message = f"{ports} (tcp_tw_reuse={reuse}){rate}"
    if ports < probes:
        fix = 'sysctl -w net.ipv4.ip_local_port_range="10240 65535"'
        return Finding("source ports", "fail", f"{message}: fewer than --probe.max-concurrent ({probes})", fix)
    if reuse == 0:
        return Finding("source ports", "warn", message, "sysctl -w net.ipv4.tcp_tw_reuse=1")
    return Finding("source ports", "pass", message)
