"""A time limit that looks once more before it gives up.

A machine that was suspended finds its time-out and the reply in the same turn of the event loop. The reply may hold the
only copy of a token, and to give up at once would drop it: what has arrived is read first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["LAST_LOOK", "within"]

LAST_LOOK: Final = 0.05
"""Seconds between the end of the time and giving up."""


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """``asyncio.timeout``, with the last look; ``None`` for no limit.

    :raises TimeoutError: where the block has been cancelled because its time was up.
    """
    async with asyncio.timeout(None) as limit:
        if seconds is None:
            yield
            return
        alarm = asyncio.get_running_loop().call_later(seconds, _allow_a_last_look, limit)
        try:
            yield
        finally:
            alarm.cancel()


def _allow_a_last_look(limit: asyncio.Timeout) -> None:
    limit.reschedule(asyncio.get_running_loop().time() + LAST_LOOK)
