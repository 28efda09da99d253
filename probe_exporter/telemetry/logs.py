"""Format log records as logfmt or JSON, and send them to stderr.

Code logs through the standard library with ``extra={"fields": {…}}``. No line holds a password: see `masking`.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

from probe_exporter.exposition.text_format import number
from probe_exporter.telemetry import log_output
from probe_exporter.telemetry.masking import mask_urls, plain

Fields = Mapping[str, object]
Line = Callable[[float, int, str, str, Fields], str]
FormatName = Literal["logfmt", "json"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
"""The values of ``--log.level`` and ``--log.prober``."""

_NAMES = {logging.DEBUG: "DEBUG", logging.INFO: "INFO", logging.WARNING: "WARN", logging.ERROR: "ERROR"}


def logfmt(time: float, level: int, source: str, message: str, fields: Fields) -> str:
    """Format ``time=… level=INFO source=cli.py:80 msg="Listening" address=…``, quoted as Go's slog does."""
    stamp = datetime.fromtimestamp(time, UTC).astimezone().isoformat(timespec="milliseconds")
    words = [f"time={stamp.replace('+00:00', 'Z')} level={level_name(level)} source={_quoted(source)}"]
    words.append(f"msg={_quoted(message)}")
    if fields:
        words.append(pairs(fields))
    return " ".join(words)


def pairs(fields: Fields) -> str:
    """Format ``address=127.0.0.1 err="not this"``, quoted as in `logfmt`."""
    return " ".join([f"{_quoted(key)}={_quoted(_as_text(value))}" for key, value in fields.items()])


def as_json(time: float, level: int, source: str, message: str, fields: Fields) -> str:
    """Format a line as a JSON object; a field never replaces one of the four that every line has."""
    whole, nanoseconds = divmod(int(time * 1e9), 1_000_000_000)
    stamp = datetime.fromtimestamp(whole, UTC).astimezone().isoformat(timespec="seconds")
    seconds, zone = stamp[:19], stamp[19:].replace("+00:00", "Z")
    line: dict[str, object] = {
        "time": f"{seconds}.{nanoseconds:09d}{zone}",
        "level": level_name(level),
        "source": source,
        "msg": message,
    }
    for key, value in fields.items():
        line.setdefault(key, _as_json(value))
    return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


def for_terminal(time: float, level: int, source: str, message: str, fields: Fields) -> str:
    """Format level, message and fields for a person; further lines of the message and the traceback follow.

    Without time and source, and without ``err`` above a traceback, which ends with it.
    """
    trace = str(fields.get("traceback", "")).splitlines()
    rest = {key: value for key, value in fields.items() if key != "traceback" and not (trace and key == "err")}
    first, *more = message.splitlines() or [""]
    words = [level_name(level), _escaped(first), *([pairs(rest)] if rest else [])]
    return "\n".join([" ".join(words), *map(_escaped, more + trace)])


FORMATS: dict[FormatName, Line] = {"logfmt": logfmt, "json": as_json}


def level_name(level: int) -> str:
    """Return the name of a level in a line."""
    return _NAMES.get(level) or logging.getLevelName(level)


_PLAIN = re.compile(r"[!#-<>-~]+")  # printable ASCII without blank, quote and =
_UNUSUAL = re.compile(r"[^ -~]")  # all but printable ASCII
_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
_ESCAPES |= {'"': r"\"", "\\": "\\\\"}


def _quoted(text: str) -> str:
    """Quote a key or value, on one line, with Go's escapes; without quotes if that is unambiguous."""
    if _PLAIN.fullmatch(text):
        return text
    if text and not text.isascii() and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    # Not by character: records of a hostile DNS response can take 4 MB.
    text = text.replace("\\", "\\\\").replace('"', r"\"")
    return f'"{_UNUSUAL.sub(_quoted_match, text)}"'


def _escaped(text: str) -> str:
    """Return text with escapes for control characters, which a terminal would obey."""
    return "".join([c if c.isprintable() else _quoted_character(c) for c in text])


def _quoted_match(match: re.Match[str]) -> str:
    return _quoted_character(match.group())


def _quoted_character(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _as_text(value: object) -> str:
    match value:
        case str():
            return str(value)
        case bool():
            return "true" if value else "false"
        case float():
            return number(value)
        case bytes():
            return value.decode("utf-8", "backslashreplace")
        case dict() | list() | tuple() | set() | frozenset():
            return json.dumps(_as_json(value), ensure_ascii=False, separators=(",", ":"))
        case _:
            return str(value)


def _as_json(value: object) -> object:
    match value:
        case None | bool() | int():
            return value
        case float():
            finite = value - value == 0
            return value if finite else number(value)
        case dict():
            return {str(key): _as_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_as_json(item) for item in value]
        case _:
            return _as_text(value)


class Formatter(logging.Formatter):
    """Formats the standard library's log records as lines."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as the format has it; a traceback becomes a field."""
        fields: dict[str, object] = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1]:
            fields["err"] = repr(record.exc_info[1])
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        shown = {key: plain(value) for key, value in fields.items()}
        source = f"{record.filename}:{record.lineno}"
        return self._line(record.created, record.levelno, source, mask_urls(record.getMessage()), shown)


class Handler(logging.Handler):
    """Passes log records as lines to `log_output`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a record that can't be formatted is reported as the standard library does."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
        else:
            log_output.write(f"{line}\n")


def setup(level: int, format: FormatName | Line, stream: TextIO | None = None) -> None:
    """Send the process's log to stderr.

    Args:
        level: records below this level are dropped.
        format: the name of a format, or a function such as `for_terminal`.
        stream: the stream to use in place of stderr.
    """
    log_output.occupy_standard_descriptors()
    handler = Handler() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(Formatter(FORMATS[format] if isinstance(format, str) else format))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # At DEBUG these two log their internals, which say nothing about the exporter.
    for other in ("asyncio", "aiohttp"):
        logging.getLogger(other).setLevel(max(level, logging.INFO))
