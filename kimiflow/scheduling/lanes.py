"""Bounded concurrency, over all and for each host, fair between hosts.

A lane is a task that serves one item after the other. There are as many as there is work for, up to the bounds, and
none while there is nothing to do. So an item costs no task and no semaphore of its own, and no host waits for a lane
that a slow one has taken, as long as that one may not take all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from kimiflow.finishing import begin

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Lanes"]

T = TypeVar("T")


class _Queue(Generic[T]):
    __slots__ = ("items", "lanes", "load")

    def __init__(self) -> None:
        self.items: deque[T] = deque()
        self.lanes = 0
        self.load = 0


class Lanes(Generic[T]):
    """Serves items by host.

    :param serve: called with each item; what it raises goes to ``on_error`` and ends nothing else, also where it was
        cancelled.
    :param total: most items at a time.
    :param per_host: most items of one host at a time.
    """

    def __init__(
        self,
        serve: Callable[[T], Awaitable[None]],
        on_error: Callable[[T, BaseException], None],
        *,
        total: int,
        per_host: int,
    ) -> None:
        self._serve = serve
        self._on_error = on_error
        self._total = total
        self._per_host = per_host
        self._queues: dict[str, _Queue[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, host: str, item: T) -> None:
        """Serves ``item`` as soon as the bounds allow, in the order in which items of its host came."""
        queue = self._queues.get(host)
        if queue is None:
            queue = self._queues[host] = _Queue()
        queue.items.append(item)
        queue.load += 1
        if len(self._tasks) < self._total and queue.lanes < self._per_host:
            queue.lanes += 1
            task = begin(self._lane(queue), "kimiflow-lane")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def load(self, host: str) -> int:
        """Items of ``host`` that wait or are being served."""
        queue = self._queues.get(host)
        return 0 if queue is None else queue.load

    @property
    def tasks(self) -> set[asyncio.Task[None]]:
        """The lanes that are open now."""
        return set(self._tasks)

    async def _lane(self, queue: _Queue[T]) -> None:
        found: _Queue[T] | None = queue
        while found is not None:
            try:
                await self._run(found)
            finally:
                found.lanes -= 1
            found = self._next()
            if found is not None:
                found.lanes += 1

    async def _run(self, queue: _Queue[T]) -> None:
        """Serves items until there are none, or until a host that has no lane at all needs this one."""
        while queue.items:
            item = queue.items.popleft()
            try:
                await self._serve(item)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - handed on; one item's defect is its own
                # Nor does a program that cancels all its tasks: what is left over still has to be given back.
                self._on_error(item, error)
            finally:
                queue.load -= 1
            if len(self._queues) > 1 and any(other.items and not other.lanes for other in self._queues.values()):
                return

    def _next(self) -> _Queue[T] | None:
        """The host with work and the fewest lanes."""
        waiting = [queue for queue in self._queues.values() if queue.items and queue.lanes < self._per_host]
        return min(waiting, key=lambda queue: queue.lanes, default=None)
