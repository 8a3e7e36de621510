"""``python -m tests.bench``: one table, everything in one run, the contenders in turns.

Rates are medians over the rounds, with their spread. Every poll and refresh is a real one, counted by the server, and every
result of kimiflow's is committed. The server has a core of its own where there are two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimiflow.cli.run import collect_seldom

from . import contenders, loads, processes
from .databases import Databases
from .place import Place, place
from .show import plot, show

if TYPE_CHECKING:
    from collections.abc import Callable

Rates = dict[str, list[float]]

CEILING = "what the server can do"
"""Requests for each second that it computes; a contender near it is held up by the server."""
CEILING_SEEN_IN = {"limit": CEILING, "bare aiohttp, TLS": f"{CEILING}, TLS"}


class Run:
    """One run of everything."""

    def __init__(self, here: Place, databases: Databases, options: argparse.Namespace) -> None:
        self.here = here
        self.databases = databases
        self.options = options
        self.result: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "rounds": options.rounds,
            "flows": options.flows,
            "rates": {},
        }

    def say(self, what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    def rates(self) -> None:
        """Polls and refreshes per second, all contenders in turns."""
        n, here = self.options.polls, self.here
        new = self.databases.new
        rows: dict[str, Callable[[], float]] = {
            "limit": lambda: n / asyncio.run(contenders.limit(here, n)),
            "bare aiohttp": lambda: n / asyncio.run(contenders.aiohttp_polls(here, n)),
            "bare aiohttp, TLS": lambda: n / asyncio.run(contenders.aiohttp_polls(here, n, tls=True)),
            "bare aiohttp, refreshes": lambda: n / asyncio.run(contenders.aiohttp_refreshes(here, n)),
            "bare httpx": lambda: n // 10 / asyncio.run(contenders.httpx_polls(here, n // 10)),
            "naive": lambda: n // 25 / asyncio.run(contenders.naive(here, n // 25)),
            "a session per poll, TLS": lambda: n // 25 / asyncio.run(contenders.session_per_poll(here, n // 25)),
        }
        for name in ("SQLite", "PostgreSQL", "memory"):
            rows[f"kimiflow, {name}"] = lambda name=name: n / asyncio.run(loads.polls(here, new(name), n))
            rows[f"kimiflow, {name}, TLS"] = lambda name=name: (
                n / asyncio.run(loads.polls(here, new(name), n, tls=True))
            )
            rows[f"kimiflow, {name}, refreshes"] = lambda name=name: (
                n / asyncio.run(loads.refreshes(here, new(name), n))
            )
        rates: Rates = {name: [] for name in rows}
        rates |= {CEILING: [], f"{CEILING}, TLS": []}
        for turn in range(self.options.rounds):
            for name, measure in rows.items():
                before = here.counters()
                rates[name].append(measure())
                after = here.counters()
                self.say(f"round {turn + 1}: {name}: {rates[name][-1]:,.0f}/s")
                if name in CEILING_SEEN_IN:
                    polls, cpu = (after[key] - before[key] for key in ("polls", "cpu"))
                    rates[CEILING_SEEN_IN[name]].append(polls / cpu)
        self.result["rates"] = rates

    def steady(self) -> None:
        """10,000 pending flows at 5 s."""
        found = {}
        for name in ("SQLite", "PostgreSQL", "memory"):
            self.say(f"{self.options.flows:,} pending flows for {self.options.seconds} s on {name}")
            url = self.databases.new(name)
            found[name] = asyncio.run(loads.steady(self.here, url, self.options.flows, self.options.seconds))
        self.result["steady"] = found

    def restart(self) -> None:
        """After kill -9."""
        found = {}
        for name in ("SQLite", "PostgreSQL"):
            self.say(f"kill -9 on {name}")
            flows = self.options.flows
            found[name] = asyncio.run(processes.restart(self.here, self.databases.new(name), flows, 9 * flows))
        self.result["restart"] = found

    def memory(self) -> None:
        """Resident memory by the number of accounts."""
        found = {}
        for accounts in (1_000, 10_000, 100_000):
            self.say(f"memory at {accounts:,} accounts")
            found[accounts] = processes.memory_of(self.here, self.databases.folder, accounts)
        self.result["memory_mib"] = found

    def token(self) -> None:
        """``flow.token()``, and whole processes."""
        self.say("tokens and whole processes")
        folder = self.databases.folder
        self.result["token_us"] = asyncio.run(loads.token_in_process(folder, self.options.rounds))
        self.result["processes_ms"] = processes.whole_processes(folder, max(5, self.options.rounds))
        self.result["imports"] = processes.imports_of(folder)

    def workers(self) -> None:
        """1, 2 and 4 worker processes on one PostgreSQL."""
        found = {}
        for count in (1, 2, 4):
            self.say(f"{count} worker processes on one PostgreSQL")
            found[count] = [
                processes.worker_processes(self.here, self.databases.new("PostgreSQL"), self.options.polls, count)
                for _ in range(min(3, self.options.rounds))
            ]
        self.result["workers"] = found

    def concurrency(self) -> None:
        """The rate by how many requests are in flight: medians of up to three rounds, in turns."""
        found: dict[str, dict[int, float]] = {"kimiflow, SQLite": {}, "bare aiohttp": {}}
        for at_once in (1, 8, 32, 128, 256, 512):
            n = self.options.polls // (4 if at_once < 8 else 1)
            self.say(f"{at_once} at once")
            seconds: dict[str, list[float]] = {name: [] for name in found}
            for _ in range(min(3, self.options.rounds)):
                ours = loads.polls(self.here, self.databases.new("SQLite"), n, concurrency=at_once)
                seconds["kimiflow, SQLite"].append(asyncio.run(ours))
                theirs = contenders.aiohttp_polls(self.here, n, at_once=at_once)
                seconds["bare aiohttp"].append(asyncio.run(theirs))
            for name, rates in found.items():
                rates[at_once] = n / statistics.median(seconds[name])
        self.result["concurrency"] = found


def _machine() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


SECTIONS = ("rates", "steady", "restart", "memory", "token", "workers", "concurrency")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--polls", type=int, default=10_000, help="in each round")
    parser.add_argument("--flows", type=int, default=10_000, help="pending at a time, for the steady load")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the steady load")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="just this section; may be repeated")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file")
    parser.add_argument("--plot", type=Path, help="draw rate by concurrency, lateness and memory to this PNG")
    options = parser.parse_args()
    logging.getLogger("kimiflow").setLevel(logging.ERROR)
    collect_seldom()  # for all contenders alike
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        here = stack.enter_context(place(Path(folder)))
        run = Run(here, stack.enter_context(Databases(here)), options)
        for section in options.only or SECTIONS:
            getattr(run, section)()
            if options.json:
                options.json.write_text(json.dumps(run.result, indent=1))
    if options.plot:
        plot(run.result, options.plot)
    show(run.result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
