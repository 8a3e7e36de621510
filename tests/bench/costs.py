"""What a store asks of its database while a load runs: statements, and bytes that are written ahead."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from kimiflow.stores.base import Store

__all__ = ["Costs", "counting"]

_FRAME = 24 + 4096
"""Bytes of a page in SQLite's log, its header included."""


class Costs:
    """Counts from when it is made. ``statements`` include those that begin and end a transaction."""

    statements = 0

    async def wal_bytes(self) -> float:
        """Bytes that were written ahead so far."""
        return 0.0


class _Sqlite(Costs):
    """Asks SQLite itself, which tells of each statement before it runs it.

    How far the log reaches stands in the file beside it (SQLite's "wal-index header", ``mxFrame``). Each transaction
    begins where the one before it ended, so looking at every beginning misses none, also where the log starts over.
    """

    def __init__(self, path: str) -> None:
        self._index = Path(f"{path}-shm").open("rb", buffering=0)  # noqa: SIM115 - as long as the load
        self._frames = 0
        self._seen = self._end_of_log()

    def note(self, statement: str) -> None:
        self.statements += 1
        if statement.startswith("BEGIN"):
            self._look()

    def _look(self) -> None:
        end = self._end_of_log()
        self._frames += end - self._seen if end >= self._seen else end
        self._seen = end

    def _end_of_log(self) -> int:
        self._index.seek(16)
        (end,) = struct.unpack("=I", self._index.read(4))
        return int(end)

    async def wal_bytes(self) -> float:
        self._look()
        return float(self._frames * _FRAME)


class _Postgresql(Costs):
    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self._from = 0.0

    async def begin(self) -> None:
        self._from = await self._end_of_log()

    def note(self, *_: object) -> None:
        self.statements += 1

    async def _end_of_log(self) -> float:
        async with self._backend.reader.connect() as connection:
            found = await connection.exec_driver_sql("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
            return float(found.scalar_one())

    async def wal_bytes(self) -> float:
        return await self._end_of_log() - self._from


async def counting(store: Store) -> Costs:
    """Counts what ``store`` does from now on; for one that keeps everything in memory, nothing."""
    backend: Any = getattr(store, "_backend", None)
    if backend is None:
        return Costs()
    if hasattr(backend, "path"):
        sqlite = _Sqlite(backend.path)
        for engine in (backend.writer, backend.reader):
            async with engine.connect() as connection:
                raw = await connection.get_raw_connection()
                await raw.driver_connection.set_trace_callback(sqlite.note)
        return sqlite
    postgresql = _Postgresql(backend)
    await postgresql.begin()
    for event in ("begin", "commit", "before_cursor_execute"):
        sa.event.listen(backend.writer.sync_engine, event, postgresql.note)
    return postgresql
