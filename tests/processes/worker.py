"""``python -m tests.processes.worker``: a ``kimiflow run`` whose leases a test can wait for."""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kimiflow.flow import KimiFlow
from kimiflow.logs import configure, get_logger
from kimiflow.scheduling.limits import Limits
from kimiflow.settings import load_settings
from kimiflow.stores.sql import SqlStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.stores.base import Outcome, Step


class TimedStore(SqlStore):
    """Says how long commits take, where that is remarkable: so long is the window in which a kill costs tokens."""

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        started = time.monotonic()
        try:
            return await super().commit(steps)
        finally:
            took = time.monotonic() - started
            if took > 0.5:
                get_logger().warning("slow_commit", seconds=round(took, 2), steps=len(steps))


async def work(options: argparse.Namespace) -> None:
    settings = load_settings()
    configure(settings.log_level, settings.log_format)
    limits = replace(
        Limits.for_timeout(settings.http_timeout, settings.concurrency),
        lease=options.lease,
        margin=options.margin,
        patience=options.patience,
        idle=5.0,
    )
    store = TimedStore(settings.store_url, busy_timeout=options.busy_timeout)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with KimiFlow(settings, store, limits=limits) as flow:
        print("ready", flush=True)
        await flow.run(stop=stop)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lease", type=float, default=3.5)
    parser.add_argument("--margin", type=float, default=0.5)
    parser.add_argument("--patience", type=float, default=1.0)
    parser.add_argument("--busy-timeout", type=float, default=10.0)
    asyncio.run(work(parser.parse_args()))


if __name__ == "__main__":
    main()
