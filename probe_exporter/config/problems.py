"""Problems of configuration files: each says what is wrong, at which key, and where that stands in the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A position in a file; lines and columns count from 1, and 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong or questionable at a place.

    Args:
        path: the keys that lead there, joined with dots; empty for the file as a whole.
        message: what was expected, in plain words; never the value of a secret.
    """

    place: Place
    path: str
    message: str

    def __post_init__(self) -> None:
        for name in ("path", "message"):  # bytes in them, from !!binary, are shown as escapes
            printable = getattr(self, name).encode("utf-8", "backslashreplace").decode()
            object.__setattr__(self, name, printable)

    def __str__(self) -> str:
        return f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"
