"""Load the file of `--web.config.file`, as exporter-toolkit has it: TLS, users, headers and a rate limit.

Each use checks whether the file, or a file that it names, has changed, by size and time. If a changed file is invalid,
the previous version stays in effect.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from probe_exporter.config import document, nodes
from probe_exporter.config.loading import block_cautions, validated
from probe_exporter.config.module import ConfigError
from probe_exporter.config.problems import Place, Problem
from probe_exporter.settings.block import Settings
from probe_exporter.settings.fields import Text
from probe_exporter.web.authentication import check_hash
from probe_exporter.web.rate_limit import RateLimit
from probe_exporter.web.tls import ServerContext, TlsServer, Unusable, make_context

log = logging.getLogger(__name__)

MAX_BCRYPT_COST = 14
"""The cost of a bcrypt hash above which a warning is logged; it takes about a second."""

_VALUES: Mapping[str, tuple[str, ...] | None] = {
    "Strict-Transport-Security": None,
    "X-Content-Type-Options": ("nosniff",),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-XSS-Protection": None,
    "Content-Security-Policy": None,
}
"""The headers that a file may set, each with its permitted values; None for any value."""


Hash = Annotated[Text, AfterValidator(check_hash)]


def _known_headers(headers: dict[str, str]) -> dict[str, str]:
    """Return the headers as they are sent: blanks for line breaks, as in Go; a long policy has several lines in YAML.

    Raises:
        ValueError: a header can't be set here, or not to its value.
    """
    sent = {}
    for name, value in headers.items():
        if name not in _VALUES:
            raise ValueError(f"`{name}` can't be set here; these can: {', '.join(_VALUES)}")
        choice = _VALUES[name]
        if choice and value not in choice:
            raise ValueError(f"`{name}` can be {' or '.join(choice)}")
        sent[name] = value.replace("\r", " ").replace("\n", " ").strip(" \t")
        if not sent[name].replace("\t", " ").isprintable() or not value.isascii():
            raise ValueError(f"`{name}` can't hold control characters or what is not ASCII")
    return sent


class HttpServer(Settings):
    """``http_server_config``."""

    http2: bool = True
    headers: Annotated[dict[Text, Text], AfterValidator(_known_headers)] = Field(default_factory=dict)

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Yield a warning about a key that is accepted for compatibility and has no effect."""
        if "http2" in self.model_fields_set:
            yield "http2", "has no effect: this server speaks HTTP/1.1"


class WebFile(Settings):
    """The keys of the web configuration file."""

    tls_server_config: TlsServer = TlsServer()
    http_server_config: HttpServer = HttpServer()
    basic_auth_users: dict[Text, Hash] = Field(default_factory=dict)
    rate_limit: RateLimit = RateLimit()

    def cautions(self) -> Iterator[tuple[str, str]]:
        """Yield warnings about password hashes that take so long that logins time out."""
        if any(int(hashed[4:6]) > MAX_BCRYPT_COST for hashed in self.basic_auth_users.values()):
            yield (
                "basic_auth_users",
                f"a cost above {MAX_BCRYPT_COST} takes seconds or more for each password that is new",
            )


@dataclass(frozen=True, slots=True)
class WebConfig:
    """One version of the web configuration.

    Args:
        context: the TLS context of new connections; None for plain HTTP.
        seen: the times, sizes and inodes of the files that it was made of.
    """

    settings: WebFile
    context: ServerContext | None
    warnings: tuple[Problem, ...]
    seen: Mapping[Path, tuple[int, ...]]


def load(path: Path, *, strict: bool = False) -> WebConfig:
    """Read and check the file and all that it names.

    Args:
        strict: treat warnings as errors.

    Raises:
        ConfigError: the file is invalid; the message lists every problem.
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
    )  # before they are read, so that a change meanwhile is noticed next time
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
    """Whether there is no document at all, which counts as an empty one."""
    try:
        return nodes.compose(data) is None
    except nodes.SyntaxProblem:
        return False


def _look(paths: Iterable[Path]) -> dict[Path, tuple[int, ...]]:
    """Return, for each file, values that change when the file does; an empty tuple for a missing file."""
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
    """The current `WebConfig`. Call `current` for each use: it reloads files that have changed.

    Attributes:
        problem: why a later version of the file was refused; empty if none was.
    """

    def __init__(self, path: Path, *, strict: bool = False) -> None:
        """
        Raises:
            ConfigError: the file is invalid.
        """
        self._path = path
        self._strict = strict
        self._config = load(path, strict=strict)
        self._seen = self._config.seen  # of the last attempt, good or not
        self.problem = ""
        self._warn()

    @property
    def current(self) -> WebConfig:
        """Return the current configuration; check each file, and reload if one has changed."""
        if _look(self._seen) != self._seen:
            self._reload()
        return self._config

    @property
    def context(self) -> ServerContext:
        """Return the TLS context for a new connection; call it only if TLS is on."""
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
        """Refuse a change between TLS and plain HTTP, because the listening sockets are already open."""
        if (config.context is None) != (self._config.context is None):
            message = "TLS can't be switched on or off without a restart"
            raise ConfigError([Problem(Place(str(self._path)), "tls_server_config", message)])

    def _warn(self) -> None:
        for warning in self._config.warnings:
            log.warning(str(warning))
