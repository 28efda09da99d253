"""A dialogue over a byte stream, in lines: `hold` leads it for the probers that do nothing else.

A line ends with a newline or with the stream, as in the original; a prompt, which ends with neither, counts as one when
the peer has fallen silent after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from probe_exporter.network.connection import Connection
from probe_exporter.network.opening import start_tls
from probe_exporter.prober.deadline import Deadline
from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.steps import (
    FAILED_BY_BYTES,
    FAILED_BY_REGEXP,
    DialogueSettings,
    Step,
    shown,
    walk,
)
from probe_exporter.settings.regexps import Match, Regexp
from probe_exporter.tls.handshake import report_no_chain
from probe_exporter.tls.settings import TLSSettings

LONGEST_LINE = 65536
"""Bytes of a line with its newline, as in the original."""

QUIET = 1.0
"""Seconds of silence after which what has no newline counts as a line, if it is what is expected."""

# --- lines over a byte stream ------------------------------------------------------------------------------


class Received:
    """What has arrived and is not used yet, taken as lines or as bytes. No I/O."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0  # bytes that are known to hold no newline

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        self._data += data

    def take(self, size: int) -> bytes:
        """The first `size` bytes, or all if there are fewer."""
        taken = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        return taken

    def line(self) -> bytes | None:
        """The next line that ends with a newline, without its end; None while there is none.

        Raises:
            ProbeFailed: it is longer than `LONGEST_LINE`, or will be.
        """
        end = self._data.find(b"\n", self._searched, LONGEST_LINE)
        if end >= 0:
            return _without_return(self.take(end + 1)[:-1])
        if len(self._data) >= LONGEST_LINE:
            raise ProbeFailed(Reason.DIALOGUE_LINE_TOO_LONG, f"a line has more than {LONGEST_LINE - 1} bytes")
        self._searched = len(self._data)
        return None

    @property
    def rest(self) -> bytes:
        """What may be the beginning of a line, or all of one that has no end."""
        return _without_return(bytes(self._data))


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


class Stream(Protocol):
    """What `Connection` is to a dialogue."""

    async def read(self) -> bytes:
        """What has arrived, at least one byte; nothing at the end."""

    async def write(self, data: bytes) -> None:
        """Send."""


class Lines:
    """A peer that talks in lines. Bytes are read from the same buffer."""

    _MANY = 1000  # lines after which others get a turn

    def __init__(self, probe: Probe, stream: Stream, secure: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            secure: goes on inside TLS, on the same stream.
        """
        self._probe = probe
        self._stream = stream
        self._secure = secure
        self._received = Received()
        self._ended = False
        self._reads_ahead = False

    async def find(self, expect: Regexp, *, prompt: bool = False) -> Match:
        """Read lines until one matches. As a `prompt`, what has no newline yet is tried as it comes.

        Raises:
            ProbeFailed: the stream ends first, or a line does not.
        """
        self._reads_ahead = True
        seen, last = 0, b""
        while True:
            while (line := self._received.line()) is not None:
                if found := expect.search(line):
                    return found
                seen, last = seen + 1, line
                if seen % self._MANY == 0:
                    await asyncio.sleep(0)
            rest = self._received.rest if self._received else None
            found = None if rest is None else expect.search(rest)
            if found and (self._ended or prompt or not await self._goes_on()):
                self._received = Received()
                return found
            if self._ended and not found:
                self._probe.set(FAILED_BY_REGEXP, 1)
                raise _unmatched(last if rest is None else rest, nothing=rest is None and not seen)
            if not found:
                await self._more()

    async def take(self, expected: bytes) -> None:
        """Read exactly these bytes, however they are cut.

        Raises:
            ProbeFailed: other bytes come, or the stream ends.
        """
        taken = self._received.take(len(expected))
        while expected.startswith(taken) and len(taken) < len(expected):
            if self._ended:
                raise ProbeFailed(Reason.DIALOGUE_CLOSED, "the peer closed the connection instead of sending bytes")
            await self._more()
            taken += self._received.take(len(expected) - len(taken))
        if taken != expected:
            self._probe.set(FAILED_BY_BYTES, 1 if len(taken) == len(expected) else 0)
            raise ProbeFailed(Reason.DIALOGUE_BYTES_MISMATCH, "other bytes came than expected", came=shown(taken))

    async def say(self, text: bytes, *, newline: bool) -> None:
        """Send a line; without a `newline` what may become one."""
        await self._stream.write(text + b"\n" if newline else text)

    async def send(self, data: bytes) -> None:
        """Send `data` as it is."""
        await self._stream.write(data)

    async def start_tls(self) -> None:
        """Go on inside TLS; what was read ahead by lines does not.

        Raises:
            ProbeFailed: the peer said more than it should have, or the handshake fails.
        """
        if self._received and not self._reads_ahead:  # the original takes it for the peer's part of the handshake
            raise ProbeFailed(Reason.TLS_HANDSHAKE, "the peer goes on in plain text where TLS begins")
        await self._secure()
        self._received = Received()
        self._ended = self._reads_ahead = False

    def left(self) -> bytes:
        """Take what was read ahead."""
        return self._received.take(len(self._received))

    async def _more(self) -> None:
        data = await self._stream.read()
        self._received.feed(data)
        self._ended = not data

    async def _goes_on(self) -> bool:
        """Whether the peer says more (or ends) before it has been quiet for too long to be in the middle of a line."""
        quiet = min(QUIET, self._probe.remaining / 4)
        try:
            with Deadline(asyncio.get_running_loop().time() + quiet):
                await self._more()
        except TimeoutError:
            return False
        return True


def _unmatched(last: bytes, *, nothing: bool) -> ProbeFailed:
    if nothing:
        return ProbeFailed(Reason.DIALOGUE_CLOSED, "the peer closed the connection instead of saying a line")
    return ProbeFailed(
        Reason.DIALOGUE_NO_MATCH, "the peer closed the connection, and no line matched", last_line=shown(last)
    )


# --- a dialogue over a connection --------------------------------------------------------------------------


async def converse(
    probe: Probe,
    connection: Connection,
    steps: Iterable[Step],
    *,
    secure: TLSSettings | None = None,
    host: str = "",
    seconds: Metric | None = None,
) -> list[Match]:
    """Expect lines and send others, step by step (``query_response``), in whatever phase the probe is in.

    Args:
        connection: that of a peer that talks in lines; what it says beyond the last step is there to be read.
        steps: each expects, sends or begins TLS, or does so in this order.
        secure: the ``tls_config`` for a step with ``starttls``.
        host: the name to verify then, where `secure` gives none.
        seconds: a metric with the one label ``phase``, which then gets how long ``tls`` took.

    Returns:
        What each ``expect`` matched, in turn.

    Raises:
        ProbeFailed: a line or bytes do not come as expected (reasons ``dialogue_…``), or TLS fails.
    """
    lines = Lines(
        probe, connection, lambda: start_tls(probe, connection, secure or TLSSettings(), host, seconds=seconds)
    )
    matches = await walk(probe, steps, lines)
    connection.put_back(lines.left())
    return matches


class StreamSettings(DialogueSettings):
    """What any prober understands that talks in lines over a byte stream, secure or not."""

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.tls and any(step.starttls for step in self.query_response):
            yield "tls", "TLS begins at once, and a step has `starttls`: hardly a server takes a handshake within TLS"


async def hold(probe: Probe, connection: Connection, settings: StreamSettings, host: str, seconds: Metric) -> None:
    """Hold a module's dialogue over a connection that has just been made, and close it.

    Args:
        host: the name to verify in TLS where the settings give none; empty if the target has no name.
        seconds: where the duration of each phase goes.

    Raises:
        ProbeFailed: TLS fails, or a step does.
    """

    async def secure() -> None:
        await start_tls(probe, connection, settings.tls_config, host)
        assert connection.handshake is not None
        report_no_chain(probe, connection.handshake)
        probe.add(seconds, round(connection.tls_seconds, 9), "tls")

    try:
        probe.set(seconds, round(connection.connect_seconds, 9), "connect")
        if settings.tls:
            await secure()
        probe.set(FAILED_BY_REGEXP, 0)
        probe.set(FAILED_BY_BYTES, 0)
        if settings.query_response:
            with _timed(probe, seconds), probe.phase("dialogue"):
                await walk(probe, settings.query_response, Lines(probe, connection, secure))
    finally:
        connection.close()


@contextmanager
def _timed(probe: Probe, seconds: Metric) -> Iterator[None]:
    """Report how long the dialogue took, however it ends; handshakes in its midst have a phase of their own."""
    before, started = probe.samples.get(seconds, "tls", default=0.0), time.perf_counter()
    try:
        yield
    finally:
        handshakes = probe.samples.get(seconds, "tls", default=0.0) - before
        probe.set(seconds, round(time.perf_counter() - started - handshakes, 9), "dialogue")
