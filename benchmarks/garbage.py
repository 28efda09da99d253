"""``python -m benchmarks.garbage``: the exporter, which runs a full garbage collection when it gets `COLLECT`.

`benchmarks.growth` sends the signal, and so decides whether such a collection is part of a count.
"""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path

from probe_exporter.cli import main
from probe_exporter.telemetry.garbage_collection import MIN_PENDING

LOG = "collections"
"""The file in the working directory to which each full collection adds a line: `Collections.share` before it."""


COLLECT = signal.SIGRTMIN
"""The signal for a collection; the exporter sets no handler of its own for it."""


class Collections:
    """Runs full collections."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._before = 0

    def collect(self, *_: object) -> None:
        """Write a line to the log, after a full collection."""
        share = self.share()
        gc.collect()
        self._before = _number()
        with self._log.open("a") as log:
            log.write(f"{share}\n")

    def share(self) -> float:
        """Return how much of a full collection has become due since the last call of `collect`.

        A collection of the youngest objects runs once so many more were made than freed, some of these collections
        include the second generation, and after `MIN_PENDING` of those the exporter runs a full one.
        """
        objects, collections, _ = gc.get_threshold()
        made = (_number() - self._before) * (objects + 1) + gc.get_count()[0]
        return made / ((objects + 1) * (collections + 1) * MIN_PENDING)


def _number() -> int:
    """Return the number of collections of the youngest objects, which is that of all collections."""
    return sum(generation["collections"] for generation in gc.get_stats())


if __name__ == "__main__":
    signal.signal(COLLECT, Collections(Path(LOG).absolute()).collect)
    sys.exit(main())
