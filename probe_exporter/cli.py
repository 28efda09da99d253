"""The command line: read the flags, then start the exporter or a subcommand.

Nothing heavy is imported before the flags are read, so that ``--help``, ``--version`` and usage errors are quick.
"""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from probe_exporter import flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code.

    Args:
        arguments: the command line after the program's name; the process's own if None.

    Raises:
        SystemExit: after help, the version or a usage error.
    """
    _prepare_stdout()
    words = sys.argv[1:] if arguments is None else [*arguments]
    if words and words[0] in flags.TOOLS:
        from probe_exporter.tools import commands  # noqa: PLC0415  # only for a subcommand

        return commands.main(words)
    given = flags.parse(words)
    gc.disable()  # imports make many objects and no garbage; the exporter enables it before it serves
    from probe_exporter import start  # noqa: PLC0415  # large, and the flags may have ended the program

    return start.run_command(given)


def _prepare_stdout() -> None:
    """Make stdout take any text: characters that its encoding does not have are escaped, and a closed one drops all."""
    if sys.stdout is None:  # the shell's `>&-`
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
