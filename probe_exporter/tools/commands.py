"""The subcommands: ``run``, ``modules``, ``probers``, ``new``, ``prometheus-config`` and ``doctor``.

The name of a subcommand is the first argument, and its flags follow, so that they do not affect the exporter's flags.
Exit codes: 0; 1 after a failed probe; 2 for errors of usage, configuration or files; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from probe_exporter.flags import (
    DEFAULT_ADDRESS,
    DEFAULT_HISTORY_BYTES,
    MAX_PROBES,
    PROGRAM,
    TOOLS,
    positive,
    size,
    unsigned,
)
from probe_exporter.settings.quantities import parse_duration

if TYPE_CHECKING:
    from probe_exporter.config.current import Source

UNUSABLE = 2
INTERRUPTED = 130  # as shells report SIGINT


def main(arguments: Sequence[str]) -> int:
    """Run a subcommand; return the exit code.

    Args:
        arguments: its name and its arguments.

    Raises:
        SystemExit: after a usage error or help.
    """
    given = _parser().parse_args(arguments)
    return _run_tool(given)


def _run_tool(given: argparse.Namespace) -> int:
    """Run the subcommand; return the exit code."""
    from probe_exporter.config.current import REFUSALS  # noqa: PLC0415  # help and usage errors need nothing large
    from probe_exporter.config.single import NotRun  # noqa: PLC0415  # the same
    from probe_exporter.telemetry import logs  # noqa: PLC0415  # the same
    from probe_exporter.tools.listing import NotThere  # noqa: PLC0415  # the same
    from probe_exporter.tools.new import NotWritten  # noqa: PLC0415  # the same
    from probe_exporter.tools.prometheus_config import BadShards  # noqa: PLC0415  # the same
    from probe_exporter.tools.targets import BadTargets  # noqa: PLC0415  # the same

    logs.setup(logging.WARNING, "logfmt")
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (NotWritten, NotRun, NotThere, BadShards, BadTargets, *REFUSALS) as refusal:
        sys.stderr.write(f"{PROGRAM} {given.tool}: {refusal}\n")
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False)
    add_tools(parser.add_subparsers(dest="tool", required=True))
    return parser


def add_tools(tools: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of each subcommand."""
    for name in TOOLS:
        tool = _TOOLS[name]
        its = tools.add_parser(
            name,
            help=tool.summary,
            description=f"{tool.summary}.",
            epilog=f"example: {PROGRAM} {name} {tool.example}",
            allow_abbrev=False,
        )
        its.set_defaults(run=tool.run)
        tool.add_arguments(its)


def _new_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the prober: lower-case letters, digits and _")
    parser.add_argument(
        "directory",
        metavar="DIRECTORY",
        nargs="?",
        type=Path,
        default=Path(),
        help="directory for the files (default: the working directory)",
    )


def _new(given: argparse.Namespace) -> int:
    from probe_exporter.tools import new  # noqa: PLC0415  # see `_run_tool`

    files = new.write(given.name, given.directory)
    sys.stdout.write("".join([f"wrote {path}\n" for path in files]) + f"\n{new.next_steps(*files)}")
    return 0


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", metavar="MODULE|FILE.py", help="a module of the configuration, or the file of a prober"
    )
    parser.add_argument("target", metavar="TARGET", help="the target to probe")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        type=_pair,
        default=[],
        help="a setting for FILE.py; repeatable; a dot separates a block and its key",
    )
    parser.add_argument("--module", metavar="FILE.yml[:NAME]", help="a module for FILE.py")
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=_pair,
        default=[],
        help="a parameter that the module declares, or hostname; repeatable",
    )
    parser.add_argument(
        "--timeout",
        metavar="DURATION",
        type=_timeout,
        help="timeout of the probe (default: that of the module, or 10s)",
    )
    parser.add_argument("--debug", action="store_true", help="also print the log of the probe and the settings")
    _add_sources(parser)


def _run(given: argparse.Namespace) -> int:
    from probe_exporter.config import single  # noqa: PLC0415  # see `_run_tool`
    from probe_exporter.tools import once  # noqa: PLC0415  # the same

    if given.subject.endswith(".py"):
        module = single.of_file(Path(given.subject), given.set, given.module)
    elif given.set or given.module:
        raise single.NotRun("--set and --module need the file of a prober")
    else:
        module = single.of_config(_source(given).read(), given.subject)
    return once.run(module, given.target, dict(given.param), given.timeout, debug=given.debug)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="*", help="describe these in full")
    parser.add_argument("--names", dest="names_only", action="store_true", help="print the names only")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    _add_sources(parser)


def _modules(given: argparse.Namespace) -> int:
    from probe_exporter.tools import listing  # noqa: PLC0415  # see `_run_tool`

    config = _source(given).read()
    text = (
        listing.names(config.modules) if given.names_only else listing.modules(config, given.names, as_json=given.json)
    )
    sys.stdout.write(text)
    return 0


def _probers(given: argparse.Namespace) -> int:
    from probe_exporter.tools import listing  # noqa: PLC0415  # see `_run_tool`

    config = _source(given).read()
    text = (
        listing.names(config.probers) if given.names_only else listing.probers(config, given.names, as_json=given.json)
    )
    sys.stdout.write(text)
    return 0


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    add = partial(parser.add_argument, help="as for the exporter")
    add("--web.listen-address", dest="addresses", metavar="ADDRESS", action="append", default=[])
    add("--history.path", dest="history_path", metavar="FILE", default="")
    add("--history.max-bytes", dest="max_bytes", metavar="SIZE", type=size, default=DEFAULT_HISTORY_BYTES)
    add("--probe.max-concurrent", dest="max_probes", metavar="N", type=positive, default=MAX_PROBES)
    parser.add_argument("--ntp", metavar="SERVER", help="NTP server to compare the clock with")
    parser.add_argument("--output", choices=("text", "json"), default="text", help="format (default: text)")
    _add_sources(parser)


def _doctor(given: argparse.Namespace) -> int:
    from probe_exporter.tools.doctor import examination  # noqa: PLC0415  # see `_run_tool`

    addresses = given.addresses or [DEFAULT_ADDRESS]
    limits = (given.history_path, given.max_bytes, given.max_probes)
    plan = examination.Plan(_source(given), addresses, *limits, given.ntp)
    return examination.examine(plan, as_json_document=given.output == "json")


def _prometheus_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--module", metavar="MODULE", help="module for the lines that name none")
    parser.add_argument(
        "--targets",
        metavar="FILE",
        required=True,
        help="a line for each target: TARGET or MODULE TARGET, and # for comments; - is standard input",
    )
    parser.add_argument(
        "--exporter",
        dest="exporters",
        metavar="HOST:PORT",
        action="append",
        default=[],
        help="address of the exporter (default: 127.0.0.1:9115); repeat it for --shards, or write {shard} in it",
    )
    parser.add_argument(
        "--shards",
        metavar="N",
        type=positive,
        default=1,
        help="divide the targets among N exporters by hash; with --shard, among N Prometheis",
    )
    parser.add_argument(
        "--shard", metavar="K", type=unsigned, help="write the file of Prometheus K of N, from 0 to N - 1"
    )
    _add_sources(parser)


def _prometheus_config(given: argparse.Namespace) -> int:
    from probe_exporter.config import single  # noqa: PLC0415  # see `_run_tool`
    from probe_exporter.tools import prometheus_config, targets  # noqa: PLC0415  # the same

    shards = prometheus_config.Shards(given.shards, given.shard)
    addresses = prometheus_config.exporters(given.exporters or [f"127.0.0.1{DEFAULT_ADDRESS}"], shards)
    lines = targets.read_targets(given.targets, given.module)
    if given.files or given.directories:
        config = _source(given).read()
        for line in lines:
            single.of_config(config, line.module)
    sys.stdout.write(prometheus_config.configuration(lines, addresses, shards))
    return 0


class Tool(NamedTuple):
    """A subcommand: its help, an example of its arguments, its arguments and its function."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_TOOLS = {
    "run": Tool(
        "Probe a target once and print the metrics, and the reason of a failure",
        "http_2xx https://example.com",
        _run_arguments,
        _run,
    ),
    "modules": Tool("List the modules of the configuration", "http_2xx", _list_arguments, _modules),
    "probers": Tool("List the probers, with their settings and metrics", "http", _list_arguments, _probers),
    "new": Tool(
        "Write a working prober, its module and its test, as a start for your own", "teapot", _new_arguments, _new
    ),
    "prometheus-config": Tool(
        "Print the configuration of a Prometheus that probes the targets of a file",
        "--module http_2xx --targets targets.txt",
        _prometheus_arguments,
        _prometheus_config,
    ),
    "doctor": Tool(
        "Check what probing needs of this machine, and print how to mend it",
        "--config.file=blackbox.yml",
        _doctor_arguments,
        _doctor,
    ),
}


# --- shared by several ------------------------------------------------------------------------------------


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config.file", dest="files", metavar="PATH", action="append", default=[], help="as for the exporter"
    )
    parser.add_argument("--config.expand-env", dest="expand_env", action="store_true", help="as for the exporter")
    parser.add_argument(
        "--modules.dir",
        dest="directories",
        metavar="DIRECTORY",
        action="append",
        type=Path,
        default=[],
        help="as for the exporter",
    )


def _source(given: argparse.Namespace) -> Source:
    from probe_exporter.config.current import Source  # noqa: PLC0415  # see `_run_tool`

    return Source(tuple(given.files), tuple(given.directories), given.expand_env)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form KEY=VALUE")
    return key, value


def _timeout(text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if seconds <= 0:
        raise argparse.ArgumentTypeError("the timeout must be greater than 0")
    return seconds
