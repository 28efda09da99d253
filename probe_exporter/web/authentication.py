"""HTTP basic authentication against bcrypt hashes.

A hash takes a tenth of a second by design. One thread computes them, so that guessing passwords takes one core at most
and delays no probe. Results are cached under a keyed digest.
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

from probe_exporter.prober.sharing import shared_result
from probe_exporter.web.answers import Refused

MAX_CACHED_ATTEMPTS = 100
"""The number of right attempts that are cached, and of wrong ones."""

MAX_PENDING_ATTEMPTS = 64
"""Attempts that wait for their hash; more are refused. The thread computes about ten a second."""

_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_MAX_PASSWORD_BYTES = 72  # bcrypt ignores the rest


def check_hash(text: str) -> str:
    """Return a bcrypt hash, as `htpasswd -B` makes it, unchanged.

    Raises:
        ValueError: it is not one.
    """
    if not _HASH.fullmatch(text):
        raise ValueError("expected a bcrypt hash ($2a$, $2b$ or $2y$, cost 4 to 31), as `htpasswd -nB` prints it")
    return text


def credentials(header: str) -> tuple[str, str] | None:
    """Return the name and password of an Authorization header; None if it is not Basic (RFC 7617)."""
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
    """Checks passwords, each once. Cached results end with the process, and are useless without its key."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        # Separate, so that wrong guesses can't push out right ones.
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._wrong: OrderedDict[bytes, None] = OrderedDict()
        self._pending: dict[bytes, asyncio.Future[bool]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bcrypt")

    async def match(self, users: Mapping[str, str], name: str, password: str) -> bool:
        """Return whether this is the password of that user. It takes as long if there is no such user.

        Args:
            users: names and bcrypt hashes; at least one.

        Raises:
            Refused: too many attempts are pending.
        """
        # For an unknown user, try the most expensive hash, so that the time does not show which users exist.
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
        if len(remembered) > MAX_CACHED_ATTEMPTS:
            remembered.popitem(last=False)
        return fits

    def _digest(self, *parts: str) -> bytes:
        digest = hashlib.blake2b(key=self._key, digest_size=32)
        for part in parts:
            data = part.encode("utf-8", "surrogateescape")
            digest.update(len(data).to_bytes(8, "big") + data)
        return digest.digest()

    async def _ask(self, tried: bytes, hashed: str, password: str) -> bool:
        """Ask bcrypt, once for all requests that try the same password at the same time."""
        pending = self._pending.get(tried)
        if pending is None:
            if len(self._pending) >= MAX_PENDING_ATTEMPTS:
                raise Refused(503, "Too many attempts to log in", **{"Retry-After": "10"})
            secret = password.encode("utf-8", "surrogateescape")[:_MAX_PASSWORD_BYTES]
            work = asyncio.get_running_loop().run_in_executor(self._thread, bcrypt.checkpw, secret, hashed.encode())
            pending = self._pending[tried] = asyncio.ensure_future(work)
            pending.add_done_callback(lambda _: self._pending.pop(tried, None))
        return await shared_result(pending)  # a client that disconnects must not cancel it for the others

    def close(self) -> None:
        """End the thread after the hash that it is computing."""
        self._thread.shutdown(wait=False, cancel_futures=True)
