"""Work that is brought to its end although whoever waits for it is told to stop.

A cancellation says that nobody wants the result any more. Where the work saves what arrived, that is no reason to leave
it half done: it is finished first, and whoever was cancelled ends after that.
"""

from __future__ import annotations

import asyncio
from inspect import CORO_CREATED, getcoroutinestate
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["begin", "finish", "outlast"]

T = TypeVar("T")


class _Begun(asyncio.Task[T]):
    """A task that is cancelled before its first step never takes it, and its ``finally`` is none. This one takes it."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401 - as it is declared
        coroutine = self.get_coro()
        if asyncio.iscoroutine(coroutine) and getcoroutinestate(coroutine) == CORO_CREATED:
            # The first step is in the loop's queue already, and this comes after it.
            self.get_loop().call_soon(super().cancel, msg)
            return True
        return super().cancel(msg)


def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Runs ``work`` in a task. However soon that is cancelled, ``work`` begins, and can see to what has to be done."""
    return _Begun(work, loop=asyncio.get_running_loop(), name=name)


async def outlast(*tasks: asyncio.Future[Any] | None) -> asyncio.CancelledError | None:
    """Waits until these tasks, or futures, are done, whoever cancels the waiting meanwhile; returns the last who tried."""
    cancelled = None
    while running := {task for task in tasks if task is not None and not task.done()}:
        try:
            # Unlike to await a task, this does not cancel it.
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled


async def finish(work: Coroutine[Any, Any, T] | asyncio.Task[T]) -> T:
    """What ``work`` returns. It is not cancelled with the caller, however often he is, and he is held up until its end.

    :raises asyncio.CancelledError: after the end, where the caller was cancelled meanwhile.
    """
    task = work if isinstance(work, asyncio.Task) else begin(work, "kimiflow-finish")
    cancelled = await outlast(task)
    if cancelled is None or (not task.cancelled() and task.exception() is not None):
        return task.result()
    raise cancelled
