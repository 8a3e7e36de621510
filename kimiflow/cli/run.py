"""``kimiflow run``: a worker."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kimiflow.cli.running import run_until_stopped, settled_settings
from kimiflow.cli.talk import say
from kimiflow.finishing import finish

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from kimiflow.flow import KimiFlow
    from kimiflow.neighbours.syncing import Target

__all__ = ["collect_seldom", "work"]


def collect_seldom() -> None:
    """Sets the collector of cycles for a process that is a worker and nothing else.

    A thousand claims are alive at a time, and what they are made of goes when they do. Python's default, a look at all
    young objects after 700 new ones, takes a fifth of a busy worker's time to find next to nothing.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def work(*, until_settled: bool, sync: Sequence[str] = ()) -> int:
    """Runs the command; returns the exit code."""
    settings = settled_settings(log_level=None)
    targets = _targets(sync)
    collect_seldom()
    # Whoever asked for JSON has a program read stderr, which trips over a line that is none.
    tell = (lambda _line: None) if settings.log_format == "json" else say

    async def body(flow: KimiFlow, stop: asyncio.Event) -> int:
        end = "ends once no sign-in is on its way" if until_settled else "Ctrl-C stops it"
        tell(f"Driving every account in {settings.home}; {end}. Whatever stops it, nothing is lost.")
        async with _kept_in_step(flow, targets):
            await flow.run(until_settled=until_settled, stop=stop)
        if stop.is_set():
            tell("Stopped.")
        return 0

    return run_until_stopped(body, settings)


def _targets(sync: Sequence[str]) -> list[Target]:
    if not sync:
        return []
    from kimiflow.neighbours.syncing import parse_target

    return [parse_target(text) for text in sync]


@asynccontextmanager
async def _kept_in_step(flow: KimiFlow, targets: Sequence[Target]) -> AsyncIterator[None]:
    """Folders of other tools follow the store while the block runs, and have its last state when it ends."""
    if not targets:
        yield
        return
    syncing = flow.syncing(targets)
    await syncing.start()
    stop = asyncio.Event()
    following = asyncio.create_task(syncing.run(stop), name="kimiflow-sync")
    try:
        yield
    finally:
        stop.set()
        await finish(following)
