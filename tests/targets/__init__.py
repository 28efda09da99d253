"""Scripted targets on loopback: a test chooses every byte that they send, and when they send it."""

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
