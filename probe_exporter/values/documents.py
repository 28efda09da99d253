"""Parse JSON documents as Go's encoding/json does, so that a check or a value means the same as in the original.

Python's json module differs: it accepts NaN, a byte order mark, UTF-16 and numbers beyond the range of a double; it
refuses bytes that are not UTF-8, and keeps surrogates that belong to no pair. Go replaces the last two by U+FFFD.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from probe_exporter.settings.regexps import replace_invalid

NOT_JSON = "the body is not JSON, or nested too deep"

_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)


def parse(document: bytes, *, doubles: bool = False) -> Any:
    """Return the value of a JSON document.

    Args:
        doubles: make all numbers floats, as the original does for CEL; otherwise whole numbers are ints.

    Raises:
        ValueError: it is not JSON, or nested too deep.
    """
    text = replace_invalid(document).decode()
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPE.sub(_replace_lone_surrogate, text)
    try:
        return json.loads(
            text, parse_int=_double if doubles else _whole, parse_float=_double, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise ValueError(NOT_JSON) from None


def _replace_lone_surrogate(escape: re.Match[str]) -> str:
    return r"\ufffd" if escape[1] else escape[0]


def _double(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is beyond the range of a double")
    return number


def _whole(text: str) -> int:
    if len(text) > 308:  # the largest double has 309 digits
        _double(text)
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
