"""Make a network of namespaces for tests of real network faults: a near host, a router and a far host.

veth pairs connect them. It needs root, iproute2, nftables, ping and fping; without them a test is skipped, and in CI
it fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_CAP_NET_RAW = 13
_numbers = itertools.count()


def missing() -> str:
    """Return why this machine can't make such a network; "" if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    tools = [tool for tool in ("ip", "nft", "ping", "fping") if shutil.which(tool) is None]
    return f"not installed: {', '.join(tools)}" if tools else ""


def require() -> None:
    """Skip the test if this machine can't make such a network; in CI, fail it."""
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def _libc(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{function} failed")


def give_up_net_raw() -> None:
    """Drop CAP_NET_RAW from the calling thread, with capset(2)."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    _libc("capget", header, sets)
    sets[0] &= ~(1 << _CAP_NET_RAW)  # effective
    sets[1] &= ~(1 << _CAP_NET_RAW)  # permitted
    _libc("capset", header, sets)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace: one host of the network."""

    name: str

    def run(self, *command: str, stdin: str | None = None) -> str:
        """Run a program in the namespace and return its standard output.

        Raises:
            RuntimeError: its exit code is not 0.
        """
        whole = ["ip", "netns", "exec", self.name, *command]
        done = subprocess.run(whole, input=stdin, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout

    def ip(self, *arguments: str) -> None:
        """Run ip(8) in the namespace."""
        self.run("ip", *arguments)

    def nft(self, rules: str) -> None:
        """Replace the firewall rules of the namespace."""
        self.run("nft", "-f", "-", stdin=f"flush ruleset\n{rules}")

    def sysctl(self, **values: object) -> None:
        """Set kernel parameters of the namespace, for example ``ipv4__ip_forward=1``."""
        settings = [f"net.{key.replace('__', '.')}={value}" for key, value in values.items()]
        self.run("sysctl", "-q", "-w", *settings)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in a thread of this process that is in the namespace; return or raise what it does."""
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                with (Path("/var/run/netns") / self.name).open() as file:
                    _libc("setns", file.fileno(), _CLONE_NEWNET)
                results.append(function())
            except BaseException as error:  # raised in the calling thread
                errors.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def wait_for(self, function: Callable[[], Coroutine[None, None, T]], *, net_raw: bool = True) -> T:
        """Run a coroutine in the namespace on a new event loop, with or without CAP_NET_RAW."""

        def inside() -> T:
            if not net_raw:
                give_up_net_raw()
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(function())

        return self.call(inside)

    @contextlib.contextmanager
    def responding(self, respond: Callable[[socket.socket, threading.Event], None]) -> Iterator[None]:
        """Let a function respond to pings in the namespace while the block lasts; the kernel does not respond.

        Args:
            respond: gets an open raw ICMP socket, and returns when its event is set.
        """
        stop = threading.Event()
        self.sysctl(ipv4__icmp_echo_ignore_all=1)
        with self.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as sock:
            thread = threading.Thread(target=self.call, args=(lambda: respond(sock, stop),))
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
        self.sysctl(ipv4__icmp_echo_ignore_all=0)


@dataclass(frozen=True, slots=True)
class NamespaceNetwork:
    """near (10.91.1.1, fd91:1::1), router (.254 and ::fe on both sides) and far (10.91.2.2, fd91:2::2)."""

    near: Namespace
    router: Namespace
    far: Namespace


@contextlib.contextmanager
def host(purpose: str = "host") -> Iterator[Namespace]:
    """Make a namespace with loopback alone, and remove it at the end of the block."""
    made = Namespace(f"pe{os.getpid()}-{next(_numbers)}-{purpose}")
    subprocess.run(["ip", "netns", "add", made.name], check=True)
    try:
        made.sysctl(ipv6__conf__all__accept_dad=0, ipv6__conf__default__accept_dad=0)
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", made.name], check=True)


@contextlib.contextmanager
def network() -> Iterator[NamespaceNetwork]:
    """Make a network, and remove it at the end of the block."""
    with host("near") as near, host("router") as router, host("far") as far:
        router.sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        # The kernel limits the rate of ICMP errors: without this, a second test would get none.
        router.sysctl(ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)
        _join(near, router, 1, "1")
        _join(far, router, 2, "2")
        near.run("ping", "-c1", "-w200", "fd91:2::2")  # IPv6 addresses take a second to become usable
        yield NamespaceNetwork(near, router, far)


def _join(host: Namespace, router: Namespace, number: int, address: str) -> None:
    """Connect the eth0 of a host to the router, and make that its default route."""
    to_host = f"host{number}"
    host.ip("link", "add", "eth0", "type", "veth", "peer", "name", to_host, "netns", router.name)
    for one, device, last in ((host, "eth0", address), (router, to_host, "254")):
        one.ip("address", "add", f"10.91.{number}.{last}/24", "dev", device)
        last_6 = "fe" if last == "254" else last
        one.ip("address", "add", f"fd91:{number}::{last_6}/64", "dev", device, "nodad")
        one.ip("link", "set", device, "up")
    host.ip("route", "add", "default", "via", f"10.91.{number}.254")
    host.ip("-6", "route", "add", "default", "via", f"fd91:{number}::fe")
