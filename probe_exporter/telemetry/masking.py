"""What people are shown holds no passwords: those in URLs are crossed out, and so is every secret of a module.

Probers log no secrets. But a target may carry one, a server may send one back, and a prober is written by anybody;
so whatever a probe noted goes through here before it becomes text or JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from string import punctuation
from typing import Generic, TypeVar
from urllib.parse import quote, unquote

from probe_exporter.settings.block import Settings
from probe_exporter.settings.secrets import MASK, Secret, is_credential

CROSSED_OUT = "xxxxx"
"""Stands for the password of a URL, as in Go's ``URL.Redacted``."""

SHORTEST = 4
"""Characters of a secret that is looked for in texts: shorter ones would cross out half of every line."""

_PASSWORD = re.compile(
    r"""
    ( (?: ^ | [a-z][a-z0-9+.-]*:// )       # a target may lack its scheme
      [^][\s/?#:@"'<>]* : )                # the user
    (?: ([^\s/?#]*) @                      # the password, up to the last @ of the authority
      | (?! [0-9]* (?: [/?#] | $ ) )       # or, where no port follows the colon, up to that of the word:
        (\S*) @ )                          # somebody wrote a raw slash
    """,
    re.VERBOSE | re.IGNORECASE,
)


def mask_urls(text: str) -> str:
    """`text` with the password of every URL in it written as ``xxxxx``."""
    return _PASSWORD.sub(rf"\1{CROSSED_OUT}@", text) if "@" in text else text


class Mask:
    """Knows what must not be shown of one probe: the password in its target, and its module's secrets."""

    __slots__ = ("_hidden",)

    def __init__(self, target: str, settings: Settings) -> None:
        secrets = dict.fromkeys(_secrets_of(Identity(settings)), MASK)
        secrets |= dict.fromkeys(_passwords(target), CROSSED_OUT)
        found = [secret for secret in secrets if len(secret) >= SHORTEST]
        # The longest first: one may be the beginning of another.
        self._hidden = [(secret, secrets[secret]) for secret in sorted(found, key=len, reverse=True)]

    def text(self, text: str) -> str:
        """`text`, fit to be shown."""
        text = mask_urls(text)
        for secret, shown in self._hidden:
            text = text.replace(secret, shown)
        return text

    def plain(self, value: object) -> object:
        """A value of a log event as data that JSON knows, fit to be shown."""
        return plain(value, self.text)


def plain(value: object, shown: Callable[[str], str] = mask_urls) -> object:
    """A value as data that JSON knows, every text in it as `shown` makes it."""
    match value:
        case None | bool() | int() | float():
            return value
        case bytes():
            return shown(value.decode("utf-8", "backslashreplace"))
        case Mapping():
            return {shown(str(key)): plain(item, shown) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item, shown) for item in value]
        case _:
            return shown(str(value))


T = TypeVar("T")


class Identity(Generic[T]):
    """A thing as the key of a cache: equal to itself and to nothing else, whatever it holds."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


@lru_cache(maxsize=256)  # a probe that fails does so again and again
def _secrets_of(settings: Identity[Settings]) -> frozenset[str]:
    """All secrets of some settings, as they are and as they look in a URL."""
    found = frozenset(_secrets(settings.value))
    return found | {quote(secret, safe=safe) for secret in found for safe in ("", punctuation)}


def _secrets(value: object) -> Iterator[str]:
    """The secrets within settings, and the passwords of the URLs there."""
    match value:
        case Secret():
            yield value.reveal()
        case str() if "://" in value:
            yield from _passwords(value)
        case Settings():
            for name in type(value).model_fields:
                yield from _secrets(getattr(value, name))
        case Mapping():
            for key, item in value.items():
                if isinstance(item, str) and is_credential(str(key)):
                    yield item
                else:
                    yield from _secrets(item)
        case list() | tuple():
            for item in value:
                yield from _secrets(item)


def _passwords(text: str) -> Iterator[str]:
    """The passwords of the URLs in `text`, as written and decoded."""
    if "@" not in text:
        return
    for found in _PASSWORD.finditer(text):
        password = found[2] if found[2] is not None else found[3]
        yield password
        yield unquote(password)
