"""Print what every hostile peer costs, as a table in Markdown.

python -m tests.hostile [WORD...]    only the cases whose name has all the words
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from tests.hostile.cases import Case
from tests.hostile.measure import Cost, measure
from tests.hostile.stage import Stage
from tests.hostile.table import CASES

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description="What hostile peers cost.")
    parser.add_argument("words", nargs="*", help="only the cases whose name has all of these words")
    words = parser.parse_args().words
    chosen = [case for case in CASES if all(word in case.name for word in words)]
    stage = Stage()
    sys.stdout.write(_HEAD)
    for case in chosen:
        sys.stdout.write(row(case, measure(case, stage)))
        sys.stdout.flush()
    stage.close()


if __name__ == "__main__":
    main()
