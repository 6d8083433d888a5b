"""Whether what a repair reports is what fresh samples show: many random graphs.

    python tests/benchmarks/held_out.py [--count 500] [--first 0] [--table FILE]

Each line is a repair whose reported distance is further than a factor of 1.5 from that on fresh samples; the last
says how many are not.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.rows import commit
from tests.random_repairs import WITHIN, Outcome, repair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500, help="repairs, of as many random graphs as that takes")
    parser.add_argument("--first", type=int, default=0, help="seed of the first graph")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []
    seed, start = arguments.first, time.monotonic()
    while len(outcomes) < arguments.count and time.monotonic() - start < arguments.seconds:
        outcome = repair(seed)
        seed += 1
        if outcome is not None:
            outcomes.append(outcome)
            if not outcome.near:
                print(outcome, flush=True)
    near = sum(outcome.near for outcome in outcomes)
    largest = max((outcome.largest_share for outcome in outcomes), default=0.0)
    line = (
        f"{near} of {len(outcomes)} repairs ({near / max(len(outcomes), 1):.1%}) report what fresh samples show, "
        f"within a factor of {WITHIN:g}; the largest share of a layer's variance reported as lost is {largest:.3f}"
    )
    print(line)
    if arguments.table:
        arguments.table.write_text(
            f"`python tests/benchmarks/held_out.py --count {arguments.count}` ({commit()})\n\n{line}\n"
        )


if __name__ == "__main__":
    main()
