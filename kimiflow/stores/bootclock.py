""":meth:`Store.now` for a database that only the processes of one machine open; see :mod:`kimiflow.boottime`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from kimiflow.boottime import MARK
from kimiflow.stores.tables import marks, put

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from kimiflow.boottime import Boot

__all__ = ["BootClock"]

_LOOK = sa.select(marks.c.value).where(marks.c.name == MARK)


class BootClock:
    """What the processes agreed on is looked up once, for it stays as it is until the machine starts again."""

    def __init__(self, boot: Boot | None) -> None:
        self._boot = boot
        self._mark: str | None = None

    async def now(self, local: float, reader: AsyncEngine, writer: AsyncEngine) -> float:
        """Unix seconds; ``local`` is the wall clock's, which counts only for who is the first to ask."""
        boot = self._boot
        if boot is None:
            return local
        if self._mark is None:
            async with reader.connect() as connection:
                found = await _find(connection)
            self._mark = found if boot.time(found) is not None else await self._agree(local, boot, writer)
        now = boot.time(self._mark)
        return local if now is None else now

    @staticmethod
    async def _agree(local: float, boot: Boot, writer: AsyncEngine) -> str:
        async with writer.begin() as connection:
            mark = await _find(connection)
            if mark is None or boot.time(mark) is None:
                mark = boot.mark(local)
                await connection.execute(put(marks), {"name": MARK, "value": mark})
        return mark


async def _find(connection: AsyncConnection) -> str | None:
    mark: str | None = await connection.scalar(_LOOK)
    return mark
