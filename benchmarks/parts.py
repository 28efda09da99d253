"""``python -m benchmarks.parts PROBE``: count the Python instructions and calls of a probe by file and by function.

`instructions` says how much a probe costs, and this says where. Our exporter runs as a child of this program; Python
traces each of its own instructions (byte code) there. One takes about 40 of the processor's; but a call from C, a new
object or the text of a float takes a thousand and more. So compare the count of a function with its earlier one only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from benchmarks.instructions import PROBES_TO_COUNT, PROBES_TO_WARM_UP, ask
from benchmarks.probes import PROBES
from benchmarks.targets import configured, serving
from tests.exporters import ROOT, probe_path
from tests.processes import free_port, listening, running
from tests.waiting import wait_until

SHOWN = 40
"""Functions of the table."""

BEGIN, END = signal.SIGRTMIN, signal.SIGRTMIN + 1
"""The signals between which the child counts; the exporter sets no handlers of its own for these."""


def main() -> None:
    """Count one probe, and print the files and the functions that take most."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=__doc__)
    parser.add_argument("probe", choices=[probe.name for probe in PROBES])
    (probe,) = [one for one in PROBES if one.name == parser.parse_args().probe]
    with configured({probe.name: probe.module}) as directory, serving(directory) as ports:
        path = probe_path(module=probe.name, target=probe.target.format(**ports))
        counted = count(directory, path)
    print(table(counted))


def count(directory: Path, path: str) -> dict[str, tuple[int, int]]:
    """Return the instructions and calls of each function in `PROBES_TO_COUNT` probes, by ``file function``."""
    port, result = free_port(), directory / "parts.json"
    flags = ["--config.file=blackbox.yml", f"--web.listen-address=127.0.0.1:{port}"]
    command = [sys.executable, "-c", "from benchmarks.parts import serve; serve()", str(result), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running(command, directory, directory / "log", listening(port), environment=environment) as process:
        ask(port, [path] * PROBES_TO_WARM_UP)
        process.send_signal(BEGIN)
        ask(port, [path] * PROBES_TO_COUNT)
        process.send_signal(END)
        wait_until(result.exists)
    return {name: (one, two) for name, (one, two) in json.loads(result.read_text()).items()}


def table(counted: dict[str, tuple[int, int]]) -> str:
    """Return two Markdown tables, of files and of functions, for one probe."""
    files: Counter[str] = Counter()
    for name, (instructions, _) in counted.items():
        files[name.partition(" ")[0]] += instructions
    rows = ["| file | Python instructions |", "| --- | ---: |"]
    rows += [f"| {name} | {number / PROBES_TO_COUNT:.0f} |" for name, number in files.most_common(SHOWN)]
    rows += [f"| all | {files.total() / PROBES_TO_COUNT:.0f} |"]
    rows += ["", "| function | Python instructions | calls |", "| --- | ---: | ---: |"]
    most = sorted(counted.items(), key=lambda item: item[1], reverse=True)[:SHOWN]
    rows += [f"| {name} | {a / PROBES_TO_COUNT:.0f} | {b / PROBES_TO_COUNT:.1f} |" for name, (a, b) in most]
    return "\n".join(rows)


# --- in the child ----------------------------------------------------------------------------------------------


def serve() -> None:
    """Run the exporter: `BEGIN` begins to count, `END` writes the counts to the file named by the first argument."""
    from probe_exporter.cli import main as run  # the parent has no use for it

    instructions: Counter[CodeType] = Counter()
    calls: Counter[CodeType] = Counter()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            calls[frame.f_code] += 1
        elif event == "opcode":
            instructions[frame.f_code] += 1
        return trace

    def begin(*_: object) -> None:
        sys.settrace(trace)

    def end(*_: object) -> None:
        sys.settrace(None)
        found = {f"{_short(code.co_filename)} {code.co_qualname}": (n, calls[code]) for code, n in instructions.items()}
        part = result.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.rename(result)

    result = Path(sys.argv.pop(1))
    signal.signal(BEGIN, begin)
    signal.signal(END, end)
    sys.exit(run())


def _short(path: str) -> str:
    for root in (f"{ROOT}/", *[f"{folder}/" for folder in sys.path if folder]):
        path = path.removeprefix(root)
    return path.rpartition("site-packages/")[2]


if __name__ == "__main__":
    main()
