"""Who may come in: HTTP basic authentication against bcrypt hashes.

A hash takes a tenth of a second by design: that is spent in one thread of its own, so that guessing costs one core
and delays no probe, and what came of it is remembered under a keyed digest.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import bcrypt

from probe_exporter.web.answers import Refused

REMEMBERED = 100
"""Right and wrong attempts remembered, each."""

MOST_WAITING = 64
"""Attempts that wait for their hash; more are turned away. One thread does about ten a second."""

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_LONGEST = 72  # bytes of a password that bcrypt looks at


def check_hash(text: str) -> str:
    """A bcrypt hash as `htpasswd -B` makes it.

    Raises:
        ValueError: it is none.
    """
    if not _HASH.fullmatch(text):
        raise ValueError("expected a bcrypt hash ($2a$, $2b$ or $2y$, cost 4 to 31), as `htpasswd -nB` prints it")
    return text


def credentials(header: str) -> tuple[str, str] | None:
    """Name and password of an Authorization header; None if it is not one of Basic (RFC 7617)."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = (
            base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape").partition(":")
        )
    except (binascii.Error, ValueError):
        return None
    return (name, password) if colon else None


class Passwords:
    """Checks passwords, each once. What it remembers is gone with the process, and useless without its key."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        # Apart from each other: no number of wrong guesses pushes out those that are right.
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")

    async def match(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Whether this is the password of that user. It takes as long where there is no such user.

        Args:
            users: names and bcrypt hashes; at least one.

        Raises:
            Refused: too many others wait for an answer to the same question.
        """
        # Of an unknown user, the costliest hash is tried, so that the time tells nothing.
        known = name in users
        hashed = users[name] if known else max(users.values(), key=lambda text: text[4:6])
        tried = self._digest("known" if known else "unknown", name, hashed, password)
        for remembered, verdict in ((self._right, True), (self._wrong, False)):
            if tried in remembered:
                remembered.move_to_end(tried)
                return verdict
        fits = await self._ask(tried, hashed, password) and known
        remembered = self._right if fits else self._wrong
        remembered[tried] = None
        if len(remembered) > REMEMBERED:
            remembered.popitem(last=False)
        return fits

    def _digest(self, *parts: str) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            data = part.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    async def _ask(self, tried: bytes, hashed: str, password: str) -> bool:
        """Ask bcrypt, once for all who ask the same at the same time."""
        pending = self._pending.get(tried)
        if pending is None:
            if len(self._pending) >= MOST_WAITING:
                raise Refused(503, "Too many attempts to log in", **{"Retry-After": "10"})
            secret = password.encode("utf-8", "surrogateescape")[:_LONGEST]
            work = asyncio.get_running_loop().run_in_executor(self._thread, bcrypt.checkpw, secret, hashed.encode())
            pending = self._pending[tried] = asyncio.ensure_future(work)
            pending.add_done_callback(lambda _: self._pending.pop(tried, None))
        return await asyncio.shield(pending)  # one client that hangs up must not end it for the others

    def close(self) -> None:
        """End the thread once it has finished what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)
