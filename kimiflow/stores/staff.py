"""What workers say of themselves, in an SQL database."""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.stores.base import WorkerReport
from kimiflow.stores.tables import put, workers

if TYPE_CHECKING:
    from kimiflow.stores.database import Database

__all__ = ["Staff"]

_COLUMNS = [column.name for column in workers.c]


class Staff:
    """Keeps what :meth:`Store.report_worker` and its like promise."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._report = put(workers)
        self._all = sa.select(workers)
        self._forget = sa.delete(workers).where(workers.c.name == bindparam("gone"))

    async def report_worker(self, report: WorkerReport) -> None:
        """See :meth:`Store.report_worker`. One statement."""
        async with self._database.writing() as connection:
            await connection.execute(self._report, dict(zip(_COLUMNS, astuple(report), strict=True)))

    async def workers(self) -> list[WorkerReport]:
        """See :meth:`Store.workers`."""
        async with self._database.reading() as connection:
            found = [WorkerReport(*row) for row in await connection.execute(self._all)]
        # Not by the database, whose order of letters is its own.
        return sorted(found, key=lambda report: report.name)

    async def forget_worker(self, name: str) -> None:
        """See :meth:`Store.forget_worker`."""
        async with self._database.writing() as connection:
            await connection.execute(self._forget, {"gone": name})
