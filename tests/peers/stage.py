"""Run the cases against our exporter and the original, each case once per session, in one of the test processes.

* `ExporterPair` is the setup of both exporters: certificates, files, and one configuration with all modules of cases.
* `CachedOutcomes` is one exporter with that setup. It starts with the first case and serves the whole session.
* pytest-xdist runs the tests of one session in several processes. A process writes its results (certificates, the
  outcomes of a chunk of cases) to a file under a lock, and the others read it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from tests.exporters import Server, Start
from tests.peers import (
    cases,
    dns_cases,
    grpc_cases,
    http2_cases,
    http3_cases,
    http_cases,
    icmp_cases,
    oauth2_cases,
    proxy_cases,
    tcp_cases,
)
from tests.peers.cases import Case, Outcome
from tests.peers.ports import Ports
from tests.targets import Pki

T = TypeVar("T")

TABLES = (
    http_cases.GROUPS, http2_cases.GROUPS, http3_cases.GROUPS, proxy_cases.GROUPS, oauth2_cases.GROUPS,
    icmp_cases.GROUPS,
    tcp_cases.GROUPS, tcp_cases.UNIX_GROUPS,
    dns_cases.GROUPS,
    grpc_cases.GROUPS,
)  # fmt: skip

GROUPS = {name: group for table in TABLES for name, group in table.items()}
ALL = {case.name: case for group in GROUPS.values() for case in group}
GROUP_OF = {case.name: name for name, group in GROUPS.items() for case in group}
SILENCE = "silence"
CHUNK_OF = {case.name: SILENCE if case.timeout == cases.SHORT else GROUP_OF[case.name] for case in ALL.values()}
"""The chunk of each case, by its name. A chunk is a group, or all cases that time out, which wait at the same time."""
PLAIN = {name: next(iter(table.values()))[0] for table in TABLES for name in table}
"""By group, the case that the golden files write in full: the first of its table."""

PATIENCE = 10
"""Factor for the timeout of a case that runs again, because the machine may have been too slow the first time."""


def made_once(path: Path, make: Callable[[], T]) -> T:
    """Return the result of `make`, from a file if another process of this session has already called it.

    The lock is held while `make` runs; another process waits for it.
    """
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return pickle.loads(path.read_bytes())  # type: ignore[no-any-return]  # written below, in this session
        made = make()
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_bytes(pickle.dumps(made))
        unfinished.rename(path)
        return made


@dataclass(frozen=True)
class ExporterPair:
    """The setup of both exporters.

    Attributes:
        directory: their working directory, the same for every process of the session.
        names: replacements for values that change from session to session.
        ports: the ports that modules name; each process has its own.
    """

    directory: Path
    names: Mapping[str, str]
    ports: Ports

    @property
    def pki(self) -> Path:
        """Return the directory of the certificates."""
        return self.directory / "pki"

    @contextlib.contextmanager
    def exporter(self, start: Start, selected: Mapping[str, Case]) -> Iterator[Server]:
        """Start an exporter with the modules of these cases."""
        config = self.directory / f"{os.getpid()}-{len(selected)}.yml"
        config.write_text(cases.configuration(selected.values(), self.directory, self.ports))
        with start(self.directory, f"--config.file={config.name}") as exporter:
            yield exporter


def prepare(directory: Path) -> ExporterPair:
    """Write the certificates and the files that modules name, unless another process has done so."""

    def write() -> Mapping[str, str]:
        (directory / "pki").mkdir()
        for name, text in http_cases.FILES.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return Pki(directory / "pki").names

    directory.mkdir(exist_ok=True)
    names = made_once(directory / "names.pickle", write)
    return ExporterPair(directory, names, Ports({case.module: case.settings for case in ALL.values()}))


@dataclass
class CachedOutcomes:
    """The outcomes of one exporter. ``runs[name]`` runs the chunk of the case if it has not run yet.

    Attributes:
        name: ``ours`` or ``original``.
        start: starts the exporter.
        selected: the names of the cases that the selected tests need.
    """

    name: str
    start: Start
    stage: ExporterPair
    selected: frozenset[str]
    _server: Server | None = None
    _known: dict[str, Outcome] = field(default_factory=dict)
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def __getitem__(self, name: str) -> Outcome:
        if name not in self._known:
            chunk = CHUNK_OF[name]
            self._known |= made_once(self.stage.directory / f"{self.name}-{chunk}.pickle", lambda: self._run(chunk))
        return self._known[name]

    def again(self, selected: Iterable[Case], patience: int = 1) -> dict[str, Outcome]:
        """Run cases once more, one after another, on a new exporter without old tokens or connections.

        Args:
            selected: the cases.
            patience: factor for their timeouts.
        """
        slow = {case.name: replace(case, timeout=_times(case.timeout, patience)) for case in selected}
        if not slow:
            return {}
        with self.stage.exporter(self.start, slow) as exporter:
            return {name: self._ask([case], exporter)[name] for name, case in slow.items()}

    def close(self) -> None:
        """End the exporter."""
        self._stack.close()

    def _run(self, chunk: str) -> dict[str, Outcome]:
        together = [ALL[name] for name in ALL if CHUNK_OF[name] == chunk and name in self.selected]
        return self._ask(together, self._running())

    def _running(self) -> Server:
        if self._server is None:
            self._server = self._stack.enter_context(self.stage.exporter(self.start, ALL))
        return self._server

    def _ask(self, selected: list[Case], exporter: Server) -> dict[str, Outcome]:
        return asyncio.run(cases.run_all(selected, exporter, self.stage.pki, self.stage.ports))


def _times(timeout: str, factor: int) -> str:
    """Return a multiple of a timeout such as ``500ms``."""
    return re.sub(r"\d+", lambda amount: str(int(amount[0]) * factor), timeout)
