"""Dialogues in messages, for the probers udp and websocket: each `expect` is tried on the peer's next message."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, Protocol

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.prober.run import Probe
from probe_exporter.protocols.dialogue.steps import MAX_SHOWN_BYTES, DialogueSettings, shown
from probe_exporter.settings.regexps import Match, Regexp

MAX_INLINE_BYTES = 64 * 1024
"""Size of a message up to which it is searched on the event loop; larger ones are searched in a thread."""


class MessageSettings(DialogueSettings):
    """Settings of a prober that holds a dialogue in messages."""

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        for key in ("expect_prompt", "send_without_newline", "starttls", "until"):
            if any(getattr(step, key) for step in self.query_response):
                yield "query_response", f"`{key}` is for streams: it has no effect on messages"


class Channel(Protocol):
    """Sends and receives messages."""

    def receive(self) -> Coroutine[Any, Any, bytes]:
        """Return the next message, once awaited.

        Raises:
            ProbeFailed: no message can come any more.
        """

    def send_text(self, text: bytes) -> Awaitable[None]:
        """Send a text message."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a binary message."""


class Messages:
    """A peer that talks in messages. A message that does not match ends the dialogue; no second one is read."""

    def __init__(self, probe: Probe, channel: Channel) -> None:
        self._probe = probe
        self._channel = channel

    async def find(self, expect: Regexp, *, reject: Regexp | None = None, prompt: bool = False) -> Match:
        """Read one message, which must match `expect`.

        Args:
            reject: a message that matches this and not `expect` gives another reason for the failure.
            prompt: no effect; every message is complete.

        Raises:
            ProbeFailed: the message does not match, or none comes.
        """
        message = self._heard(await self._channel.receive())
        found = expect.search(message) if len(message) <= MAX_INLINE_BYTES else await _search(expect, message)
        if found is not None:
            return found
        if reject is not None and await _search(reject, message):
            raise ProbeFailed(Reason.DIALOGUE_REJECTED, "the peer said what `reject` names", came=shown(message))
        raise ProbeFailed(Reason.DIALOGUE_NO_MATCH, "the message does not match", came=shown(message))

    async def reach(self, until: Regexp, *, reject: Regexp | None = None) -> None:
        """Do nothing: `until` is for streams, and the settings have a caution about it."""

    async def take(self, expected: bytes) -> None:
        """Read one message, which must consist of these bytes.

        Raises:
            ProbeFailed: the message is another one, or none comes.
        """
        message = self._heard(await self._channel.receive())
        if message != expected:
            raise ProbeFailed(
                Reason.DIALOGUE_BYTES_MISMATCH, "the message is not the bytes expected", came=shown(message)
            )

    def say(self, text: bytes, *, newline: bool) -> Awaitable[None]:
        """Send a text message, without a newline."""
        return self._channel.send_text(text)

    def send(self, data: bytes) -> Awaitable[None]:
        """Send a binary message."""
        return self._channel.send(data)

    async def start_tls(self) -> None:
        """Do nothing: `starttls` is for streams, and the settings have a caution about it."""

    def _heard(self, message: bytes) -> bytes:
        self._probe.log("Received a message", bytes=len(message), came=message[:MAX_SHOWN_BYTES])
        return message


async def _search(expect: Regexp, message: bytes) -> Match | None:
    if len(message) <= MAX_INLINE_BYTES:
        return expect.search(message)
    return await asyncio.to_thread(expect.search, message)
