"""Scripted loopback targets: every byte they send, and when, is chosen by the test."""

from tests.targets.answers import (
    Answer,
    End,
    Part,
    Pause,
    Repeat,
    chunked,
    raw,
    redirect,
    reply,
    silence,
)
from tests.targets.pki import Pki
from tests.targets.site import Request, Site, Tls

__all__ = [
    "Answer",
    "End",
    "Part",
    "Pause",
    "Pki",
    "Repeat",
    "Request",
    "Site",
    "Tls",
    "chunked",
    "raw",
    "redirect",
    "reply",
    "silence",
]
