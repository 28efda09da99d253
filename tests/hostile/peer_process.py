"""The process of the peers: it starts one peer after another, as the test's process asks it to by a line of JSON.

Peers run in a process of their own, so that neither their CPU time nor their memory counts as that of the exporter.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.hostile.cases import Case

ROOT = Path(__file__).parents[2]


class PeerProcess:
    """The process, as the test sees it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile.peer_process"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def peer(self, case: Case) -> Iterator[Mapping[str, str]]:
        """Run the peer of a case; yield the words for its target and its settings."""
        words = self._ask({"start": case.name})
        try:
            yield words
        finally:
            self._ask({"stop": case.name})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, question: Mapping[str, str]) -> Mapping[str, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: Mapping[str, str] = json.loads(self._process.stdout.readline())
        return answer


def serve() -> None:
    """Start and stop peers until standard input ends."""
    from tests.hostile.table import CASES  # noqa: PLC0415  # it imports the files of all peers, and they this
    from tests.targets import Pki  # noqa: PLC0415  # the test's process needs none of it

    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    cases = {case.name: case for case in CASES}
    with tempfile.TemporaryDirectory() as directory:
        pki = Pki(Path(directory))
        running = contextlib.ExitStack()
        for line in sys.stdin:
            question = json.loads(line)
            words: Mapping[str, str] = {}
            if "start" in question:
                words = running.enter_context(cases[question["start"]].start(pki.directory))
                words = {**words, "ca": str(pki.directory / "root.pem")}
            else:
                running.close()
            sys.stdout.write(json.dumps(dict(words)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve()
