"""Ping hosts through a few sockets that all probes of the process share.

The model:
* A `PingPath` is the way of one probe to one target. It finds or opens the `_Channel` for its kind of socket: IP
  version, fragmentation, source address, interface. Few kinds exist, because the configuration names them.
* A `_Channel` has one socket. It gives each request a free sequence number, and remembers a `_Waiter` under it. A reply
  finds its waiter by that number, so the thousandth concurrent ping costs no more than the first.
* The socket is an unprivileged datagram socket if the kernel permits (`net.ipv4.ping_group_range`). Then the kernel
  filters replies by an identifier of its own and puts errors into a queue. Otherwise it is a raw socket, which receives
  the ICMP messages of the whole machine: identifier and checksum are verified here.
* Any host can send replies with a false source address. A reply counts only if sequence number, payload and sender are
  those of the request, and the event loop reads at most `MAX_TURN_MESSAGES` messages in one turn.
* The kernel stamps each reply with its time of arrival, so a busy event loop does not make round trips look longer.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import random
import select
import socket
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

from probe_exporter.addresses import literals
from probe_exporter.network.opening import bind_to_interface
from probe_exporter.prober.failure import ProbeFailed, Reason, check_files
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.icmp.messages import (
    ERRORS,
    REPLIES,
    IcmpError,
    checksum,
    icmp_error,
    parse,
    request,
    strip_ip,
)

# From <linux/in.h>, in6.h, icmp.h, icmpv6.h, errqueue.h and <asm-generic/socket.h>; the socket module lacks them.
_IP_TTL, _IP_MTU_DISCOVER, _IP_RECVERR, _IP_RECVTTL = 2, 10, 11, 12
_IPV6_RECVERR = 25
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3
_SOL_RAW, _ICMP_FILTER, _ICMPV6_FILTER = 255, 1, 1
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _MSG_ERRQUEUE = 33, 35, 0x2000
_ORIGINS = {2: 4, 3: 6}  # of an error in a socket's queue: ICMP and ICMPv6

_SOL_SOCKET = int(socket.SOL_SOCKET)
_HOP_LIMITS = ((socket.IPPROTO_IP, _IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT))
"""Levels and types of the messages with a hop limit."""

_TIMESPEC = struct.Struct("@ll")
_EXTENDED_ERROR = struct.Struct("@IBBBBII")
_INTEGER = struct.Struct("@i")

_ANCILLARY_SPACE = 256
_MAX_PACKET_BYTES = 65536
_RECEIVE_BUFFER = 4 << 20
_MAX_SENT_UNREAD = 64
"""Requests sent after which replies are read at once. The kernel's buffer, if this process may not enlarge it, holds
some hundreds of replies, and on a fast network they arrive before the event loop reads them."""

MAX_TURN_MESSAGES = 250
"""Messages that are read in one turn of the event loop."""

MAX_TURN_BYTES = 256 * 1024
"""Bytes of messages that are read in one turn."""

_DEFAULT_TTL = 64

_new = tuple.__new__


class Reply(NamedTuple):
    """A reply to an echo request."""

    seconds: float  # from sending the request to the arrival of the reply at this machine
    hop_limit: int | None  # of the reply on arrival; None if the kernel did not tell


class _Waiter:
    """A request without a reply yet: what the reply must contain, and the future that gets it."""

    __slots__ = ("address", "future", "payload", "sent", "sent_by_clock")

    def __init__(self, address: str, payload: bytes, future: asyncio.Future[Reply]) -> None:
        self.address = address
        self.payload = payload
        self.future = future
        self.sent = 0.0  # perf_counter
        self.sent_by_clock = 0  # Unix nanoseconds, like the kernel's stamp on the reply

    def seconds(self, stamp: int | None) -> float:
        """Return the round-trip time. If the clock was set meanwhile, the stamp is useless: the present time counts."""
        elapsed = time.perf_counter() - self.sent
        if stamp is None:
            return elapsed
        exact = (stamp - self.sent_by_clock) / 1e9
        return exact if 0 < exact <= elapsed else elapsed


class PingPath:
    """The way to one target: the shared socket, and the options of each packet.

    Args:
        address: resolved; IPv6 with its zone if it has one.
        source: the local address to send from; empty for the system's choice.
        ttl: TTL or hop limit of the requests; 0 for the system's default.
        dont_fragment: IPv4 only: neither routers nor this machine may fragment the packet.

    Raises:
        ProbeFailed: this process may not ping, or there is no such source.
    """

    def __init__(
        self, probe: Probe, address: str, *, source: str = "", ttl: int = 0, dont_fragment: bool = False
    ) -> None:
        network = probe.network
        if network is not None:
            network.check(address, 0)
            source = source or network.source_ip_address
        version = literals.version(address)
        whole = dont_fragment and version == 4
        self._destination = literals.socket_address(address, 0)
        self._options: list[tuple[int, int, bytes]] = []
        if ttl or whole:
            self._options.append(_hops(version, ttl or _DEFAULT_TTL))
        self._address = address.partition("%")[0]
        self._loop = asyncio.get_running_loop()
        interface = "" if network is None else network.source_interface
        self._channel = _channel(self._loop, (version, whole, source, interface))

    async def ping(self, payload: bytes) -> Reply:
        """Send one echo request and wait for its reply, without a timeout of its own.

        Raises:
            ProbeFailed: the system refused to send it, or an error message came back.
        """
        channel = self._channel
        waiter = _Waiter(self._address, payload, self._loop.create_future())
        sequence = channel.expect(waiter)
        try:
            # The kernel's buffer may be full, and only polling shows when it has room for one more packet.
            while not channel.send(sequence, waiter, self._destination, self._options):  # noqa: ASYNC110  # see above
                await asyncio.sleep(0.001)
            return await waiter.future
        finally:
            channel.forget(sequence)


@lru_cache(maxsize=512)  # modules choose the number, from 1 to 255
def _hops(version: int, ttl: int) -> tuple[int, int, bytes]:
    if version == 4:
        return socket.IPPROTO_IP, _IP_TTL, _INTEGER.pack(ttl)
    return socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INTEGER.pack(ttl)


class _Channel:
    """One socket for all pings of a kind: it sends requests, and passes replies to their waiters."""

    def __init__(self, version: int, sock: socket.socket) -> None:
        self.sock = sock
        self._version = version
        self._raw = sock.type == socket.SOCK_RAW
        self._identifier = random.getrandbits(16)
        self._numbers = itertools.count(random.getrandbits(16))
        self._waiting: dict[int, _Waiter] = {}
        self._buffer = bytearray(_MAX_PACKET_BYTES)
        self._view = memoryview(self._buffer)
        self._unread = 0

    def expect(self, waiter: _Waiter) -> int:
        """Return a free sequence number, and keep the waiter for the reply under it."""
        if len(self._waiting) > 0xFFFF:
            raise ProbeFailed(Reason.ICMP_SEND_FAILED, "65536 echo requests are already waiting for replies")
        sequence = next(self._numbers) & 0xFFFF
        while sequence in self._waiting:
            sequence = next(self._numbers) & 0xFFFF
        self._waiting[sequence] = waiter
        return sequence

    def forget(self, sequence: int) -> None:
        """Free a sequence number."""
        future = self._waiting.pop(sequence).future
        if future.done() and not future.cancelled():
            future.exception()  # mark it as retrieved, or asyncio logs an error if the deadline came first

    def send(
        self,
        sequence: int,
        waiter: _Waiter,
        destination: tuple[str, int] | tuple[str, int, int, int],
        options: Iterable[tuple[int, int, bytes]],
    ) -> bool:
        """Send a request; return False if the kernel's buffer is full.

        Raises:
            ProbeFailed: the system refused to send it.
        """
        packet = [request(self._version, self._identifier, sequence, waiter.payload)]
        self._unread += 1
        if self._unread > _MAX_SENT_UNREAD:
            self.receive()
        waiter.sent, waiter.sent_by_clock = time.perf_counter(), time.time_ns()
        try:
            try:
                self.sock.sendmsg(packet, options, 0, destination)
            except BlockingIOError:
                return False
            except OSError:
                # A datagram socket reports an error of another request once, at the next call: try again.
                if not self._raw:
                    self._receive_errors()
                self.sock.sendmsg(packet, options, 0, destination)
        except OSError as error:
            raise _not_sent(error, destination[0], len(waiter.payload)) from None
        return True

    def receive(self) -> None:
        """Read what has arrived, within the limits of one turn. The event loop calls this again if there is more.

        If only one request waits for a reply, nothing is read after that: to find out that no more messages are there
        takes a system call and an exception.
        """
        self._unread = 0
        left = MAX_TURN_BYTES
        for _ in range(MAX_TURN_MESSAGES):
            try:
                length, ancillary, _, sender = self.sock.recvmsg_into([self._view], _ANCILLARY_SPACE)
            except OSError:  # no more messages, or the error of a request
                # The queue is read in both cases: the kernel does not report the errors of packets that are too large
                # for an interface here, and the socket counts as readable until they are read.
                if not self._raw:
                    self._receive_errors()
                return
            answered = self._received(self._view[:length].tobytes(), ancillary, sender[0].partition("%")[0])
            left -= length
            if left < 0 or (answered and len(self._waiting) == 1):
                return

    def _received(self, message: bytes, ancillary: list[tuple[int, int, bytes]], sender: str) -> bool:
        """Take a message; return whether it ends the wait of a request."""
        hop_limit = None
        if self._raw and self._version == 4:
            stripped = strip_ip(message)
            if stripped is None:
                return False
            hop_limit, message = stripped
        said = parse(self._version, message)
        if said is None or (self._raw and said.identifier != self._identifier):
            return False
        waiter = self._waiting.get(said.sequence)
        if waiter is None or waiter.future.done():
            return False
        if self._raw and self._version == 4 and checksum(message):
            return False  # the kernel verifies it for datagram sockets and for ICMPv6 only
        if isinstance(said, IcmpError):
            self._refuse(waiter, said, sender)
        elif said.payload == waiter.payload and sender == waiter.address:
            stamp, told = _stamp_and_hops(ancillary)
            waiter.future.set_result(_new(Reply, (waiter.seconds(stamp), told if hop_limit is None else hop_limit)))
        return waiter.future.done()

    def _receive_errors(self) -> None:
        """Read the error queue of a datagram socket: each error comes with the message that it is about."""
        for _ in range(MAX_TURN_MESSAGES):
            try:
                message, ancillary, _, destination = self.sock.recvmsg(
                    _MAX_PACKET_BYTES, _ANCILLARY_SPACE, _MSG_ERRQUEUE
                )
            except OSError:
                return
            for level, kind, data in ancillary:
                if (level, kind) not in ((socket.IPPROTO_IP, _IP_RECVERR), (socket.IPPROTO_IPV6, _IPV6_RECVERR)):
                    continue
                _, origin, type_, code, _, mtu, _ = _EXTENDED_ERROR.unpack_from(data)
                if _ORIGINS.get(origin) != self._version or (self._version, type_) not in ERRORS:
                    continue
                said = icmp_error(self._version, type_, code, mtu, destination[0].partition("%")[0], message)
                waiter = self._waiting.get(said.sequence) if said is not None else None
                if said is not None and waiter is not None and not waiter.future.done():
                    self._refuse(waiter, said, _offender(data[_EXTENDED_ERROR.size :]))

    def _refuse(self, waiter: _Waiter, said: IcmpError, sender: str) -> None:
        if said.destination == waiter.address:
            by = f"{sender} says: " if sender else ""
            waiter.future.set_exception(ProbeFailed(said.reason, f"{by}{said}", router=sender))


def _stamp_and_hops(ancillary: Iterable[tuple[int, int, bytes]]) -> tuple[int | None, int | None]:
    """Return the time of arrival in Unix nanoseconds, and the hop limit."""
    stamp = hops = None
    for level, kind, data in ancillary:
        if level == _SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            stamp = seconds * 1_000_000_000 + nanoseconds
        elif (level, kind) in _HOP_LIMITS:
            (hops,) = _INTEGER.unpack_from(data)
    return stamp, hops


def _offender(address: bytes) -> str:
    """Return the sender of an error, from the socket address after it; empty if there is none."""
    family = int.from_bytes(address[:2], sys.byteorder)
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, address[4:8])
    return socket.inet_ntop(socket.AF_INET6, address[8:24]) if family == socket.AF_INET6 else ""


def _not_sent(error: OSError, address: str, size: int) -> ProbeFailed:
    if error.errno == errno.EMSGSIZE:
        return ProbeFailed(
            Reason.ICMP_PACKET_TOO_BIG,
            f"an echo request with {size} bytes does not fit into one packet of this machine's interface",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return ProbeFailed(
            Reason.ICMP_SEND_FAILED,
            f"pinging {address} is not permitted: a firewall of this machine, or a broadcast address",
        )
    return ProbeFailed(Reason.ICMP_SEND_FAILED, f"sending to {address} failed: {error.strerror or error}")


# --- opening ------------------------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """Options that only a whole socket can have. The source is one because of IPv6 on datagram sockets."""

    version: int
    whole: bool  # packets may not be fragmented
    source: str
    interface: str


_Channels = dict[tuple[int, bool, str, str], _Channel]
"""Channels by their `_Kind`, as a tuple."""

_channels: WeakKeyDictionary[asyncio.AbstractEventLoop, _Channels] = WeakKeyDictionary()
_last: tuple[Callable[[], asyncio.AbstractEventLoop | None], _Channels] = (lambda: None, {})
"""The loop that was used last, as a weak reference, and its channels: a process has one loop."""


def _channel(loop: asyncio.AbstractEventLoop, kind: tuple[int, bool, str, str]) -> _Channel:
    """Return the shared socket of the running loop, opened at first use; it lives as long as the loop."""
    global _last  # noqa: PLW0603  # see there
    last, channels = _last
    if last() is not loop:
        channels = _channels.setdefault(loop, {})
        _last = (weakref.ref(loop), channels)
    channel = channels.get(kind)
    if channel is None:
        wanted = _Kind(*kind)
        channel = channels[wanted] = _Channel(wanted.version, _open(wanted))
        # libuv stops watching a descriptor with a pending error, which a datagram socket has after each error message.
        # An epoll of the socket never has one.
        watch = select.epoll()
        watch.register(channel.sock, select.EPOLLIN)
        loop.add_reader(watch, channel.receive)
        weakref.finalize(loop, watch.close)
        weakref.finalize(loop, channel.sock.close)
    return channel


def _open(wanted: _Kind) -> socket.socket:
    """Open a datagram socket if the kernel permits it, else a raw one.

    Raises:
        ProbeFailed: neither is permitted, or there is no such source address or interface.
    """
    version = wanted.version
    family, protocol = (
        (socket.AF_INET, socket.IPPROTO_ICMP) if version == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    )
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT):
                check_files(error, "opening an ICMP socket")
                raise ProbeFailed(Reason.ICMP_SEND_FAILED, f"no ICMP socket: {error.strerror}") from None
            continue
        try:
            _prepare(sock, version, wanted.whole)
            if wanted.interface:
                bind_to_interface(sock, wanted.interface)
            if wanted.source:
                _bind(sock, version, wanted.source)
        except BaseException:
            sock.close()
            raise
        return sock
    raise ProbeFailed(
        Reason.ICMP_PERMISSION,
        "this process may not send ICMP: set net.ipv4.ping_group_range to include its group, or give it CAP_NET_RAW",
    )


def _prepare(sock: socket.socket, version: int, whole: bool) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)  # the limit of an unprivileged process
    with suppress(PermissionError):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    raw = sock.type == socket.SOCK_RAW
    if version == 4:
        # PROBE sets "don't fragment" and ignores the path MTU that the kernel remembers: each probe measures anew.
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE if whole else _PMTUDISC_DONT)
        if not raw:  # a raw socket receives the header of each packet
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    if raw:
        _pass_only_answers(sock, version)
    elif version == 4:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)


def _bind(sock: socket.socket, version: int, source: str) -> None:
    known = literals.literal(source)  # bind would look up anything else
    if known is None or literals.version(known) != version:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, f"source_ip_address {source} is not an IPv{version} address, unlike the target's"
        )
    try:
        sock.bind(literals.socket_address(known, 0))
    except OSError as error:
        raise ProbeFailed(Reason.ICMP_SEND_FAILED, f"sending from {source} failed: {error.strerror}") from None


def _pass_only_answers(sock: socket.socket, version: int) -> None:
    """Let the kernel drop messages that our requests can't cause. A set bit blocks its type."""
    passed = {REPLIES[version], *(kind for of, kind in ERRORS if of == version)}
    blocked = ((1 << 256) - 1) ^ sum(1 << kind for kind in passed)
    words = [blocked >> (32 * word) & 0xFFFFFFFF for word in range(8)]
    if version == 4:
        sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("@I", words[0]))
    else:
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMPV6_FILTER, struct.pack("@8I", *words))
