"""The loads that need processes of their own: restarts, memory, several workers, and whole commands."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kimiflow.model import State

from .child import command
from .ours import KEY, filled, rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from .place import Place

__all__ = ["imports_of", "memory_of", "restart", "whole_processes", "worker_processes"]


@contextmanager
def _child(
    role: str, place: Place, url: str, count: int = 0
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A child, and a function that waits for its next line."""
    process = subprocess.Popen(command(role, place, url, count), stdout=subprocess.PIPE, text=True)
    stdout = process.stdout
    assert stdout is not None
    try:
        yield process, lambda: stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()
        stdout.close()


async def restart(place: Place, url: str, pending: int, granted: int) -> dict[str, float]:
    """Seconds from ``kill -9`` until the first and until the last overdue poll has gone out again.

    What the dead worker held comes up when its lease is over; what it did not hold is polled at once. So there are two
    last ones.
    """
    async with rig(place, url) as made:
        now = time.time()
        await filled(made.store, pending, state=State.PENDING, due=lambda i: now + 1.0 + i * 1e-6)
        await filled(made.store, granted, state=State.GRANTED, due=lambda _: now + 86_400.0, first=pending)
    with _child("drive", place, url) as (worker, line):
        line()
        line()  # its first step is committed, and many more are on their way
        worker.send_signal(signal.SIGKILL)
        killed = time.time()
        worker.wait()
    place.reset(codes=True)
    polled: list[tuple[float, int]] = []
    with _child("drive", place, url):
        while not polled or polled[-1][1] < pending:
            await asyncio.sleep(0.02)
            now, count = time.time() - killed, int(place.counters()["different"])
            if count > (polled[-1][1] if polled else 0):
                polled.append((now, count))
    # In the longest pause everybody waited for the leases of the dead.
    pauses = [(after[0] - before[0], before) for before, after in itertools.pairwise(polled)]
    _, (free, count) = max(pauses)
    return {
        "held_by_the_dead": pending - count,
        "first_s": polled[0][0],
        "last_that_was_free_s": free,
        "last_s": polled[-1][0],
    }


def worker_processes(place: Place, url: str, count: int, workers: int) -> float:
    """Polls per second of so many worker processes on one store; they share a core."""

    async def fill() -> None:
        async with rig(place, url) as made:
            now = time.time()
            await filled(made.store, count, state=State.PENDING, due=lambda i: now + 8.0 + i * 1e-6)

    asyncio.run(fill())
    place.reset()
    with _all(place, url, workers):
        while (first := place.counters()["polls"]) == 0:
            time.sleep(0.002)
        began = time.perf_counter()
        while (last := place.counters()["polls"]) < count:
            time.sleep(0.005)
        seconds = time.perf_counter() - began
    return (last - first) / seconds


@contextmanager
def _all(place: Place, url: str, workers: int) -> Iterator[None]:
    if not workers:
        yield
        return
    with _child("drive", place, url) as (_, line), _all(place, url, workers - 1):
        line()
        yield


def memory_of(place: Place, folder: Path, accounts: int) -> float:
    """Resident MiB of a worker process that has driven 2,000 polls out of so many accounts."""
    url = f"sqlite:///{folder}/memory-{accounts}.db"
    driven = min(accounts, 2_000)

    async def fill() -> None:
        async with rig(place, url) as made:
            now = time.time()
            await filled(made.store, driven, state=State.PENDING, due=lambda i: now + i * 1e-6)
            await filled(made.store, accounts - driven, state=State.GRANTED, due=lambda _: now + 86_400.0, first=driven)

    asyncio.run(fill())
    with _child("weigh", place, url, driven) as (_, line):
        return int(line()) / 1024


def _environment(folder: Path) -> dict[str, str]:
    """The home that :func:`~tests.bench.loads.token_in_process` has filled."""
    return os.environ | {"KIMIFLOW_HOME": str(folder / "token-home"), "KIMIFLOW_KEY": b64encode(KEY).decode()}


def whole_processes(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Wall milliseconds of whole processes, taken in turns."""
    kimiflow = os.path.join(os.path.dirname(sys.executable), "kimiflow")
    commands = {
        "import sqlalchemy, httpx": [sys.executable, "-c", "import sqlalchemy, httpx"],
        "kimiflow token NAME": [kimiflow, "token", "account-7"],
        "kimiflow status": [kimiflow, "status", "account-7", "--json"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, words in commands.items():
            started = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True, env=_environment(folder))
            found[name].append(1000 * (time.perf_counter() - started))
    return {name: times[1:] for name, times in found.items()}


def imports_of(folder: Path) -> dict[str, int]:
    """How many modules a whole process imports."""
    code = (
        "import sys\nfrom kimiflow.__main__ import main\ntry: main()\nexcept SystemExit: pass\nprint(len(sys.modules))"
    )
    found = {}
    commands = {"kimiflow token NAME": ["token", "account-7"], "kimiflow status": ["status", "account-7", "--json"]}
    for name, words in commands.items():
        whole = [sys.executable, "-c", code, *words]
        out = subprocess.run(whole, check=True, capture_output=True, env=_environment(folder), text=True).stdout
        found[name] = int(out.split()[-1])
    return found
