"""Fuzz a target with atheris, for as long as you like.

    python -m tests.fuzz [NAME] [--seconds N] [--runs N]

Without a name all targets are fuzzed, one after another; without a limit each for a minute. CI gives each some inputs
with --runs, made from the same seed each time, so that machines hardly differ in their verdict.

New inputs are kept in a directory of the user's cache, except with --runs. An input that fails is written to the
working directory; copy it to tests/fuzz/corpus/NAME/ when the fault is mended, so that the test suite replays it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "probe-exporter" / "fuzz"

DEFAULT_SECONDS = 60
MAX_INPUT_BYTES = 4096

Fuzz = Callable[[str, Path, list[str]], None]
"""Fuzz one target: its name, the directory that contains what was found, and options of libFuzzer."""


def load() -> Fuzz:
    """Load the targets, instrumented; return a function that fuzzes one of them."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415  # only where it is installed

    with atheris.instrument_imports(include=["probe_exporter"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415  # instrumented while it is imported

    def fuzz(name: str, directory: Path, options: list[str]) -> None:
        """Fuzz one target; libFuzzer ends the process."""
        found = directory / name
        found.mkdir(parents=True, exist_ok=True)
        every = [f"-max_len={MAX_INPUT_BYTES}", "-timeout=25", "-print_final_stats=1"]
        atheris.Setup([name, *options, *every, str(found), str(CORPUS / name)], TARGETS[name])
        atheris.Fuzz()

    return fuzz


def main() -> int:
    """Fuzz what the arguments name; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers with atheris.")
    parser.add_argument("name", nargs="?", help="a target; all of them if it is missing")
    parser.add_argument("--seconds", type=int, default=0, help=f"how long (default: {DEFAULT_SECONDS} without --runs)")
    parser.add_argument("--runs", type=int, default=0, help="how many inputs, from the same seed each time")
    given = parser.parse_args()
    names = [given.name] if given.name else sorted(path.name for path in CORPUS.iterdir())
    seconds = given.seconds or (0 if given.runs else DEFAULT_SECONDS)
    options = [f"-max_total_time={seconds}"] if seconds else []
    fuzz = load()
    if given.runs:
        with tempfile.TemporaryDirectory() as directory:
            failed = failures(fuzz, names, Path(directory), [*options, f"-runs={given.runs}", "-seed=1"])
    else:
        failed = failures(fuzz, names, CACHE, options)
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "no target failed\n")
    return bool(failed)


def failures(fuzz: Fuzz, names: list[str], directory: Path, options: list[str]) -> list[str]:
    """Fuzz targets one after another; return the names of those that failed."""
    return [name for name in names if in_a_process(fuzz, name, directory, options)]


def in_a_process(fuzz: Fuzz, name: str, directory: Path, options: list[str]) -> int:
    """Fuzz one target in a child of this process, which has loaded all of them; return its exit code."""
    child = os.fork()
    if not child:
        fuzz(name, directory, options)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
