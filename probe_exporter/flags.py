"""Command-line flags: those of blackbox_exporter, with its names, syntax and defaults, and our own."""

from __future__ import annotations

import argparse
import contextlib
import platform
import re
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from probe_exporter.settings.quantities import parse_duration, parse_float, parse_size
from probe_exporter.version import VERSION, revision

if TYPE_CHECKING:
    from probe_exporter.telemetry.logs import FormatName

PROGRAM = "probe-exporter"
DEFAULT_ADDRESS = ":9115"
MAX_PROBES = 4096
AUTO_WORKERS = 0
"""The value of ``--workers=auto``: see `workers.cores`."""

FILES_PER_PROBE = 4
"""Open files for each probe: its client's connection, two to the target, and the connection of a waiting client."""

RESERVED_FILES = 64
"""For all else: listening sockets, the history, name servers, the sockets of pings, clients of other paths."""

DEFAULT_HISTORY_BYTES = 64 << 20
"""As `history.memory.MAX_BYTES`, which explains it."""

MAX_UNSIGNED = (1 << 64) - 1

LOG_LEVELS = ("debug", "info", "warn", "error")
LOG_FORMATS = ("logfmt", "json")
"""The names in `telemetry.logs`. They are repeated here, because that file and the history import half of the exporter,
and ``--help`` needs neither; a test compares them."""


class Flags(argparse.Namespace):
    """The values of the flags. A name here is that of the flag, with underscores."""

    config_file: list[str]
    config_check: bool
    config_strict: bool
    config_expand_env: bool
    config_enable_auto_reload: bool
    config_auto_reload_interval: int
    modules_dir: list[str]
    modules_ignore_errors: bool
    timeout_offset: float
    probe_max_concurrent: int
    probe_event_loop_delay: bool
    history_limit: int
    history_max_bytes: int
    history_path: str
    log_level: str
    log_format: FormatName
    log_prober: str
    web_listen_address: list[str]
    web_external_url: str | None
    web_route_prefix: str | None
    web_drain_timeout: float
    web_max_connection_age: float
    web_config_file: str
    web_systemd_socket: bool
    workers: int
    command: tuple[str, ...]
    """The subcommand; empty to serve."""


COMMANDS = {(), ("config", "schema")}
TOOLS = ("run", "modules", "probers", "new", "prometheus-config", "doctor")
"""Subcommands with flags of their own: see `tools.commands`."""


def parse(arguments: Sequence[str] | None = None) -> Flags:
    """Parse the command line; `arguments` are those of the process if None.

    Raises:
        SystemExit: with code 1 after one line on stderr for a usage error; with code 0 after help or version.
    """
    parser = parser_of_flags()
    flags = Flags()
    _, rest = parser.parse_known_args(arguments, namespace=flags)
    for word in rest:
        if word.startswith("--") and word != "--":
            flag = word.partition("=")[0]
            parser.error(f"unknown long flag '{flag}'{_similar(flag, _long_flags(parser))}")
        if word.startswith("-") and word != "--":
            parser.error(f"unknown short flag '{word[:2]}'")
    flags.command = tuple(word for word in rest if word != "--")
    if flags.command not in COMMANDS:
        first = flags.command[0]
        hint = f": `{PROGRAM} {first}` comes first" if first in TOOLS else _similar(first, TOOLS)
        parser.error(f"unexpected {' '.join(flags.command)}{hint}")
    return flags


def _long_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags of a parser that begin with two hyphens."""
    actions = parser._actions  # noqa: SLF001  # argparse has no public list of its flags
    return [one for action in actions for one in action.option_strings if one.startswith("--")]


def _similar(word: str, known: Sequence[str]) -> str:
    """Return a question that names the known word most similar to a misspelt one; empty if none is similar."""
    import difflib  # noqa: PLC0415  # takes milliseconds, and most command lines have no error

    found = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    return f" (did you mean {found[0]}?)" if found else ""


def parser_of_flags() -> argparse.ArgumentParser:
    """Return a parser of the exporter's own flags."""
    parser = _Parser(
        prog=PROGRAM,
        usage=f"%(prog)s [<flags>] [config schema]\n       %(prog)s {{{','.join(TOOLS)}}} [--help | …]",
        description="Probes targets over the network and exposes the results as metrics for Prometheus.",
        epilog="`config schema` prints a JSON Schema of the configuration, for editors. `run` probes once, `modules` "
        "and `probers` list modules and probers, `new` writes a prober, `prometheus-config` prints a configuration for "
        "Prometheus, `doctor` checks what probing needs here.",
        add_help=False,
        allow_abbrev=False,
        fromfile_prefix_chars="@",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=100),
    )

    def flag(name: str, help: str, **how: Any) -> None:
        dest = re.sub("[.-]", "_", name.lstrip("-"))
        parser.add_argument(name, dest=dest, help=help, **how)

    parser.add_argument("-h", "--help", "--help-long", action="help", help="Show this help.")
    parser.add_argument("--help-man", nargs=0, default=argparse.SUPPRESS, action=_Manual, help="Print a manual page.")
    parser.add_argument("--version", nargs=0, default=argparse.SUPPRESS, action=_Version, help="Print the version.")
    _add_config_flags(flag)
    _add_probe_flags(flag)
    _add_history_flags(flag)
    _add_log_flags(flag)
    _add_web_flags(flag)
    _add_worker_flags(flag)
    return parser


def _add_config_flags(flag: Callable[..., None]) -> None:
    flag(
        "--config.file",
        "Configuration file, directory or glob; repeatable. Default: ./blackbox.yml if it exists, else the shipped "
        "modules.",
        action="append",
        type=_path,
        default=[],
        metavar="PATH",
    )
    flag("--config.check", "Check the configuration and exit with 0, or with 1 if it has errors.", action=_Switch)
    flag("--config.strict", "Treat warnings about the configuration as errors.", action=_Switch)
    flag("--config.expand-env", "Replace ${NAME} in values with environment variables.", action=_Switch)
    flag("--config.enable-auto-reload", "Reload the configuration when its files change.", action=_Switch)
    flag(
        "--config.auto-reload-interval",
        "Interval of --config.enable-auto-reload (default 30; 0 means never).",
        action=_Once,
        type=unsigned,
        default=30,
        metavar="SECONDS",
    )
    flag(
        "--modules.dir",
        "Directory of your own probers (.py) and modules (.yml); repeatable.",
        action="append",
        type=_path,
        default=[],
        metavar="DIRECTORY",
    )
    flag(
        "--modules.ignore-errors",
        "Start without broken probers and the modules that use them, with a warning for each; --config.check still "
        "fails.",
        action=_Switch,
    )


def _add_probe_flags(flag: Callable[..., None]) -> None:
    flag(
        "--timeout-offset",
        "Seconds to subtract from the scrape timeout, for the response to arrive in time (default 0.5).",
        action=_Once,
        type=_float,
        default=0.5,
        metavar="SECONDS",
    )
    flag(
        "--probe.max-concurrent",
        f"Limit on concurrent probes; as many more wait in a queue (default {MAX_PROBES}).",
        action=_Once,
        type=positive,
        default=MAX_PROBES,
        metavar="N",
    )
    flag(
        "--probe.event-loop-delay",
        "Add probe_event_loop_delay_seconds to each probe: how far its durations may be too long.",
        action=_Switch,
    )


def _add_history_flags(flag: Callable[..., None]) -> None:
    flag(
        "--history.limit",
        "Number of finished probes to keep, and of older failures (default 100; 0 means none).",
        action=_Once,
        type=unsigned,
        default=100,
        metavar="N",
    )
    flag(
        "--history.max-bytes",
        "Limit on the memory or file of the history, such as 64MB (the default).",
        action=_Once,
        type=size,
        default=DEFAULT_HISTORY_BYTES,
        metavar="SIZE",
    )
    flag(
        "--history.path",
        "SQLite file for finished probes, which outlives restarts; by default they are kept in memory.",
        action=_Once,
        default="",
        metavar="FILE",
    )


def _add_log_flags(flag: Callable[..., None]) -> None:
    flag(
        "--log.level",
        "Lowest level of the exporter's log: debug, info (the default), warn or error.",
        action=_Once,
        type=_level,
        default="info",
        metavar="LEVEL",
    )
    flag(
        "--log.format",
        "Format of the log: logfmt (the default) or json.",
        action=_Once,
        type=_format,
        default="logfmt",
        metavar="FORMAT",
    )
    flag(
        "--log.prober",
        "Lowest level of probes' logs, on stderr and in debug output, independent of --log.level (default info).",
        action=_Once,
        default="info",
        metavar="LEVEL",
    )


def _add_web_flags(flag: Callable[..., None]) -> None:
    flag(
        "--web.listen-address",
        f"Address to listen on: host:port, [v6]:port, :port or unix:PATH; repeatable (default {DEFAULT_ADDRESS}).",
        action="append",
        default=[],
        metavar="ADDRESS",
    )
    flag(
        "--web.external-url",
        "URL under which clients reach the exporter; its path is the default of --web.route-prefix.",
        action=_Once,
        metavar="URL",
    )
    flag("--web.route-prefix", "Prefix of all paths.", action=_Once, metavar="PATH")
    flag(
        "--web.drain-timeout",
        "Time that running probes have after SIGTERM (default 20s).",
        action=_Once,
        type=_duration,
        default=20.0,
        metavar="DURATION",
    )
    flag(
        "--web.max-connection-age",
        "Age after which a client's connection is closed with its next response, plus or minus 10 %% (default 0: off).",
        action=_Once,
        type=_duration,
        default=0.0,
        metavar="DURATION",
    )
    flag(
        "--web.config.file",
        "File with TLS, users, headers and rate limit of the web server, in exporter-toolkit's format.",
        action=_Once,
        default="",
        metavar="PATH",
    )
    flag(
        "--web.systemd-socket",
        "Listen on sockets of systemd's socket activation; needs --web.external-url.",
        action=_Switch,
    )


def _add_worker_flags(flag: Callable[..., None]) -> None:
    flag(
        "--workers",
        "Number of processes that serve, each on one core; auto for as many cores as this process may use (default 1).",
        action=_Once,
        type=_workers,
        default=1,
        metavar="N",
    )


class _Parser(argparse.ArgumentParser):
    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Return the argument in a line of a file that ``@`` names; none for a blank line or a comment."""
        return [] if arg_line.startswith("#") or not arg_line.strip() else [arg_line]

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with 1."""
        self.exit(1, f"{self.prog}: error: {message}, try --help\n")


class _Once(argparse.Action):
    """A flag with one value, which can't be repeated."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store the value; refuse a second one."""
        _refuse_repetition(parser, namespace, self.dest, self.option_strings[0])
        setattr(namespace, self.dest, values)


class _Switch(argparse.BooleanOptionalAction):
    """``--flag`` or ``--no-flag`` without a value, which can't be repeated."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, default=False, help=help)

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store whether the flag or its negation was given."""
        _refuse_repetition(parser, namespace, self.dest, self.option_strings[0])
        super().__call__(parser, namespace, values, option)


def _refuse_repetition(parser: argparse.ArgumentParser, namespace: argparse.Namespace, dest: str, flag: str) -> None:
    given: set[str] = namespace.__dict__.setdefault("given", set())
    if dest in given:
        parser.error(f"flag '{flag.removeprefix('--')}' cannot be repeated")
    given.add(dest)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print version, revision, Python and platform."""
        print(f"{PROGRAM}, version {VERSION} (revision: {revision()})")  # noqa: T201  # stdout is the place of the result
        print(f"  python version:   {platform.python_version()}")  # noqa: T201  # stdout is the place of the result
        print(f"  platform:         {platform.system().lower()}/{platform.machine()}")  # noqa: T201  # stdout is the place of the result
        parser.exit()


class _Manual(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the help as a manual page."""
        text = parser.format_help().replace("\\", "\\e").replace("-", "\\-").replace("\n.", "\n\\&.")
        print(f'.TH {PROGRAM.upper()} 1 "" "{VERSION}"\n.SH NAME\n{PROGRAM}\n.SH SYNOPSIS\n.nf\n{text}.fi')  # noqa: T201  # stdout is the place of the result
        parser.exit()


# --- values ------------------------------------------------------------------------------------------------


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a path can't be empty")
    return text


def unsigned(text: str) -> int:
    """Parse a whole number from 0 up that fits into 64 bits, for a parser of arguments.

    Go's prefixes count, as in the original: ``0x10``, ``0b11``, and ``0o17`` or ``017`` in base 8. So does ``1_000``.
    """
    digits = f"0o{text[1:]}" if text[:1] == "0" and text[1:2] in {*string.digits, "_"} else text
    number = -1
    if re.fullmatch(r"\w+", text, re.ASCII):
        with contextlib.suppress(ValueError):
            number = int(digits, 0)
    if not 0 <= number <= MAX_UNSIGNED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 up")
    return number


def positive(text: str) -> int:
    """Parse a whole number from 1 up, for a parser of arguments."""
    number = unsigned(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _workers(text: str) -> int:
    return AUTO_WORKERS if text == "auto" else positive(text)


def _float(text: str) -> float:
    try:
        return parse_float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _duration(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if seconds < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return seconds


def size(text: str) -> int:
    """Parse a size in bytes, such as ``64MB``, for a parser of arguments."""
    try:
        parsed = parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if parsed <= 0:
        raise argparse.ArgumentTypeError("the limit must be greater than 0; --history.limit=0 turns the history off")
    return parsed


def _level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(f"unrecognized log level {text}")
    return text.lower()


def _format(text: str) -> str:
    if text not in LOG_FORMATS:
        raise argparse.ArgumentTypeError(f"unrecognized log format {text}")
    return text
