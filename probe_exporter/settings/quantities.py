"""Parse and format durations and numbers as Go does, and sizes in powers of 1024."""

from __future__ import annotations

import math
import re

# --- durations ---------------------------------------------------------------------------------------------

_INT64 = 1 << 63
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\N{MICRO SIGN}s": 1_000,
    "\N{GREEK SMALL LETTER MU}s": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_DIGITS = frozenset("0123456789")


def _leading_digits(text: str, start: int) -> int:
    """Return the index after the ASCII digits that begin at `start`."""
    while start < len(text) and text[start] in _DIGITS:
        start += 1
    return start


def _quantities(text: str) -> list[tuple[str, str, str]]:
    """Split ``1h2.5m`` into (whole digits, fraction digits, unit); an empty unit means that it is missing.

    Raises:
        ValueError: a number is missing.
    """
    found = []
    at = 0
    while at < len(text):
        end = _leading_digits(text, at)
        whole, fraction = text[at:end], ""
        if end < len(text) and text[end] == ".":
            at, end = end + 1, _leading_digits(text, end + 1)
            fraction = text[at:end]
        if not whole and not fraction:
            raise ValueError("a number is missing")
        at = end
        while end < len(text) and text[end] != "." and text[end] not in _DIGITS:
            end += 1
        found.append((whole, fraction, text[at:end]))
        at = end
    return found


def parse_duration(text: str) -> float:
    """Return the seconds of a duration in Go's syntax: ``1.5s``, ``1h2m3s``, ``-5ms``, ``0``.

    Whole nanoseconds, as Go counts them; a finer fraction is cut off.

    Raises:
        ValueError: with a sentence for a person.
    """
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    if digits == "0":
        return 0.0
    hint = "a duration is written like 5s, 1.5s, 1m30s or 500ms"
    if not digits:
        raise ValueError(f"the duration is empty; {hint}")
    total = 0
    try:
        quantities = _quantities(digits)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a duration: {error}; {hint}") from None
    for whole, fraction, unit in quantities:
        if not unit:
            raise ValueError(f"{text!r} lacks a unit; {hint}")
        if unit not in _NANOSECONDS:
            raise ValueError(f"{unit!r} in {text!r} is not a unit; the units are ns, us, µs, ms, s, m and h")
        scale = _NANOSECONDS[unit]
        total += int(whole or "0") * scale + int(int(fraction or "0") * (scale / 10 ** len(fraction)))
    if total > _INT64 - (sign == "+"):
        raise ValueError(f"{text!r} is too long for a duration (the limit is 292 years)")
    return (-total if sign == "-" else total) / 1e9


def _with_fraction(value: int, unit: int) -> str:
    """Return `value` / `unit` in decimal, without trailing zeros; `unit` is a power of ten."""
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    return f"{whole}.{str(rest).zfill(len(str(unit)) - 1).rstrip('0')}"


def format_duration(seconds: float) -> str:
    """A duration as Go prints it: ``1.5s``, ``2m0s``, ``100µs``, ``0s``."""
    total = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and total else ""
    if total == 0:
        return "0s"
    if total < 1_000_000_000:
        unit = next(u for u in ("ms", "µs", "ns") if total >= _NANOSECONDS[u])
        return f"{sign}{_with_fraction(total, _NANOSECONDS[unit])}{unit}"
    minutes, rest = divmod(total, _NANOSECONDS["m"])
    hours, minutes = divmod(minutes, 60)
    text = f"{_with_fraction(rest, _NANOSECONDS['s'])}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


# --- sizes -------------------------------------------------------------------------------------------------

_PREFIXES = ("", "K", "M", "G", "T", "P", "E")
_BYTES = {prefix + "B": 1024**power for power, prefix in enumerate(_PREFIXES)}
_BINARY_BYTES = {prefix + ("iB" if prefix else "B"): 1024**power for power, prefix in enumerate(_PREFIXES)}


def parse_size(text: str) -> int:
    """Return the bytes of a size in powers of 1024: ``10MB``, ``1.5KiB``, ``1MB512KB``, ``0``.

    A negative size stands for no limit, as in the original, and becomes 0.

    Raises:
        ValueError: with a sentence for a person.
    """
    sign, digits = (text[0], text[1:]) if text[:1] in ("+", "-") else ("+", text)
    if digits == "0":
        return 0
    hint = "a size is written like 512KB, 10MB or 1MB512KB"
    if not digits:
        raise ValueError(f"the size is empty; {hint}")
    try:
        quantities = _quantities(digits)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a size: {error}; {hint}") from None
    units = [unit for _, _, unit in quantities]
    if "" in units:
        raise ValueError(f"{text!r} lacks a unit; {hint}")
    table = next((table for table in (_BYTES, _BINARY_BYTES) if all(unit in table for unit in units)), None)
    if table is None:
        unknown = next((unit for unit in units if unit not in _BYTES and unit not in _BINARY_BYTES), None)
        if unknown is None:
            raise ValueError(f"{text!r} mixes units like KB with units like KiB; use one kind")
        raise ValueError(f"{unknown!r} in {text!r} is not a unit; the units are B, KB, MB, GB, TB, PB and EB")
    total = 0.0
    for whole, fraction, unit in quantities:
        if _overflows(whole) or _overflows(fraction):
            raise ValueError(f"{text!r} has too many digits")
        total += (int(whole or "0") + int(fraction or "0") / 10 ** len(fraction)) * table[unit]
    if total > _INT64:
        raise ValueError(f"{text!r} is too large (the limit is 8EB)")
    return 0 if sign == "-" else int(total)


def _overflows(digits: str) -> bool:
    """Whether Go's units library gives up on a number, which it does a little early."""
    return len(digits) > 18 and int(digits[:-1]) >= (_INT64 - 10) // 10


def format_size(size: int) -> str:
    """A size as Go's units library prints it: ``10MiB``, ``2MiB512KiB``, ``0B``."""
    if size == 0:
        return "0B"
    text = ""
    for unit, scale in reversed(_BINARY_BYTES.items()):
        count, size = divmod(size, scale)
        if count:
            text += f"{count}{unit}"
    return text


# --- numbers -----------------------------------------------------------------------------------------------

_DECIMAL = re.compile(r"[+-]?(\d[\d_]*+(?:\.[\d_]*+)?|\.\d[\d_]*+)([eE][+-]?\d[\d_]*+)?")
_HEXADECIMAL = re.compile(r"[+-]?0[xX]_?(?:[\da-fA-F][\da-fA-F_]*+(?:\.[\da-fA-F_]*+)?|\.[\da-fA-F_]++)[pP][+-]?\d+")
_LONE_UNDERSCORE = re.compile(r"(?<![\da-fA-FxX])_|_(?![\da-fA-F])")
_SPECIAL = re.compile(r"[+-]?inf(inity)?|nan", re.IGNORECASE)


def parse_float(text: str) -> float:
    """A number as Go's ``strconv.ParseFloat`` takes it: ``1e1``, ``0x1p3``, ``1_0``, ``inf``, ``nan``.

    Raises:
        ValueError: it is none, or too large for a double.
    """
    if _SPECIAL.fullmatch(text):
        return float(text)
    hexadecimal = _HEXADECIMAL.fullmatch(text)
    if not text.isascii() or not (hexadecimal or _DECIMAL.fullmatch(text)) or _LONE_UNDERSCORE.search(text):
        raise ValueError(f"{text!r} is not a number")
    bare = text.replace("_", "")
    try:
        value = float.fromhex(bare) if hexadecimal else float(bare)
    except OverflowError:
        value = math.inf
    if math.isinf(value):
        raise ValueError(f"{text!r} is out of range")
    return value
