"""What a worker does beside its work: it says that it is there, and tidies up behind everybody."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Final

from kimiflow.errors import StoreError
from kimiflow.stores.base import WorkerReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from structlog.typing import FilteringBoundLogger

    from kimiflow.stores.base import Store
    from kimiflow.storetime import StoreClock

__all__ = ["STALE_AFTER", "Chores"]

STALE_AFTER: Final = 60.0
"""Seconds after its last report that a worker is taken to be gone."""

_REPORT_EVERY: Final = 10.0
_TIDY_EVERY: Final = 3_600.0
_DAY: Final = 86_400.0
_FORGOTTEN_AFTER: Final = _DAY
_HISTORY: Final = 90 * _DAY
_FAREWELL: Final = 2.0


class Chores:
    """Those of one worker. None is worth stopping for: where the store is away, it is the next time's.

    :param name: the owner in the worker's leases.
    :param in_flight: how many claims it is working on.
    """

    def __init__(
        self, store: Store, clock: StoreClock, log: FilteringBoundLogger, *, name: str, in_flight: Callable[[], int]
    ) -> None:
        self._store = store
        self._clock = clock
        self._log = log
        self._name = name
        self._in_flight = in_flight
        self._since = 0.0
        self._over = asyncio.Event()

    @asynccontextmanager
    async def done(self) -> AsyncIterator[None]:
        """They are done while the block runs; at its end the worker takes its leave."""
        self._since = self._clock.now()
        await self._trying(self._report)
        tasks = {
            asyncio.create_task(self._again(self._report, _REPORT_EVERY, at_once=False), name="kimiflow-report"),
            asyncio.create_task(self._again(self._tidy, _TIDY_EVERY, at_once=True), name="kimiflow-tidy"),
        }
        try:
            yield
        finally:
            self._over.set()
            _, late = await asyncio.wait(tasks, timeout=_FAREWELL)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    await self._trying(lambda: self._store.forget_worker(self._name))

    async def _again(self, chore: Callable[[], Awaitable[None]], every: float, *, at_once: bool) -> None:
        if at_once:
            await self._trying(chore)
        while not self._over.is_set():
            try:
                async with asyncio.timeout(every):
                    await self._over.wait()
            except TimeoutError:
                await self._trying(chore)

    async def _trying(self, chore: Callable[[], Awaitable[None]]) -> None:
        try:
            await chore()
        except StoreError as error:
            self._log.debug("chore_put_off", reason=error.message)
        except Exception as error:  # noqa: BLE001 - a worker whose table nobody can tidy is one all the same
            self._log.error("chore_failed", exc_info=error)

    async def _report(self) -> None:
        now = self._clock.now()
        await self._store.report_worker(
            WorkerReport(self._name, socket.gethostname(), self._since, self._in_flight(), now)
        )

    async def _tidy(self) -> None:
        now = self._clock.now()
        for report in await self._store.workers():
            if report.seen_at < now - _FORGOTTEN_AFTER:
                await self._store.forget_worker(report.name)
        pruned = await self._store.prune_history(now - _HISTORY)
        if pruned:
            self._log.info("history_pruned", rows=pruned)
