"""Secrets in settings: strings that are masked when a configuration is printed or logged."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import PlainSerializer

from probe_exporter.settings.fields import Scalar, Text

MASK = "<secret>"


class Secret(Scalar):
    """A string whose ``str()``, ``repr()`` and YAML are ``<secret>``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the string itself. Call this only to send the secret."""
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return MASK if self._text else ""

    def __repr__(self) -> str:
        return f"Secret({str(self)!r})"


_CREDENTIAL = re.compile(r"auth|cookie|credential|passw|secret|session|signature|token|api-?_?key", re.IGNORECASE)


def is_credential(name: str) -> bool:
    """Return whether the value of a header or form field of this name is probably a credential."""
    return _CREDENTIAL.search(name) is not None


def _mask_credentials(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _mask(value) if is_credential(name) else value for name, value in values.items()}


def _mask(value: Any) -> Any:
    return MASK if isinstance(value, str) else [MASK for _ in value]


Named = Annotated[dict[Text, Text], PlainSerializer(_mask_credentials)]
"""Values by name, such as headers; values of credentials (``Authorization``) are masked in output."""

NamedLists = Annotated[dict[Text, tuple[Text, ...]], PlainSerializer(_mask_credentials)]
"""As `Named`, with several values for a name."""
