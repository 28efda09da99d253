"""The Accept-Encoding header (RFC 9110, 12.5.3), as far as a configuration needs it."""

from __future__ import annotations


def accepts(header: str, coding: str) -> bool:
    """Whether `header` allows `coding`, decided by the original's rules.

    The part of the highest quality that names the coding (in exactly this spelling) or ``*`` decides; a
    quality that can't be read counts as 0. Parts are split at their last ``;`` only.
    """
    offers = [_offer(part) for part in header.split(",")]
    for name, quality in sorted(offers, key=lambda offer: -offer[1]):
        if name in (coding, "*"):
            return quality > 0
    return False


def _offer(part: str) -> tuple[str, float]:
    """A coding and its quality, to three decimals."""
    name, separator, parameter = part.rpartition(";")
    if not separator:
        return part.strip(), 1.0
    return name.strip(), round(_number(parameter.strip().removeprefix("q=")), 3)


def _number(text: str) -> float:
    """A number as Go reads it, or 0."""
    try:
        return float.fromhex(text) if "p" in text.lower() else float(text) if text == text.strip() else 0.0
    except (ValueError, OverflowError):
        return 0.0
