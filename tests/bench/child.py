"""A worker in a process of its own: ``python -m tests.bench.child ROLE HTTP URL COUNT``."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kimiflow.cli.run import collect_seldom

from .ours import drive_until, rig
from .place import Place

if TYPE_CHECKING:
    from .ours import Rig

__all__ = ["command"]


def command(role: str, place: Place, url: str, count: int = 0) -> list[str]:
    """What starts it."""
    return [sys.executable, "-m", "tests.bench.child", role, place.http, url, str(count)]


async def drive(made: Rig, count: int) -> None:
    """Drives everything until it is ended; prints when it is ready, and when the first step was committed."""
    del count
    print("ready", flush=True)
    first = True

    def step(_account_id: str) -> None:
        nonlocal first
        if first:
            first = False
            print(time.time(), flush=True)

    await made.scheduler(step).run()


async def weigh(made: Rig, count: int) -> None:
    """Drives ``count`` steps, twice, and prints how much memory is resident then, in KiB."""
    await drive_until(made, count)
    await drive_until(made, count)
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


async def main(role: str, http: str, url: str, count: int) -> None:
    place = Place(http, http, ssl.create_default_context(), Path())
    async with rig(place, url) as made:
        await {"drive": drive, "weigh": weigh}[role](made, count)


if __name__ == "__main__":
    role, http, url, count = sys.argv[1:]
    collect_seldom()
    asyncio.run(main(role, http, url, int(count)))
