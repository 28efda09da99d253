"""The file of `--web.config.file`: TLS, users, headers and a rate limit for the front door, as exporter-toolkit has it.

It and what it names are looked at whenever they may matter, by their times; a change that is no good keeps what was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator

from probe_exporter.config import document, nodes
from probe_exporter.config.loading import block_cautions, validated
from probe_exporter.config.module import ConfigError
from probe_exporter.config.problems import Place, Problem
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text, Written
from probe_exporter.settings.quantities import format_duration, parse_duration
from probe_exporter.web.authentication import check_hash
from probe_exporter.web.tls import ServerContext, TlsServer, Unusable, make_context

log = logging.getLogger(__name__)

MAX_BCRYPT_COST = 14
"""Of a bcrypt hash, without a warning: about a second."""

_VALUES: Mapping[str, tuple[str, ...] | None] = {
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": None,
    "Content-Security-Policy": None,
}
"""The headers that a file may set, and the values it may choose from where there is a choice."""


def _interval(value: object) -> float:
    """Go's durations, and bare numbers, which are nanoseconds there."""
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) / 1e9
    raise ValueError("expected a duration such as 1.5s")


Interval = Annotated[
    float,
    Written("duration", "1.5s", numbers=True),
    PlainValidator(_interval, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
]
Hash = Annotated[Text, AfterValidator(check_hash)]


def _known_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if name not in _VALUES:
            raise ValueError(f"`{name}` can't be set here; these can: {', '.join(_VALUES)}")
        choice = _VALUES[name]
        if choice and value not in choice:
            raise ValueError(f"`{name}` can be {' or '.join(choice)}")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"`{name}` can't hold line breaks, control characters or what is not ASCII")
    return headers


class HttpServer(Settings):
    """``http_server_config``."""

    http2: bool = True
    headers: Annotated[dict[Text, Text], AfterValidator(_known_headers)] = Field(default_factory=dict)

    def cautions(self) -> Iterator[tuple[str, str]]:
        """A key that is read for compatibility."""
        if "http2" in self.model_fields_set:
            yield "http2", "has no effect: this server speaks HTTP/1.1"


class RateLimit(Settings):
    """``rate_limit``: a bucket of tokens for all clients together, one a request."""

    interval: Interval = 0.0
    burst: Annotated[int, BeforeValidator(int)] = 0

    def cautions(self) -> Iterator[tuple[str, str]]:
        """A bucket that never holds a token."""
        if self.interval > 0 and self.burst <= 0:
            yield "burst", "an `interval` without a `burst` refuses every request"


class WebFile(Settings):
    """What the file may say."""

    tls_server_config: TlsServer = TlsServer()
    http_server_config: HttpServer = HttpServer()
    basic_auth_users: dict[Text, Hash] = Field(default_factory=dict)
    rate_limit: RateLimit = RateLimit()

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Hashes that are so costly that nobody comes in."""
        if any(int(hashed[4:6]) > MAX_BCRYPT_COST for hashed in self.basic_auth_users.values()):
            yield (
                "basic_auth_users",
                f"a cost above {MAX_BCRYPT_COST} takes seconds or more for each password that is new",
            )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What is in force.

    Args:
        context: of connections that come now; None where the door speaks plain HTTP.
        seen: the files that all this was made of, as they were.
    """

    settings: WebFile
    context: ServerContext | None
    warnings: tuple[Problem, ...]
    seen: Mapping[Path, tuple[int, ...]]


def load(path: Path, *, strict: bool = False) -> WebConfig:
    """Read and check the file and all that it names.

    Args:
        strict: refuse what otherwise gets a warning.

    Raises:
        ConfigError: with every problem.
    """
    seen = _look([path])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(Place(str(path)), "", f"can't be read: {error.strerror or error}")]) from error
    read = document.read(b"{}" if _is_empty(data) else data, str(path), WebFile)
    settings = validated(read, WebFile)
    if settings is None or read.problems:
        raise ConfigError(sorted(set(read.problems)))
    tls = settings.tls_server_config
    seen |= _look(
        path.parent / file for file in tls.files
    )  # before they are read: a change meanwhile is seen next time
    try:
        context = make_context(tls, path.parent) if tls.enabled else None
    except Unusable as error:
        raise ConfigError([read.problem(("tls_server_config", error.key), str(error))]) from error
    cautions = [read.problem((*where, key), message) for where, key, message in block_cautions(settings)]
    warnings = sorted({*cautions, *read.warnings})
    if strict and warnings:
        raise ConfigError(warnings)
    return WebConfig(settings, context, tuple(warnings), seen)


def _is_empty(data: bytes) -> bool:
    """Whether there is no document at all, which is as good as an empty one."""
    try:
        return nodes.compose(data) is None
    except nodes.SyntaxProblem:
        return False


def _look(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """What tells a file from what it becomes when somebody changes it; a missing one has nothing."""
    seen: dict[Path, tuple[int, ...]] = {}
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            seen[path] = ()
        else:
            seen[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
    return seen


class LiveWebConfig:
    """The `WebConfig` in force. Ask for it anew each time: it follows its files.

    Attributes:
        problem: why a later version of the file is not in force; empty if there is none.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        """
        Raises:
            ConfigError: the file is not good.
        """
        self._path = path
        self._strict = strict
        self._config = load(path, strict=strict)
        self._seen = self._config.seen  # of the last attempt, good or not
        self.problem = ""
        self._warn()

    @property
    def current(self) -> WebConfig:
        """What is in force now: one look at each file, and a reading where one has changed."""
        if _look(self._seen) != self._seen:
            self._reload()
        return self._config

    @property
    def context(self) -> ServerContext:
        """That of a client that connects now; only where TLS is on."""
        context = self.current.context
        assert context is not None
        return context

    def _reload(self) -> None:
        self._seen = _look(self._seen)
        try:
            config = load(self._path, strict=self._strict)
            self._keep_tls(config)
        except ConfigError as error:
            self.problem = str(error)
            for line in self.problem.splitlines():
                log.error("The web configuration has changed and is refused", extra={"fields": {"err": line}})
            return
        self._config, self._seen, self.problem = config, config.seen, ""
        log.info("The web configuration has changed and is in force", extra={"fields": {"file": self._path}})
        self._warn()

    def _keep_tls(self, config: WebConfig) -> None:
        """The sockets are open: clients that speak the one would not be understood in the other."""
        if (config.context is None) != (self._config.context is None):
            message = "TLS can't be switched on or off without a restart"
            raise ConfigError([Problem(Place(str(self._path)), "tls_server_config", message)])

    def _warn(self) -> None:
        for warning in self._config.warnings:
            log.warning(str(warning))
