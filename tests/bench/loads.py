"""The loads that this process drives itself: what most rows of the table measure."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kimiflow.model import State
from kimiflow.scheduler import Scheduler

from .costs import counting
from .ours import KEY, drive_until, filled, rig

if TYPE_CHECKING:
    from pathlib import Path

    from .ours import Rig
    from .place import Place

__all__ = ["polls", "refreshes", "steady", "token_in_process"]


async def polls(place: Place, url: str, count: int, *, tls: bool = False, concurrency: int = 256) -> float:
    """Seconds for ``count`` polls that are all due, each committed."""
    async with rig(place, url, tls=tls, concurrency=concurrency) as made:
        await _warmed_up(made, State.PENDING, count)
        await _all_due(made, State.PENDING, count)
        before = place.counters()["polls"]
        seconds = await drive_until(made, count)
        after = place.counters()["polls"]
        assert after - before >= count, "a poll was counted that the server did not see"
        return seconds


async def refreshes(place: Place, url: str, count: int) -> float:
    """Seconds for ``count`` refreshes: ``refreshing`` committed, the request, the tokens committed."""
    async with rig(place, url) as made:
        await _warmed_up(made, State.GRANTED, count)
        await _all_due(made, State.GRANTED, count)
        place.reset()
        seconds = await drive_until(made, 2 * count)
        seen = place.counters()
        assert seen["refreshes"] >= count
        assert seen["out_of_turn"] == 0, "a refresh token was used twice"
        return seconds


async def _all_due(made: Rig, state: State, count: int, *, first: int = 0) -> None:
    now = time.time()
    await filled(made.store, count, state=state, due=lambda i: now - 10.0 + i * 1e-6, first=first)


async def _warmed_up(made: Rig, state: State, first: int) -> None:
    """Drives some others before, as the bare clients do: connections are open then, and statements prepared."""
    count = 2 * made.concurrency
    await _all_due(made, state, count, first=first)
    await drive_until(made, count if state is State.PENDING else 2 * count)


async def steady(place: Place, url: str, flows: int, seconds: float, interval: float = 5.0) -> dict[str, Any]:
    """``flows`` pending at ``interval``: what share of the due polls was made, how late, at what cost."""
    late: list[float] = []
    right = Scheduler._request

    async def request(self: Scheduler, work: Any) -> Any:
        due = work.claim.authorization.next_attempt_at
        late.append(self._clock.now() - due)
        return await right(self, work)

    async with rig(place, url) as made:
        start = time.time() + 1.0
        await filled(made.store, flows, state=State.PENDING, due=lambda i: start + 3.0 + interval * i / flows)
        with patch.object(Scheduler, "_request", request):
            scheduler = made.scheduler()
            task = asyncio.create_task(scheduler.run())
            await asyncio.sleep(max(0.0, start + 3.0 + interval - time.time()))  # one whole interval to settle in
            costs = await counting(made.store)
            late.clear()
            cpu, began = time.process_time(), time.time()
            await asyncio.sleep(seconds)
            cpu, took, made_polls = time.process_time() - cpu, time.time() - began, len(late)
            lateness, statements, wal = sorted(late), costs.statements, await costs.wal_bytes()
            scheduler.stop()
            await task
        # Each flow's own pace is the interval, the jitter that is added on purpose (0.125 s on average), and the reply.
        due = flows * took / (interval + 0.125)
        return {
            "achieved": made_polls / due,
            "p50_ms": 1000 * statistics.median(lateness),
            "p99_ms": 1000 * lateness[int(len(lateness) * 0.99)],
            "cpu_us": 1e6 * cpu / made_polls,
            "statements": statements / made_polls,
            "wal_bytes": wal / made_polls,
            "lateness_ms": [1000 * x for x in random.sample(lateness, min(5_000, len(lateness)))],
        }


async def token_in_process(folder: Path, rounds: int, asked: int = 5_000) -> list[float]:
    """Microseconds for ``flow.token()`` when the token is fresh, in each round."""
    from kimiflow import KimiFlow, load_settings

    settings = load_settings(home=folder / "token-home", key=b64encode(KEY).decode())
    found = []
    async with KimiFlow.open(settings) as flow:
        now = time.time()
        await filled(flow._store, 1_000, state=State.GRANTED, due=lambda _: now + 86_400.0)
        await flow.token("account-7")
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in range(asked):
                await flow.token("account-7")
            found.append(1e6 * (time.perf_counter() - started) / asked)
    return found
