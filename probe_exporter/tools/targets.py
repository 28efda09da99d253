"""Read a file of targets, for ``probe-exporter run`` and ``prometheus-config``.

A line is ``TARGET`` or ``MODULE TARGET``. Empty lines and comments, from ``#`` at the start of a word, are skipped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

STDIN = "-"


class BadTargets(Exception):
    """The file of targets can't be used; the message has its place."""


class Line(NamedTuple):
    """A target and the module to probe it with."""

    module: str
    target: str


def read_targets(file: str, module: str | None) -> list[Line]:
    """Return the targets of a file, in its order, without repetitions.

    Args:
        file: its path; ``-`` for standard input.
        module: for lines without a module; None if each line must have one.

    Raises:
        BadTargets: the file can't be read, or has a wrong line, or no targets.
    """
    found = list(dict.fromkeys(_lines(file, module)))
    if not found:
        raise BadTargets(f"{file} has no targets: write one a line")
    return found


def _lines(file: str, module: str | None) -> Iterator[Line]:
    for number, text in enumerate(_text(file).splitlines(), 1):
        words = text.split()
        comment = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
        match words[:comment]:
            case []:
                continue
            case [target] if module is not None:
                yield Line(module, target)
            case [own, target]:
                yield Line(own, target)
            case [_]:
                raise BadTargets(f"{file}:{number}: no module: write `MODULE TARGET`, or give --module for all lines")
            case more:
                raise BadTargets(f"{file}:{number}: expected `TARGET` or `MODULE TARGET`, found {len(more)} words")


def _text(file: str) -> str:
    try:
        text = sys.stdin.read() if file == STDIN else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise BadTargets(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadTargets(f"{file}: is not UTF-8 text") from None
    return text.removeprefix("\ufeff")  # editors on Windows begin a file with a byte order mark
