"""The scripted answers of targets: bytes, pauses, and the end of the connection. No I/O; `site` sends them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

Header = tuple[str, str]


class End(Enum):
    """What a target does with the connection at the end of its answer."""

    CLOSE = "close"
    RESET = "reset"
    HOLD = "hold"  # open until the other side closes


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause between two parts."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same bytes many times, with or without a pause before each."""

    data: bytes
    times: int
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of the data; the connection stays open until the client closes it, so that nothing resets it."""


@dataclass(frozen=True, slots=True)
class PortDependent:
    """Bytes that contain port numbers, so that they are made when the ports are known."""

    make: Callable[[Callable[[str], str]], bytes]  # receives a function that fills in ports


@dataclass(frozen=True, slots=True)
class Action:
    """An action on the connection other than sending bytes."""

    do: Callable[..., None]


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Wait until the client has sent these bytes, or closes."""

    data: bytes


Part = bytes | Pause | Repeat | Finish | PortDependent | Action | WaitFor


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer of a target."""

    parts: tuple[Part, ...]
    end: End = End.CLOSE


def raw(*parts: Part, end: End = End.CLOSE) -> Answer:
    """Return an answer given byte by byte."""
    return Answer(parts, end)


def silence(*parts: Part) -> Answer:
    """Return an answer that sends `parts` and then nothing more, on an open connection."""
    return Answer(parts, End.HOLD)


def head(status: int | str, headers: Sequence[Header] = (), version: str = "HTTP/1.1") -> bytes:
    """Return a status line and headers, with the empty line after them.

    Args:
        status: a code, which gets its usual reason phrase, or the text after the version.
        headers: names and values in order; duplicates are allowed.
        version: the first word of the status line.
    """
    if isinstance(status, int):
        status = f"{status} {HTTPStatus(status).phrase}"
    lines = [f"{version} {status}", *(f"{name}: {value}" for name, value in headers)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape")


def reply(
    status: int | str = 200, body: bytes = b"", *headers: Header, version: str = "HTTP/1.1", length: bool = True
) -> Answer:
    """Return an ordinary answer. Without `length` only the end of the connection ends the body."""
    announced = [("Content-Length", str(len(body)))] if length else []
    return raw(head(status, [*headers, *announced], version) + body)


def chunked(*chunks: bytes, headers: Sequence[Header] = (), trailer: bytes = b"") -> Answer:
    """Return a 200 in chunked coding, one chunk per argument."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    started = head(200, [*headers, ("Transfer-Encoding", "chunked")])
    return raw(started + framed + b"0\r\n" + trailer + b"\r\n")


def redirect(status: int, location: str | None, *headers: Header, body: bytes = b"moved") -> Answer:
    """Return a 3xx; the site fills in placeholders such as ``{port}`` in `location`."""
    to = [("Location", location)] if location is not None else []
    return reply(status, body, *to, *headers)
