"""`Problem`: an error or a warning about a configuration file, with its file, line, column and key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file. Lines and columns count from 1; 0 means the whole file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """An error or a warning at a place.

    Args:
        path: the keys that lead to the place, joined with dots; empty for the whole file.
        message: what is expected; never the value of a secret.
    """

    place: Place
    path: str
    message: str

    def __post_init__(self) -> None:
        for name in ("path", "message"):  # bytes in them, from !!binary, become escapes
            printable = getattr(self, name).encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, name, printable)

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"
