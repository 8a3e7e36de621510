"""The history of all accounts, read on from a cursor, in an SQL database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kimiflow.model import AccountTransition
from kimiflow.stores.horizon import Horizon
from kimiflow.stores.rows import to_transition

if TYPE_CHECKING:
    from kimiflow.stores.database import Database
    from kimiflow.stores.statements import Statements

__all__ = ["Record"]

_LOOKS: Final = 40
_PAUSE: Final = 0.05


class Record:
    """Reads what :meth:`Store.last_cursor` and :meth:`Store.transitions_after` promise."""

    def __init__(self, database: Database, statements: Statements) -> None:
        self._database = database
        self._statements = statements
        self._horizon = Horizon()

    async def last_cursor(self) -> int:
        """See :meth:`Store.last_cursor`.

        What is just being committed is waited for. That takes moments, unless a transaction of another program on the
        server holds it up; then, after two seconds, some of it may be missed.
        """
        if self._statements.horizon is None:
            async with self._database.reading() as connection:
                return int(await connection.scalar(self._statements.last_cursor) or 0)
        horizon = Horizon()
        for _ in range(_LOOKS):
            newest, settled = await self._look(horizon)
            if settled >= 0:
                return settled
            await asyncio.sleep(_PAUSE)
        return newest

    async def transitions_after(self, cursor: int, limit: int) -> list[AccountTransition]:
        """See :meth:`Store.transitions_after`."""
        parameters = {"cursor": cursor, "most": limit}
        if self._statements.horizon is not None:
            _, parameters["settled"] = await self._look(self._horizon)
        async with self._database.reading() as connection:
            rows = await connection.execute(self._statements.transitions_after, parameters)
            return [AccountTransition(row[0], row[1], row[2], to_transition(row[3:])) for row in rows]

    async def _look(self, horizon: Horizon) -> tuple[int, int]:
        """The newest id, and the one up to which nothing can appear any more."""
        assert self._statements.horizon is not None  # noqa: S101 - asked before
        async with self._database.reading() as connection:
            newest, oldest, following = (await connection.execute(self._statements.horizon)).one()
        return newest, horizon.look(newest, oldest, following)
