"""Dialogues in lines over a byte stream, for the probers tcp and unix (`hold`) and for others (`converse`).

A line ends with a newline or with the stream, as in the original. Some peers ask for input by a prompt without a
newline: text without a newline counts as a line once the peer has been silent for `QUIET` seconds after it.

Each line that does not match is logged, up to `MAX_LOGGED_LINES`, and the last one is in the error. A peer may send
lines without end, so other tasks get a turn after every `MAX_TURN_BYTES` of lines.
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
from probe_exporter.prober.failure import TIMEOUTS, ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric, whole_nanoseconds
from probe_exporter.prober.run import Probe
from probe_exporter.prober.turns import pause
from probe_exporter.protocols.dialogue.steps import (
    FAILED_BY_BYTES,
    FAILED_BY_REGEXP,
    DialogueSettings,
    Step,
    shown,
    walk,
)
from probe_exporter.settings.regexps import Match, Regexp
from probe_exporter.tls.metrics import report_no_chain
from probe_exporter.tls.settings import CertificateSettings, TLSSettings

MAX_LINE_BYTES = 65536
"""Bytes of a line with its newline, as in the original."""

MAX_LOGGED_LINES = 100
"""Lines of one dialogue that are logged though they do not match."""

MAX_TURN_BYTES = 32 * 1024
"""Bytes of lines that are searched before other tasks get a turn; each line costs `LINE_COST` more."""

LINE_COST = 64

MAX_EAGER_BYTES = 1024
"""Bytes of an incomplete line up to which it is tried after each read. A longer one must have grown by a sixteenth, or
the peer must be silent: a peer that sends single bytes would cost the square of the line's length."""

QUIET = 1.0
"""Seconds of silence after which text without a newline counts as a line, if it matches."""

# --- lines over a byte stream ------------------------------------------------------------------------------


class Received:
    """Data that has arrived and is not used yet, taken as lines or as bytes. No I/O."""

    __slots__ = ("_data", "_searched")

    def __init__(self) -> None:
        self._data = bytearray()
        self._searched = 0  # bytes that are known to have no newline

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Add data that has arrived."""
        self._data += data

    def take(self, size: int) -> bytes:
        """Take the first `size` bytes, or all if there are fewer."""
        taken = bytes(self._data[:size])
        del self._data[:size]
        self._searched = 0
        return taken

    def line(self) -> bytes | None:
        """Take the next complete line, without its newline; return None if there is none yet.

        Raises:
            ProbeFailed: the line is longer than `MAX_LINE_BYTES`.
        """
        end = self._data.find(b"\n", self._searched, MAX_LINE_BYTES)
        if end >= 0:
            return _without_return(self.take(end + 1)[:-1])
        if len(self._data) >= MAX_LINE_BYTES:
            raise ProbeFailed(Reason.DIALOGUE_LINE_TOO_LONG, f"a line has more than {MAX_LINE_BYTES - 1} bytes")
        self._searched = len(self._data)
        return None

    @property
    def rest(self) -> bytes:
        """The data after the last complete line."""
        return _without_return(bytes(self._data))


def _without_return(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


class Stream(Protocol):
    """The part of `Connection` that a dialogue needs."""

    async def read(self) -> bytes:
        """Return data that has arrived, at least one byte; ``b""`` at the end."""

    async def write(self, data: bytes) -> None:
        """Send `data`."""


class Lines:
    """A peer that talks in lines. Bytes are read from the same buffer."""

    def __init__(self, probe: Probe, stream: Stream, secure: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            secure: starts TLS on the same stream.
        """
        self._probe = probe
        self._stream = stream
        self._secure = secure
        self._received = Received()
        self._ended = False
        self._reads_ahead = False
        self._last = b""  # line that was read
        self._seen = 0  # lines that did not match, in the whole dialogue
        self._spent = 0  # of MAX_TURN_BYTES
        self._tried = 0  # bytes of the incomplete line when it was last tried

    async def find(self, expect: Regexp, *, reject: Regexp | None = None, prompt: bool = False) -> Match:
        """Read lines until one matches `expect`.

        Args:
            reject: a line that matches this and not `expect` ends the dialogue.
            prompt: try an incomplete line as soon as it arrives.

        Raises:
            ProbeFailed: a line matches `reject`, a line is too long, or the stream ends first.
        """
        self._reads_ahead = True
        seen_before = self._seen
        while True:
            while (line := self._received.line()) is not None:
                self._last, self._tried = line, 0
                if found := expect.search(line):
                    return found
                self._refuse(line, reject)
                await self._give_turn(len(line))
            if not self._received:
                if self._ended:
                    raise self._unmatched(nothing=self._seen == seen_before)
                await self._more()
            elif found := await self._try_rest(expect, reject, prompt=prompt):
                return found

    async def _try_rest(self, expect: Regexp, reject: Regexp | None, *, prompt: bool) -> Match | None:
        """Return the match of the incomplete line, if it counts as a line; else read more and return None."""
        rest = self._received.rest
        growth = len(rest) - self._tried
        if len(rest) > MAX_EAGER_BYTES and growth < len(rest) // 16 and not self._ended and await self._goes_on():
            return None
        self._tried = len(rest)
        found = expect.search(rest)
        rejected = found is None and reject is not None and reject.search(rest) is not None
        if found or rejected:
            if self._ended or (prompt and found) or not await self._goes_on():
                self._received, self._last, self._tried = Received(), rest, 0
                self._refuse(rest, reject if rejected else None)
                return found
        elif self._ended:
            self._last = rest
            raise self._unmatched(nothing=False)
        else:
            await self._more()
        return None

    async def reach(self, until: Regexp, *, reject: Regexp | None = None) -> None:
        """Read lines until one matches `until`; the one that `find` returned counts too.

        Raises:
            ProbeFailed: as `find`.
        """
        if not until.search(self._last):
            await self.find(until, reject=reject)

    def timed_out(self, phase: str) -> ProbeFailed:
        """Return the failure for a timeout in this dialogue, with the peer's last line.

        Args:
            phase: of the probe; the reason depends on it.
        """
        reason, last = TIMEOUTS.get(phase, Reason.TIMEOUT_PROBE), self._received.rest or self._last
        if not last:
            return ProbeFailed(reason, "the peer said nothing in time")
        return ProbeFailed(reason, "the dialogue did not end in time", last_line=shown(last), unmatched=self._seen)

    def _refuse(self, line: bytes, reject: Regexp | None) -> None:
        """Log a line that does not match; raise `ProbeFailed` if it matches `reject`."""
        self._seen += 1
        if self._seen <= MAX_LOGGED_LINES:
            self._probe.log("Read a line that does not match", line=shown(line))
        if reject is not None and reject.search(line):
            self._probe.set(FAILED_BY_REGEXP, 1)
            raise ProbeFailed(Reason.DIALOGUE_REJECTED, "the peer said what `reject` names", line=shown(line))

    def _unmatched(self, *, nothing: bool) -> ProbeFailed:
        """Return the failure for the end of the stream where a line is expected."""
        self._probe.set(FAILED_BY_REGEXP, 1)
        if nothing:
            return ProbeFailed(Reason.DIALOGUE_CLOSED, "the peer closed the connection without sending a line")
        return ProbeFailed(
            Reason.DIALOGUE_NO_MATCH,
            "the peer closed the connection, and no line matched",
            last_line=shown(self._last),
        )

    async def _give_turn(self, size: int) -> None:
        """Let other tasks run once enough has been searched."""
        self._spent += size + LINE_COST
        if self._spent > MAX_TURN_BYTES:
            self._spent = 0
            await pause()

    async def take(self, expected: bytes) -> None:
        """Read exactly these bytes, in any number of pieces.

        Raises:
            ProbeFailed: other bytes come, or the stream ends.
        """
        taken = self._received.take(len(expected))
        while expected.startswith(taken) and len(taken) < len(expected):
            if self._ended:
                raise ProbeFailed(Reason.DIALOGUE_CLOSED, "the peer closed the connection before it sent the bytes")
            await self._more()
            taken += self._received.take(len(expected) - len(taken))
        if taken != expected:
            self._probe.set(FAILED_BY_BYTES, 1 if len(taken) == len(expected) else 0)
            raise ProbeFailed(Reason.DIALOGUE_BYTES_MISMATCH, "the peer sent other bytes", came=shown(taken))

    async def say(self, text: bytes, *, newline: bool) -> None:
        """Send text, with a newline after it if `newline`."""
        await self._stream.write(text + b"\n" if newline else text)

    async def send(self, data: bytes) -> None:
        """Send `data` as it is."""
        await self._stream.write(data)

    async def start_tls(self) -> None:
        """Continue inside TLS; data that was read ahead for lines is dropped.

        Raises:
            ProbeFailed: the peer sent more plain text, or the handshake fails.
        """
        if self._received and not self._reads_ahead:  # the original reads it as part of the handshake
            raise ProbeFailed(Reason.TLS_HANDSHAKE, "the peer sent plain text where TLS should begin")
        await self._secure()
        self._received = Received()
        self._ended = self._reads_ahead = False

    def left(self) -> bytes:
        """Take the data that was read ahead."""
        return self._received.take(len(self._received))

    async def _more(self) -> None:
        data = await self._stream.read()
        self._received.feed(data)
        self._ended = not data

    async def _goes_on(self) -> bool:
        """Read more; return False if the peer stays silent for `QUIET` seconds, so that its line counts as complete."""
        quiet = min(QUIET, self._probe.remaining / 4)
        try:
            with Deadline(asyncio.get_running_loop().time() + quiet):
                await self._more()
        except TimeoutError:
            return False
        return True


_CONNECT, _TLS = ("connect",), ("tls",)  # label values

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
    """Expect lines and send others, step by step (``query_response``), in the current phase of the probe.

    Args:
        connection: to a peer that talks in lines. What it sends after the last step can be read from here later.
        steps: each expects, sends and starts TLS, in this order; all are optional.
        secure: the ``tls_config`` for a step with ``starttls``.
        host: the name to verify then, if `secure` has none.
        seconds: a metric with the one label ``phase``; it gets the duration of ``tls``.

    Returns:
        What each ``expect`` matched, in order.

    Raises:
        ProbeFailed: the peer sent other lines or bytes (reasons ``dialogue_…``), or TLS failed.
    """
    lines = Lines(
        probe, connection, lambda: start_tls(probe, connection, secure or TLSSettings(), host, seconds=seconds)
    )
    matches = await _walk(probe, steps, lines)
    connection.put_back(lines.left())
    return matches


class StreamSettings(CertificateSettings, DialogueSettings):
    """Settings of a prober that holds a dialogue in lines over a byte stream, plain or TLS.

    Args:
        tls: start TLS as soon as the connection is open.
        tls_config: settings of TLS.
    """

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        if self.tls and any(step.starttls for step in self.query_response):
            yield "tls", "TLS begins at once, and a step has `starttls`: hardly a server takes a handshake within TLS"


async def hold(probe: Probe, connection: Connection, settings: StreamSettings, host: str, seconds: Metric) -> None:
    """Hold a module's dialogue over a new connection, and close it.

    Args:
        host: the name to verify in TLS if the settings have none; empty if the target has no name.
        seconds: the metric that gets the duration of each phase.

    Raises:
        ProbeFailed: TLS or a step failed.
    """

    async def secure() -> None:
        await start_tls(probe, connection, settings.tls_config, host)
        assert connection.handshake is not None
        report_no_chain(probe, connection.handshake)
        series, spent = probe.samples.series, whole_nanoseconds(connection.tls_seconds)
        series[seconds, _TLS] = series.get((seconds, _TLS), 0.0) + spent  # `add` would check what these are

    try:
        samples = probe.samples  # `set` would check what these are
        samples.series[seconds, _CONNECT] = whole_nanoseconds(connection.connect_seconds)
        if settings.tls:
            await secure()
        samples.plain[FAILED_BY_REGEXP] = samples.plain[FAILED_BY_BYTES] = 0
        if settings.query_response:
            lines = Lines(probe, connection, secure)
            with _timed(probe, seconds), probe.phase("dialogue"):
                await _walk(probe, settings.query_response, lines)
    finally:
        connection.close()


async def _walk(probe: Probe, steps: Iterable[Step], lines: Lines) -> list[Match]:
    """Perform the steps; if the probe's time runs out, let its failure have the peer's last line."""
    phase = probe.current_phase
    try:
        return await walk(probe, steps, lines)
    except asyncio.CancelledError:
        # A handshake that was too slow has a phase and a reason of its own; a caller may go on after its own deadline.
        if probe.current_phase == phase and probe.remaining <= 0:
            probe.fail(lines.timed_out(phase))
        raise


@contextmanager
def _timed(probe: Probe, seconds: Metric) -> Iterator[None]:
    """Report the duration of the dialogue, also if it fails. Handshakes within it are in a phase of their own."""
    before, started = probe.samples.get(seconds, "tls", default=0.0), time.perf_counter()
    try:
        yield
    finally:
        handshakes = probe.samples.get(seconds, "tls", default=0.0) - before
        probe.set(seconds, round(time.perf_counter() - started - handshakes, 9), "dialogue")
