"""Mask secrets in logs, debug documents and the history: passwords in URLs, and the secrets of a module.

Probers log no secrets on purpose. But a target may contain one, a server may send one back, and a third party's prober
may log one. So everything that a probe logged is masked here before it becomes text or JSON.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from string import punctuation
from typing import Generic, TypeVar
from urllib.parse import quote, unquote

from probe_exporter.cache import remembered
from probe_exporter.settings.block import Settings
from probe_exporter.settings.secrets import MASK, Secret, is_credential

CROSSED_OUT = "xxxxx"
"""The replacement for the password of a URL, as in Go's ``URL.Redacted``."""

SHORTEST = 4
"""The least characters of a secret to mask in texts; shorter ones occur by chance in most lines."""

_USER = re.compile(r"""[^][\s/?#:@"'<>]*+:""")
_PORT = re.compile(r"[0-9]*+(?:[/?#]|$)")
_AUTHORITY = re.compile(r"[^\s/?#]*+")
_WORD = re.compile(r"\S*+")


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Yield where the passwords of URLs begin and end.

    An authority begins at the start of the text (a target may have no scheme) and after each ``://``. After the user
    and a colon comes the password: up to the last @ of the authority, or, if there is none and no port follows the
    colon, up to the last @ of the word, in case the password has an unescaped slash. One regular expression for all
    this would take quadratic time, and targets and servers choose the text.
    """
    begin, word_end, last = 0, 0, -1
    while True:
        user = _USER.match(text, begin)
        if user is not None:
            start = user.end()
            if start >= word_end:
                word_end = _end(_WORD, text, start)
                last = text.rfind("@", start, word_end)
            end = text.rfind("@", start, _end(_AUTHORITY, text, start)) if last >= start else -1
            if end < 0 and last >= start and not _PORT.match(text, start):
                end = last
            if end >= 0:
                yield start, end
                begin = end + 1
        scheme = text.find("://", begin)
        if scheme < 0:
            return
        begin = scheme + 3


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Return where a pattern that matches everywhere ends."""
    found = pattern.match(text, start)
    return found.end() if found else start


def mask_urls(text: str) -> str:
    """Return the text with ``xxxxx`` in the place of the password of every URL."""
    if "@" not in text:
        return text
    shown, done = [], 0
    for start, end in _places(text):
        shown += [text[done:start], CROSSED_OUT]
        done = end
    return "".join([*shown, text[done:]])


class Mask:
    """Masks the secrets of one probe: the password in its target, and its module's secrets."""

    __slots__ = ("_hidden",)

    def __init__(self, target: str, settings: Settings) -> None:
        secrets = dict.fromkeys(_secrets_of(Identity(settings)), MASK)
        secrets |= dict.fromkeys(_passwords(target), CROSSED_OUT)
        found = [secret for secret in secrets if len(secret) >= SHORTEST]
        # The longest first, since one secret may be the beginning of another.
        self._hidden = [(secret, secrets[secret]) for secret in sorted(found, key=len, reverse=True)]

    def text(self, text: str) -> str:
        """Return `text` with secrets masked."""
        text = mask_urls(text)
        for secret, shown in self._hidden:
            text = text.replace(secret, shown)
        return text

    def parameter(self, value: str) -> str:
        """Return a request's parameter, masked as a whole if a secret of the module has it as a part."""
        if value and any(value in secret for secret, shown in self._hidden if shown is MASK):
            return MASK
        return self.text(value)

    def plain(self, value: object) -> object:
        """Return a value of a log event as JSON data, with secrets masked."""
        return plain(value, self.text)


def plain(value: object, shown: Callable[[str], str] = mask_urls) -> object:
    """Return a value as JSON data, with `shown` applied to every text in it."""
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
    """An object as the key of a cache, compared by identity and not by value."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identity) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _weight(settings: Identity[Settings], secrets: frozenset[str]) -> int:
    """Estimate the bytes of cached settings, which may include a request's parameters, and of their secrets."""
    return 4 * len(repr(settings.value)) + sum(map(len, secrets))


@remembered(weigh=_weight)  # a probe that fails usually fails again
def _secrets_of(settings: Identity[Settings]) -> frozenset[str]:
    """Return all secrets of some settings, as they are and as they look in a URL."""
    found = frozenset(_secrets(settings.value))
    return found | {quote(secret, safe=safe) for secret in found for safe in ("", punctuation)}


def _secrets(value: object) -> Iterator[str]:
    """Yield the secrets in settings, and the passwords of URLs there."""
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
    """Yield the passwords of the URLs in a text, as written and decoded."""
    if "@" not in text:
        return
    for start, end in _places(text):
        password = text[start:end]
        yield password
        yield unquote(password)
