"""The steps of a dialogue with a server (``query_response``): what to expect and what to send.

`walk` performs the steps with a `Peer`: lines of a byte stream (`lines`) or messages (`messages`).
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Protocol

from pydantic import PlainSerializer

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.metrics import Metric
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.templates import DialogueTemplate
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text, encode
from probe_exporter.settings.regexps import Match, Regexp
from probe_exporter.settings.rules import Block, Rule, exclusive, required
from probe_exporter.settings.secrets import MASK

FAILED_BY_REGEXP = Metric(
    "probe_failed_due_to_regex", "Whether the probe failed because of a regular expression in the module."
)
FAILED_BY_BYTES = Metric("probe_failed_due_to_bytes", "Whether the peer sent other bytes than the module expects.")
EXPECT_INFO = Metric("probe_expect_info", "Labels from what `expect` matched, with names from the module; always 1.")

MAX_SHOWN_BYTES = 200
"""The most bytes of a peer's data in a log line or an error."""

MAX_LABEL_BYTES = 64 * 1024
"""Size of a label's value: as much as a line holds, and less than a WebSocket message."""

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
    """Return `name` as a label name of Prometheus, with the original's replacements for other characters."""
    legal = re.sub(r"^[0-9]|[^a-zA-Z0-9_]", "_", name)
    return legal if not legal.startswith("__") else f"_{legal.lstrip('_')}"


class Label(Settings):
    """A label of ``probe_expect_info``; its value is a template with groups of what ``expect`` matched.

    Args:
        name: name of the label.
        value: value, with ``$1`` for a group of the expression.
    """

    rules = (required("name"), _value_is_utf8)
    name: Text = ""
    value: Text = ""

    def cautions(self) -> Iterator[tuple[str, str]]:
        if not _LABEL_NAME.fullmatch(self.name):
            yield "name", "not a label name of Prometheus: characters other than letters, digits and _ become _"


def _expects_one_thing(block: Block) -> Iterator[tuple[str, str]]:
    if "expect" in block and block.get("expect_bytes"):
        yield "expect_bytes", "`expect_bytes` and `expect` exclude each other"


def _needs_expect(block: Block) -> Iterator[tuple[str, str]]:
    for key in ("reject", "until"):
        if key in block and "expect" not in block:
            yield key, f"`{key}` needs `expect`"


def _labels_differ(block: Block) -> Iterator[tuple[str, str]]:
    seen = set()
    labels = block.get("labels")
    for label in labels if isinstance(labels, list | tuple) else ():
        name = label.get("name") if isinstance(label, Mapping) else None
        legal = _legal(name) if isinstance(name, str) else None
        if legal and legal in seen:
            yield "labels", f"the label {name} is here twice"
        seen.add(legal)


_HARMLESS = re.compile(
    r"(?:(?:[a-z.]|[a-z]?[0-9]{1,5}) )?"  # the tag of IMAP
    r"(?:capa|capability|ehlo|feat|helo|help|info|lhlo|logout|nick|noop|ping|pong|quit|rset|starttls|stat|stats|stls"
    r"|ssh-[0-9.]+|user|version)"
    r"(?:[ -][^\r\n]*)?\r?\n?",
    re.IGNORECASE | re.ASCII,
)


def _shown_command(text: str) -> str:
    """Mask text that may be a password: only commands that never carry one are shown."""
    return text if not text or _HARMLESS.fullmatch(text) else MASK


Command = Annotated[Text, PlainSerializer(_shown_command, return_type=str)]
"""Text or bytes that a step sends. It is masked by `_shown_command` wherever settings are shown."""


class Step(Settings):
    """One entry of ``query_response``: expect a line or bytes, send, start TLS, in this order.

    Args:
        expect: read lines until one matches; of messages, the next one must match.
        reject: fail at once if a line matches this and not `expect`.
        until: after the line that matched `expect`, read on until a line matches this; that line counts too.
        expect_prompt: try text without a newline as soon as it arrives.
        expect_bytes: exactly these bytes must come next.
        labels: labels of ``probe_expect_info``, made from what `expect` matched.
        send: a line to send, with ``$1`` or ``${name}`` for groups of what `expect` matched.
        send_without_newline: send `send` as it is.
        send_bytes: bytes to send.
        starttls: continue inside TLS.
    """

    rules = (_expects_one_thing, _needs_expect, _labels_differ, exclusive("send", "send_bytes"))
    expect: Regexp | None = None
    reject: Regexp | None = None
    until: Regexp | None = None
    expect_prompt: bool = False
    expect_bytes: Text = ""
    labels: tuple[Label, ...] | None = None
    send: Command = ""
    send_without_newline: bool = False
    send_bytes: Command = ""
    starttls: bool = False

    def cautions(self) -> Iterator[tuple[str, str]]:
        if self.labels is not None and self.expect is None:
            yield "labels", "labels have no effect without `expect`"
        if self.expect is not None and self.expect.text.startswith("^+"):  # old examples write it for POP3's "+OK"
            yield "expect", r"`^+` does not match a plus sign, it repeats the beginning of the line: write `^\+`"

    @cached_property
    def info(self) -> Metric | None:
        """`EXPECT_INFO` with this step's labels; None if it has no `labels` or no `expect`."""
        if self.labels is None or self.expect is None:
            return None
        return Metric(EXPECT_INFO.name, EXPECT_INFO.help, tuple(_legal(label.name) for label in self.labels))

    @cached_property
    def _values(self) -> tuple[DialogueTemplate, ...]:
        assert self.expect is not None
        return tuple(DialogueTemplate(label.value, self.expect.names) for label in self.labels or ())

    @cached_property
    def _reply(self) -> DialogueTemplate:
        return DialogueTemplate(self.send, self.expect.names if self.expect else {})

    @cached_property
    def action(self) -> Action:
        """What `walk` needs of the step."""
        return Action(
            expect=self.expect,
            reject=self.reject,
            until=self.until,
            prompt=self.expect_prompt,
            info=self.info,
            expected=encode(self.expect_bytes),
            says=bool(self.send),
            newline=not self.send_without_newline,
            data=encode(self.send_bytes),
            starttls=self.starttls,
        )

    def values(self, found: Match) -> tuple[str, ...]:
        """Return the values of the labels.

        Raises:
            ProbeFailed: a value is not UTF-8, or longer than `MAX_LABEL_BYTES`.
        """
        return tuple(_label_value(value.expand(found)) for value in self._values)

    def reply(self, found: Match | None) -> bytes:
        """Return the text to send: a template if the step has `expect`, otherwise as written."""
        return encode(self.send) if found is None else self._reply.expand(found)


@dataclass(frozen=True, slots=True)
class Action:
    """The settings of a `Step`, encoded. To read ten of them from the model itself takes six times as long."""

    expect: Regexp | None
    reject: Regexp | None
    until: Regexp | None
    prompt: bool
    info: Metric | None
    expected: bytes
    says: bool  # whether there is text to send
    newline: bool  # after the text
    data: bytes  # to send, unless there is text
    starttls: bool


def _label_value(data: bytes) -> str:
    if len(data) > MAX_LABEL_BYTES:
        raise ProbeFailed(
            Reason.DIALOGUE_LABEL_INVALID, f"a label's value has {len(data)} bytes, more than {MAX_LABEL_BYTES}"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProbeFailed(Reason.DIALOGUE_LABEL_INVALID, "a label's value is not UTF-8") from None


def _labels_once(block: Block) -> Iterator[tuple[str, str]]:
    """Refuse labels in two steps: one metric can't have two sets of label names."""
    steps = block.get("query_response")
    labelled = [
        step
        for step in (steps if isinstance(steps, list | tuple) else ())
        if isinstance(step, Mapping) and "labels" in step and "expect" in step
    ]
    if len(labelled) > 1:
        yield "query_response", "only one step may have `labels`"


class DialogueSettings(Settings):
    """Settings of every prober that holds a dialogue.

    Args:
        query_response: steps of a dialogue: what to expect and what to send, in turn.
    """

    rules: ClassVar[tuple[Rule, ...]] = (_labels_once,)
    query_response: tuple[Step, ...] = ()


# --- the walk through the steps ----------------------------------------------------------------------------


class Peer(Protocol):
    """The other side of a dialogue. Each method raises `ProbeFailed` if it can't do what it says."""

    async def find(self, expect: Regexp, *, reject: Regexp | None = None, prompt: bool = False) -> Match:
        """Read until a line or message matches `expect`; fail if one matches `reject` only.

        Args:
            prompt: also try a line that is not complete.
        """

    async def reach(self, until: Regexp, *, reject: Regexp | None = None) -> None:
        """Read until a line matches; the one that `find` returned last counts too."""

    async def take(self, expected: bytes) -> None:
        """Read exactly these bytes."""

    def say(self, text: bytes, *, newline: bool) -> Awaitable[None]:
        """Send text, with a `newline` after it if lines end the peer's texts."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send `data` as it is."""

    async def start_tls(self) -> None:
        """Continue inside TLS."""


async def walk(probe: Probe, steps: Iterable[Step], peer: Peer) -> list[Match]:
    """Perform the steps with a peer, up to the first that fails. Return what each ``expect`` matched, in order.

    Raises:
        ProbeFailed: the peer said something else than expected, or closed the connection.
    """
    matches = []
    for number, step in enumerate(steps, 1):
        action = step.action
        found = None
        if (expect := action.expect) is not None:
            probe.log("Expecting a match", step=number, regexp=expect.text)
            found = await peer.find(expect, reject=action.reject, prompt=action.prompt)
            matches.append(found)
            probe.log("It matched", step=number, match=(found.group() or b"")[:MAX_SHOWN_BYTES])
            if action.info is not None:
                probe.set(action.info, 1, *step.values(found))
            if action.until is not None:
                await peer.reach(action.until, reject=action.reject)
        if action.expected:
            probe.log("Expecting bytes", step=number)
            await peer.take(action.expected)
        if action.says and (text := step.reply(found)):
            await peer.say(text, newline=action.newline)
            probe.log("Sent text", step=number, bytes=len(text))
        elif data := action.data:
            await peer.send(data)
            probe.log("Sent bytes", step=number, bytes=len(data))
        if action.starttls:
            await peer.start_tls()
    return matches


def shown(data: bytes) -> str:
    """Return the beginning of some data as text, for a failure. (Log lines take bytes, and decode them on request.)"""
    return data[:MAX_SHOWN_BYTES].decode("utf-8", "backslashreplace")
