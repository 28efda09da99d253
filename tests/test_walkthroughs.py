"""Tests of docs/quick-start.md and docs/tutorial.md: every command runs, in order, and gives the shown output.

A block with the name of a file is written to that file. A command that ends in `&` runs in the background until the
test ends. Only ports and intervals differ from the page. A query of Prometheus is repeated until it gives the output.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.exporters import ROOT, _environment, peer
from tests.processes import free_port, listening, running
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)

PORTS = {"9115": "exporter", "9090": "prometheus", "8000": "shop"}
FASTER = {
    "scrape_interval: 15s": "scrape_interval: 3s\n  evaluation_interval: 1s",
    "scrape_timeout: 10s": "scrape_timeout: 3s",
    "for: 1m": "for: 1s",
}
"""Intervals of the generated configuration and of the rule, and what a test that waits for them uses."""


class Walkthrough:
    """The state of one page while its commands are run."""

    def __init__(self, directory: Path) -> None:
        """Choose a free port for each port of the page."""
        self.directory = directory
        self.ports = {shown: str(free_port()) for shown in PORTS}
        self.back = {port: shown for shown, port in self.ports.items()}
        programs = directory / "bin"
        programs.mkdir()
        for name in ("prometheus", "promtool"):
            (programs / name).symlink_to(peer(name))
        exporter = programs / "probe-exporter"
        exporter.write_text(f'#!/bin/sh\nexec {sys.executable} -m probe_exporter "$@"\n', encoding="utf-8")
        exporter.chmod(0o755)
        kept = _environment()
        self.environment = kept | {"PATH": f"{programs}{os.pathsep}{kept['PATH']}", "COLUMNS": "100"}

    def translated(self, text: str, ports: Mapping[str, str]) -> str:
        """Return a text with other ports."""
        return re.sub(r"\b(" + "|".join(ports) + r")\b", lambda found: ports[found[0]], text)

    def write(self, name: str, text: str) -> None:
        """Write a file of the page."""
        text = self.translated(text, self.ports)
        for shown, used in FASTER.items():
            text = text.replace(shown, used)
        (self.directory / name).write_text(text, encoding="utf-8")

    def start(self, command: str) -> contextlib.AbstractContextManager[object]:
        """Start a program in the background and wait until it listens."""
        port = next(port for shown, port in self.ports.items() if PORTS[shown] == _program(command))
        words = self.translated(command, self.ports).split()
        listen = [] if port in words else [f"--web.listen-address=127.0.0.1:{port}"]
        words[0] = shutil.which(words[0], path=self.environment["PATH"]) or words[0]
        if "prometheus" in command.split():
            listen.append(f"--storage.tsdb.path={self.directory / 'data'}")  # Debian's default is below /var/lib
        log = self.directory / f"{port}.log"
        return running([*words, *listen], self.directory, log, listening(int(port)), environment=self.environment)

    def output(self, command: str) -> list[str]:
        """Run one command and return its lines, with the ports of the page, and without what differs each time."""
        command = command.replace("probe-exporter run", "probe-exporter run --output=text")
        done = subprocess.run(
            ["/bin/sh", "-c", self.translated(command, self.ports)],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        written = self.directory / "prometheus.yml"
        if "prometheus-config" in command:
            self.write(written.name, written.read_text(encoding="utf-8"))
        return self.translated(done.stdout, self.back).splitlines()

    def check(self, command: str, shown: str) -> None:
        """Run one command and assert that it gives the shown output; a query of Prometheus, after some time."""
        lines: list[str] = []

        def is_shown() -> bool:
            lines[:] = self.output(command)
            if "promtool query" in command:  # Prometheus has no order of series
                return matches("".join(sorted(shown.splitlines(keepends=True))), sorted(lines))
            return matches(shown, lines)

        if "promtool query" in command:
            with contextlib.suppress(AssertionError):
                wait_until(is_shown, looks_every=0.3)
        assert is_shown(), "\n".join([command, *lines])


def _program(command: str) -> str:
    return {"probe-exporter": "exporter", "prometheus": "prometheus", "python3": "shop"}[command.split(maxsplit=1)[0]]


def matches(shown: str, lines: list[str]) -> bool:
    """Return whether the lines are the shown ones.

    A line `…` stands for any lines, `…` in a line for any text, `… ms` and `… µs` for any duration.
    """
    shown = re.sub(r"… [mµ]s\b", "…", shown)
    pattern = "".join(
        r"(?:.*\n)*" if line.strip() == "…" else re.escape(line).replace("…", ".*").rstrip("\\ ") + r" *\n"
        for line in shown.splitlines()
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def steps(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield the blocks of a page: language, name of the file or "", and text."""
    for found in BLOCK.finditer((ROOT / "docs" / page).read_text(encoding="utf-8")):
        yield found[1], found[2] or "", found[3]


@pytest.mark.longest
@pytest.mark.parametrize("page", ["quick-start.md", "tutorial.md"])
def test_commands_of_page_give_shown_output(page: str, tmp_path: Path) -> None:
    walk = Walkthrough(tmp_path)
    with contextlib.ExitStack() as stack:
        for language, name, text in steps(page):
            if name:
                walk.write(name, text)
            for command, shown in COMMAND.findall(text) if language == "console" else ():
                if command.endswith(" &"):
                    stack.enter_context(walk.start(command.removesuffix(" &")))
                else:
                    walk.check(command, shown)
