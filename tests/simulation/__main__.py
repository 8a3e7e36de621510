"""``python -m tests.simulation --seeds 10000``: many runs, the rate, and any seed that fails.

``--replay SEED`` runs one again, exactly, and prints what the judge says.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat

from .judge import Violation
from .world import simulate


def _run(seed: int, accounts: int | None) -> tuple[int, str | None, Counter[str]]:
    logging.disable(logging.CRITICAL)
    try:
        return seed, None, simulate(seed, accounts=accounts).judge.counts
    except Violation as violation:
        return seed, str(violation), Counter()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many runs")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--replay", type=int, help="run this one seed, with its log on stderr")
    parser.add_argument("--accounts", type=int, help="in each run; 8 by default, and 250 in one of fifty")
    options = parser.parse_args()
    if options.replay is not None:
        logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, format="%(message)s")
        try:
            print(dict(simulate(options.replay, accounts=options.accounts).judge.counts))
        except Violation as violation:
            print(violation)
            return 1
        return 0
    started, failing, total = time.monotonic(), 0, Counter[str]()
    with ProcessPoolExecutor(options.jobs) as pool:
        seeds = range(options.first, options.first + options.seeds)
        for done, (seed, what, counts) in enumerate(pool.map(_run, seeds, repeat(options.accounts), chunksize=10), 1):
            total += counts
            if what is not None:
                failing += 1
                print(f"seed {seed}: {what}", flush=True)
            if done % 500 == 0:
                rate = done / (time.monotonic() - started)
                print(f"{done} runs, {rate:.1f}/s, {failing} failing", file=sys.stderr, flush=True)
    seconds = time.monotonic() - started
    print(f"{options.seeds} seeds in {seconds:.0f} s ({options.seeds / seconds:.1f}/s), {failing} failing")
    print(", ".join(f"{count} {what}" for what, count in sorted(total.items())))
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
