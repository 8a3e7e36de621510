"""``python -m tests.fuzz --cases 200000 [--seed S]``: many replies, the rate, and what came of them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter

from .harness import Broken, Fuzz


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="how many replies")
    parser.add_argument("--seed", type=int, default=0, help="the same one draws the same replies")
    parser.add_argument("--case", type=int, help="this one only, with its reply on stdout")
    options = parser.parse_args()
    if options.case is not None:
        fuzz = Fuzz(options.seed, range(options.case, options.case + 1))
        print(fuzz._reply(options.case))
        print(dict(asyncio.run(fuzz.run())))
        return 0
    started, total, at_once = time.monotonic(), Counter[str](), 2_000
    for first in range(0, options.cases, at_once):
        cases = range(first, min(options.cases, first + at_once))
        try:
            total += asyncio.run(Fuzz(options.seed, cases).run())
        except Broken as broken:
            print(broken)
            return 1
        rate = cases.stop / (time.monotonic() - started)
        print(f"{cases.stop} replies, {rate:.0f}/s", file=sys.stderr, flush=True)
    print(f"{options.cases} replies in {time.monotonic() - started:.0f} s; nothing was broken")
    print(", ".join(f"{count} {what}" for what, count in total.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
