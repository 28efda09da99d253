"""Placeholders such as ``{port}`` in the texts of cases: values that are known only once a target runs."""

from __future__ import annotations

import re
from collections.abc import Mapping


def fill(text: str, values: Mapping[str, object]) -> str:
    """Put values in place of their placeholders."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def blank(text: str, values: Mapping[str, object]) -> str:
    """Put placeholders in place of values that stand as whole words; zeros before a number remain."""
    for name, value in values.items():
        text = re.sub(rf"(?<!\w)(0*){re.escape(str(value))}(?!\w)", rf"\1{{{name}}}", text)
    return text
