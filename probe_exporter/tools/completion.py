"""Write the scripts that complete ``probe-exporter`` in bash, zsh and fish. Builds call this; the exporter does not.

shtab writes the scripts from one parser with all flags and tools. Names of modules and probers are those of the
configuration in the working directory: the scripts ask ``probe-exporter modules --names``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from probe_exporter.flags import PROGRAM, parser_of_flags
from probe_exporter.tools.commands import add_tools

PLACES = {
    "bash": f"share/bash-completion/completions/{PROGRAM}",
    "zsh": f"share/zsh/site-functions/_{PROGRAM}",
    "fish": f"share/fish/vendor_completions.d/{PROGRAM}.fish",
}
"""Where each shell finds its script, below the prefix of an installation."""

Complete = dict[str, Any]
"""What completes an argument in each shell, in shtab's terms."""

_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "fish": "(__fish_complete_path (commandline -ct))"}
_DIRECTORY = {"bash": "_shtab_compgen_dirs", "zsh": "_files -/", "fish": "(__fish_complete_directories)"}


def _names(tool: str, *, or_file: bool = False) -> Complete:
    """Complete with the names that a tool lists, or also with the files of probers."""
    listing = f"{PROGRAM} {tool} --names 2>/dev/null"
    function = f"_probe_exporter_{tool}{'_or_files' if or_file else ''}"
    more = ("\n  compgen -f -X '!*.py' -- \"$1\"", "\n  _files -g '*.py'") if or_file else ("", "")
    return {
        "bash": function,
        "zsh": function,
        "fish": f"({listing}{'; __fish_complete_suffix .py' if or_file else ''})",
        "preamble": {
            "bash": f'{function}() {{\n  compgen -W "$({listing})" -- "$1"{more[0]}\n}}',
            "zsh": f'{function}() {{\n  compadd -- ${{(f)"$({listing})"}}{more[1]}\n}}',
        },
    }


_BY_METAVAR = {
    "PATH": _FILE,
    "FILE": _FILE,
    "FILE.yml[:NAME]": _FILE,
    "DIRECTORY": _DIRECTORY,
    "MODULE": _names("modules"),
    "MODULE|FILE.py": _names("modules", or_file=True),
}


def script(shell: str) -> str:
    """Return the completion script of a shell of `PLACES`.

    Raises:
        ImportError: shtab is not installed.
    """
    import shtab  # noqa: PLC0415  # a dependency of builds alone

    return f"{shtab.complete(_parser(), shell)}\n"


def _parser() -> argparse.ArgumentParser:
    """Return a parser of every command line: the flags, the tools and ``config schema``."""
    parser = parser_of_flags()
    tools = parser.add_subparsers(dest="tool")
    add_tools(tools)
    config = tools.add_parser("config", help="Print the JSON Schema of the configuration")
    config.add_subparsers(dest="what").add_parser("schema", help="Print the JSON Schema of the configuration")
    for name in ("modules", "probers"):
        (names,) = [action for action in tools.choices[name]._actions if action.metavar == "NAME"]  # noqa: SLF001  # argparse has no other list of them
        _complete(names, _names(name))
    for action in _actions(parser):
        if isinstance(action.metavar, str) and action.metavar in _BY_METAVAR:
            _complete(action, _BY_METAVAR[action.metavar])
    return parser


def _complete(action: argparse.Action, how: Complete) -> None:
    """Set the attribute that shtab looks for."""
    vars(action)["complete"] = how


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the arguments of a parser and of its subparsers."""
    for action in parser._actions:  # noqa: SLF001  # argparse has no other list of them
        yield action
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001  # the same
            for inner in action.choices.values():
                yield from _actions(inner)
