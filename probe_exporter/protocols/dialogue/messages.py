"""A dialogue in messages, over whatever keeps them apart: what is expected of the peer is its next message, whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from probe_exporter.prober.failure import ProbeFailed, Reason
from probe_exporter.protocols.dialogue.steps import DialogueSettings, shown
from probe_exporter.settings.regexps import Match, Regexp

OFF_THE_LOOP = 1024 * 1024
"""Bytes from which on a message is searched in a thread, so that others are not kept waiting."""


class MessageSettings(DialogueSettings):
    """What any prober understands that talks in messages."""

    def cautions(self) -> Iterator[tuple[str, str]]:
        yield from super().cautions()
        for key in ("expect_prompt", "send_without_newline", "starttls"):
            if any(getattr(step, key) for step in self.query_response):
                yield "query_response", f"`{key}` is for streams: it has no effect on messages"


class Channel(Protocol):
    """What carries messages."""

    async def receive(self) -> bytes:
        """The next message.

        Raises:
            ProbeFailed: there will be none.
        """

    async def send_text(self, text: bytes) -> None:
        """Send a message of text."""

    async def send(self, data: bytes) -> None:
        """Send a message of bytes."""


class Messages:
    """A peer that talks in messages. One that is not as expected ends the dialogue: no second one is waited for."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def find(self, expect: Regexp, *, prompt: bool = False) -> Match:
        """Read one message, in which something must match; there are no prompts.

        Raises:
            ProbeFailed: nothing does, or no message comes.
        """
        message = await self._channel.receive()
        found = (
            expect.search(message) if len(message) < OFF_THE_LOOP else await asyncio.to_thread(expect.search, message)
        )
        if found is None:
            raise ProbeFailed(Reason.DIALOGUE_NO_MATCH, "the message that came does not match", came=shown(message))
        return found

    async def take(self, expected: bytes) -> None:
        """Read one message, which must be these bytes.

        Raises:
            ProbeFailed: it is another, or none comes.
        """
        message = await self._channel.receive()
        if message != expected:
            raise ProbeFailed(
                Reason.DIALOGUE_BYTES_MISMATCH, "another message came than the bytes expected", came=shown(message)
            )

    async def say(self, text: bytes, *, newline: bool) -> None:
        """Send a message of text. It needs no newline to end."""
        await self._channel.send_text(text)

    async def send(self, data: bytes) -> None:
        """Send a message of bytes."""
        await self._channel.send(data)

    async def start_tls(self) -> None:
        """Nothing: TLS is for streams, and the settings have said so."""
