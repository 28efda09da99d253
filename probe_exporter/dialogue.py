"""A dialogue with a server, step by step: what to expect and what to send (``query_response``).

`walk` goes through the steps with a `Peer`, whatever it is that carries them; `hold` does so over a byte stream, in
lines. A line ends with a newline or with the stream, as in the original; a prompt, which ends with neither, counts as
one when the peer has fallen silent after it.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from typing import Protocol

from probe_exporter import tls
from probe_exporter.deadline import Deadline
from probe_exporter.fields import Match, Regexp, Text, encode
from probe_exporter.metrics import Metric
from probe_exporter.net import Connection, Secure
from probe_exporter.prober import Probe, ProbeFailed, Reason, Settings
from probe_exporter.rules import Block, exclusive, required
from probe_exporter.tls import TLSSettings

FAILED_BY_REGEXP = Metric("probe_failed_due_to_regex", "Whether the probe failed because of a regular expression.")
FAILED_BY_BYTES = Metric("probe_failed_due_to_bytes", "Whether other bytes came than the module expects.")
EXPECT_INFO = Metric("probe_expect_info", "What `expect` matched, in labels of the module's own.")

LONGEST_LINE = 65536
"""Bytes of a line with its newline, as in the original."""

QUIET = 1.0
"""Seconds of silence after which what has no newline counts as a line, if it is what is expected."""

# --- settings ----------------------------------------------------------------------------------------------

_LABEL_NAME = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def _value_is_utf8(block: Block) -> Iterator[tuple[str, str]]:
    value = block.get("value")
    if isinstance(value, str) and not _is_utf8(encode(value)):
        yield "value", "a label's value must be UTF-8"


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _legal(name: str) -> str:
    """`name` as a label name of Prometheus; where it is none, as the original spells it."""
    legal = re.sub(r"^[0-9]|[^a-zA-Z0-9_]", "_", name)
    return legal if not legal.startswith("__") else f"_{legal.lstrip('_')}"


class Label(Settings):
    """A label of ``probe_expect_info``; its value is a template of what ``expect`` matched."""

    rules = (required("name"), _value_is_utf8)
    name: Text = ""
    value: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        if not _LABEL_NAME.fullmatch(self.name):
            yield "name", "not a label name of Prometheus: what is not a letter, a digit or _ becomes _"


def _expects_one_thing(block: Block) -> Iterator[tuple[str, str]]:
    if "expect" in block and block.get("expect_bytes"):
        yield "expect_bytes", "`expect_bytes` and `expect` exclude each other"


def _labels_differ(block: Block) -> Iterator[tuple[str, str]]:
    seen = set()
    labels = block.get("labels")
    for label in labels if isinstance(labels, list | tuple) else ():
        name = label.get("name") if isinstance(label, Mapping) else None
        legal = _legal(name) if isinstance(name, str) else None
        if legal and legal in seen:
            yield "labels", f"the label {name} is here twice"
        seen.add(legal)


class Step(Settings):
    """One entry of ``query_response``: expect a line or bytes, send, start TLS, in this order."""

    rules = (_expects_one_thing, _labels_differ, exclusive("send", "send_bytes"))
    expect: Regexp | None = None
    expect_prompt: bool = False
    expect_bytes: Text = ""
    labels: tuple[Label, ...] | None = None
    send: Text = ""
    send_without_newline: bool = False
    send_bytes: Text = ""
    starttls: bool = False

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.labels is not None and self.expect is None:
            yield "labels", "labels have no effect without `expect`"

    @cached_property
    def info(self) -> Metric | None:
        """`EXPECT_INFO` with this step's labels, if it has any say about them."""
        if self.labels is None or self.expect is None:
            return None
        return Metric(EXPECT_INFO.name, EXPECT_INFO.help, tuple(_legal(label.name) for label in self.labels))

    @cached_property
    def _values(self) -> tuple[Template, ...]:
        assert self.expect is not None
        return tuple(Template(label.value, self.expect.names) for label in self.labels or ())

    @cached_property
    def _reply(self) -> Template:
        return Template(self.send, self.expect.names if self.expect else {})

    def values(self, found: Match) -> tuple[str, ...]:
        """The values of the labels.

        Raises:
            ProbeFailed: what matched is no text.
        """
        try:
            return tuple(value.expand(found).decode() for value in self._values)
        except UnicodeDecodeError:
            raise ProbeFailed(Reason.DIALOGUE_LABEL_INVALID, "what matched is not UTF-8: it can't be a label") from None

    def reply(self, found: Match | None) -> bytes:
        """What to send: a template where something was expected, as it is written otherwise."""
        return encode(self.send) if found is None else self._reply.expand(found)


def _labels_once(block: Block) -> Iterator[tuple[str, str]]:
    """Two steps with labels would be one metric with two sets of label names."""
    steps = block.get("query_response")
    labelled = [
        step
        for step in (steps if isinstance(steps, list | tuple) else ())
        if isinstance(step, Mapping) and "labels" in step and "expect" in step
    ]
    if len(labelled) > 1:
        yield "query_response", "only one step may have `labels`"


class DialogueSettings(Settings):
    """What any prober that talks in steps understands."""

    rules = (_labels_once,)
    query_response: tuple[Step, ...] = ()


# --- templates ---------------------------------------------------------------------------------------------


class Template:
    """Text with references to what a regular expression matched: ``$1``, ``${1}``, ``$name``, ``$0``; ``$$`` is ``$``.

    Go's rules: a bare name is as long as it can be, an unknown one is empty, and a ``$`` before anything else stays.
    """

    __slots__ = ("_parts",)

    def __init__(self, text: str, groups: Mapping[str, int]) -> None:
        """
        Args:
            groups: the regular expression's named groups and their numbers.
        """
        parts = (groups.get(part.name, part.number) if isinstance(part, _Reference) else part for part in _parse(text))
        self._parts: tuple[bytes | int, ...] = tuple(encode(p) if isinstance(p, str) else p for p in parts)

    def expand(self, found: Match) -> bytes:
        """The text with the groups of a match in their places; one that took no part is empty."""
        groups = (found.group(0), *found.groups())
        return b"".join(
            part if isinstance(part, bytes) else (groups[part] or b"") if 0 <= part < len(groups) else b""
            for part in self._parts
        )


class _Reference:
    """A reference by name or number."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def number(self) -> int:
        """The number it says; -1 if it is none, as with a leading zero."""
        return int(self.name) if re.fullmatch(r"0|[1-9][0-9]{0,7}", self.name) else -1


def _parse(text: str) -> Iterator[str | _Reference]:
    while True:
        plain, dollar, text = text.partition("$")
        yield plain
        if not dollar:
            return
        braces = text.startswith("{")
        name = "".join(takewhile(_is_of_a_name, text[braces:]))
        if text.startswith("$"):
            yield "$"
            text = text[1:]
        elif not name or (braces and not text.startswith(f"{{{name}}}")):
            yield "$"
        else:
            yield _Reference(name)
            text = text[len(name) + 2 * braces :]


def _is_of_a_name(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()


# --- the walk through the steps ----------------------------------------------------------------------------


class Peer(Protocol):
    """The other side of a dialogue. Each method raises `ProbeFailed` where it can't do what it says."""

    async def find(self, expect: Regexp, *, prompt: bool) -> Match:
        """Read until something matches; as a `prompt`, also something that may still go on."""

    async def take(self, expected: bytes) -> None:
        """Read exactly these bytes."""

    async def send(self, data: bytes) -> None:
        """Send `data` as it is."""

    async def start_tls(self) -> None:
        """Go on inside TLS."""


async def walk(probe: Probe, steps: Iterable[Step], peer: Peer) -> None:
    """Go through the steps with a peer, up to the first that fails.

    Raises:
        ProbeFailed: what the peer says is not what was expected, or it has gone.
    """
    for number, step in enumerate(steps, 1):
        found = None
        if step.expect is not None:
            probe.log("Expecting a match", step=number, regexp=step.expect.text)
            found = await peer.find(step.expect, prompt=step.expect_prompt)
            probe.log("It matched", step=number, match=_shown(found.group() or b""))
            if step.info is not None:
                probe.set(step.info, 1, *step.values(found))
        if step.expect_bytes:
            probe.log("Expecting bytes", step=number)
            await peer.take(encode(step.expect_bytes))
        sent = step.reply(found)
        if sent and not step.send_without_newline:
            sent += b"\n"
        if sent or step.send_bytes:
            sent = sent or encode(step.send_bytes)
            await peer.send(sent)
            probe.log("Sent", step=number, bytes=len(sent))
        if step.starttls:
            await peer.start_tls()


def _shown(data: bytes) -> str:
    """The beginning of some data, for the log."""
    return data[:200].decode("utf-8", "backslashreplace")


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
            raise ProbeFailed(Reason.DIALOGUE_BYTES_MISMATCH, "other bytes came than expected", came=_shown(taken))

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
        Reason.DIALOGUE_NO_MATCH, "the peer closed the connection, and no line matched", last_line=_shown(last)
    )


# --- a dialogue over a connection --------------------------------------------------------------------------


class StreamSettings(DialogueSettings):
    """What any prober understands that talks in lines over a byte stream, secure or not."""

    tls: bool = False
    tls_config: TLSSettings = TLSSettings()


async def hold(probe: Probe, connection: Connection, settings: StreamSettings, host: str, seconds: Metric) -> None:
    """Hold a module's dialogue over a connection that has just been made, and close it.

    Args:
        host: the name to verify in TLS where the settings give none; empty if the target has no name.
        seconds: where the duration of each phase goes.

    Raises:
        ProbeFailed: TLS fails, or a step does.
    """

    async def start_tls() -> None:
        await connection.start_tls(probe, _secure(settings.tls_config, host))
        assert connection.handshake is not None
        tls.report(probe, connection.handshake)
        probe.add(seconds, round(connection.tls_seconds, 9), "tls")

    try:
        probe.set(seconds, round(connection.connect_seconds, 9), "connect")
        if settings.tls:
            await start_tls()
        probe.set(FAILED_BY_REGEXP, 0)
        probe.set(FAILED_BY_BYTES, 0)
        if settings.query_response:
            with _timed(probe, seconds), probe.phase("dialogue"):
                await walk(probe, settings.query_response, Lines(probe, connection, start_tls))
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


def _secure(config: TLSSettings, host: str) -> Secure:
    name = config.server_name or host
    if not name and not config.insecure_skip_verify:
        raise ProbeFailed(
            Reason.SETTINGS_UNUSABLE, "tls_config: without `server_name` there is no name to verify a certificate by"
        )
    return Secure(tls.client_context(config), name)
