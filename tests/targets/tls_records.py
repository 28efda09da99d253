"""Make records of TLS 1.3 that no library can be made to send: many messages after the handshake (RFC 8446).

A server of the standard library logs its traffic secret, with which this module encrypts further records.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_UPDATE = bytes((24, 0, 0, 1, 0))  # update not requested
SESSION_TICKET = bytes((4, 0, 0, 14)) + bytes((0, 0, 28, 32)) + bytes(4) + b"\0" + b"\0\1t" + b"\0\0"


def log_secrets(context: ssl.SSLContext, path: Path) -> None:
    """Make the connections of a context log their secrets to a file, and use AES-128 with SHA-256."""
    context.keylog_filename = str(path)
    context.minimum_version = ssl.TLSVersion.TLSv1_3


def traffic_secret(path: Path) -> bytes:
    """Return the secret by which the server's application data is encrypted at first."""
    lines = (line.split() for line in path.read_text().splitlines())
    return bytes.fromhex(next(words[2] for words in lines if words[0] == "SERVER_TRAFFIC_SECRET_0"))


class Writer:
    """Encrypts messages as records, with keys derived from a traffic secret."""

    def __init__(self, secret: bytes, sequence: int = 0) -> None:
        self._secret = secret
        self._sequence = sequence
        self._make_keys()

    def _make_keys(self) -> None:
        self._hash = "sha384" if len(self._secret) == 48 else "sha256"
        self._cipher = AESGCM(self._expand("key", 32 if self._hash == "sha384" else 16))
        self._iv = int.from_bytes(self._expand("iv", 12), "big")

    def _expand(self, label: str, size: int) -> bytes:
        text = b"tls13 " + label.encode()
        info = size.to_bytes(2, "big") + bytes((len(text),)) + text + b"\0\1"
        return hmac.digest(self._secret, info, self._hash)[:size]

    def record(self, kind: int, message: bytes) -> bytes:
        """Return a message as one record."""
        plain = message + bytes((kind,))
        header = b"\x17\x03\x03" + (len(plain) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return header + self._cipher.encrypt(nonce, plain, header)

    def key_update(self) -> bytes:
        """Return a record that changes the keys, and change them."""
        data = self.record(22, KEY_UPDATE)
        self._secret = self._expand("traffic upd", hashlib.new(self._hash).digest_size)
        self._sequence = 0
        self._make_keys()
        return data
