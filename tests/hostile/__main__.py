"""Print what every hostile peer costs, as a table in Markdown.

python -m tests.hostile [WORD...]    only the cases whose name has all the words

The last rows are those of clients of the exporter's own web server, which have fewer columns.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter

import uvloop

from tests.hostile.cases import Case
from tests.hostile.clients import ATTACKS, Attack
from tests.hostile.measure import MAX_TURN_SECONDS, Cost, measure
from tests.hostile.peer_process import PeerProcess
from tests.hostile.table import CASES
from tests.hostile.test_clients import cost

_HEAD = (
    "| file | peer | prober | worst turn, ms | worst hold, ms | late, ms | CPU, ms | answer after, s | memory, MiB |"
    " answer | fault |\n"
    "| --- | --- | --- | --: | --: | --: | --: | --: | --: | --- | --- |\n"
)


def row(case: Case, cost: Cost) -> str:
    """Return a line of the table."""
    found = Counter(cost.verdicts).most_common(3)
    verdicts = ", ".join(reason if number == 1 else f"{number} times {reason}" for reason, number in found)
    numbers = [f"{1000 * spent:.0f}" for spent in (cost.turn, cost.hold, cost.late, cost.cpu)]
    faults = "; ".join(cost.faults(case))
    cells = (
        case.family, case.peer, case.client, *numbers, f"{cost.seconds:.2f}", str(cost.growth >> 20), verdicts, faults
    )  # fmt: skip
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def client_row(name: str, attack: Attack) -> str:
    """Return the line of a client of the exporter's web server."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        turn, growth = loop.run(cost(attack))
    fault = f"a turn of {1000 * turn:.0f} ms" if turn > MAX_TURN_SECONDS else ""
    return f"| clients | {name} | | {1000 * turn:.0f} | | | | | {growth >> 20} | | {fault} |\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="What hostile peers cost.")
    parser.add_argument("words", nargs="*", help="only the cases whose name has all of these words")
    words = parser.parse_args().words
    chosen = [case for case in CASES if all(word in case.name for word in words)]
    stage = PeerProcess()
    sys.stdout.write(_HEAD)
    for case in chosen:
        sys.stdout.write(row(case, measure(case, stage)))
        sys.stdout.flush()
    stage.close()
    for name, attack in ATTACKS.items():
        if all(word in f"clients: {name} / " for word in words):
            sys.stdout.write(client_row(name, attack))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
