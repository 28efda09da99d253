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
    from probe_exporter.config.module import Module
    from probe_exporter.config.reloading import Source
    from probe_exporter.tools.run import Output, PreparedProbe

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
    from probe_exporter.config.one_module import NoModule  # noqa: PLC0415  # the same
    from probe_exporter.config.reloading import REFUSALS  # noqa: PLC0415  # help and usage errors need nothing large
    from probe_exporter.telemetry import logs  # noqa: PLC0415  # the same
    from probe_exporter.tools.listing import UnknownName  # noqa: PLC0415  # the same
    from probe_exporter.tools.new import CannotWrite  # noqa: PLC0415  # the same
    from probe_exporter.tools.prometheus_config import BadShards  # noqa: PLC0415  # the same
    from probe_exporter.tools.targets import BadTargets  # noqa: PLC0415  # the same

    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    logs.setup(logging.WARNING, logs.for_terminal if on_terminal else "logfmt")
    run: Callable[[argparse.Namespace], int] = given.run
    try:
        return run(given)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CannotWrite, NoModule, UnknownName, BadShards, BadTargets, *REFUSALS) as refusal:
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
    add = parser.add_argument
    add("subject", metavar="MODULE|FILE.py", help="a module of the configuration, or the file of a prober")
    add("targets", metavar="TARGET", nargs="*", help="a target to probe; several give a table")
    add("--targets", dest="file", metavar="FILE", help="file of targets, one a line: TARGET, or MODULE TARGET")
    add("--output", choices=("text", "json", "metrics"), help="format (default: text on a terminal, otherwise metrics)")
    add("--watch", metavar="DURATION", type=_interval, help="repeat the probes at this interval, until Ctrl-C")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        type=_setting,
        default=[],
        help="a setting of the prober, in place of the module's; repeatable; a dot separates a block and its key",
    )
    add("--module", metavar="FILE.yml[:NAME]", help="file of modules for FILE.py")
    add(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=_pair,
        default=[],
        help="a parameter that the module declares, or hostname; repeatable",
    )
    add(
        "--timeout",
        metavar="DURATION",
        type=_timeout,
        help="timeout of the probe (default: that of the module, or 10s)",
    )
    add("--debug", action="store_true", help="also print the log of the probe and the settings")
    _add_sources(parser)


def _run(given: argparse.Namespace) -> int:
    from probe_exporter.tools import run  # noqa: PLC0415  # see `_run_tool`

    probes = _prepared(given)
    return run.run(probes, _output(given), given.watch)


def _prepared(given: argparse.Namespace) -> list[PreparedProbe]:
    """Return the probes that the command line asks for.

    Raises:
        NoModule: it names no target, or a module or a parameter that can't be used.
    """
    from probe_exporter.config import one_module  # noqa: PLC0415  # see `_run_tool`
    from probe_exporter.tools import run, targets  # noqa: PLC0415  # the same

    lines = [targets.Line(given.subject, target) for target in given.targets]
    if given.file:
        lines += targets.read_targets(given.file, given.subject)
    lines = [*dict.fromkeys(lines)]
    if not lines:
        raise one_module.NoModule("the following arguments are required: TARGET, or --targets FILE")
    modules = {name: _module(given, name) for name in dict.fromkeys([line.module for line in lines])}
    parameters = dict(given.param)
    return [run.prepare(modules[line.module], line.target, parameters, given.timeout) for line in lines]


def _module(given: argparse.Namespace, name: str) -> Module:
    """Return the module of a name, or that of the file of a prober. Changed settings are those of the first module."""
    from probe_exporter.config import one_module  # noqa: PLC0415  # see `_run_tool`

    if name.endswith(".py"):
        return one_module.of_file(Path(name), given.set, given.module)
    if given.module:
        raise one_module.NoModule(
            f"--module is for the file of a prober, and {name} is a module: to change a setting of a module, use "
            "--set KEY=VALUE"
        )
    return one_module.of_source(_source(given), name, given.set if name == given.subject else [])


def _output(given: argparse.Namespace) -> Output:
    """Return what prints the results. Text needs a large library, which programs that read metrics do not wait for."""
    from probe_exporter.tools import run  # noqa: PLC0415  # see `_run_tool`

    format = given.output or ("text" if sys.stdout.isatty() else "metrics")
    if format == "metrics":
        return run.Metrics(debug=given.debug)
    if format == "json":
        return run.Json()
    from probe_exporter.tools.summary import Summary  # noqa: PLC0415  # only for people

    return Summary(debug=given.debug, repeated=given.watch is not None)


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
        help="divide the targets among N exporters by hash; with --shard, among N Prometheus servers",
    )
    parser.add_argument(
        "--shard", metavar="K", type=unsigned, help="write the file of Prometheus K of N, from 0 to N - 1"
    )
    _add_sources(parser)


def _prometheus_config(given: argparse.Namespace) -> int:
    from probe_exporter.config import one_module  # noqa: PLC0415  # see `_run_tool`
    from probe_exporter.tools import prometheus_config, targets  # noqa: PLC0415  # the same

    shards = prometheus_config.Shards(given.shards, given.shard)
    addresses = prometheus_config.exporters(given.exporters or [f"127.0.0.1{DEFAULT_ADDRESS}"], shards)
    lines = targets.read_targets(given.targets, given.module)
    timeouts = {}
    if given.files or given.directories:
        config = _source(given).read()
        timeouts = {line.module: one_module.of_config(config, line.module).timeout for line in lines}
    sys.stdout.write(prometheus_config.configuration(lines, addresses, shards, timeouts))
    return 0


class Tool(NamedTuple):
    """A subcommand: its help, an example of its arguments, its arguments and its function."""

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


_TOOLS = {
    "run": Tool(
        "Probe targets and print the results: for people on a terminal, otherwise as metrics",
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
    from probe_exporter.config.reloading import Source  # noqa: PLC0415  # see `_run_tool`

    return Source(tuple(given.files), tuple(given.directories), given.expand_env)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} does not have the form KEY=VALUE")
    return key, value


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(
            f"{text!r} does not have the form KEY=VALUE: --set is for a key of the prober, such as tries=3; "
            "use --param for a parameter, --timeout for the timeout"
        )
    return key, value


def _timeout(text: str) -> float:
    return _seconds(text, "timeout")


def _interval(text: str) -> float:
    return _seconds(text, "interval")


def _seconds(text: str, what: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if seconds <= 0:
        raise argparse.ArgumentTypeError(f"the {what} must be greater than 0")
    return seconds
