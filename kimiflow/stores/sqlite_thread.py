"""A connection of SQLite and its thread: a whole transaction in one turn.

A turn costs more than most statements do, and while the event loop is busy the thread waits at the end of each step of
a statement until it may go on. So what is done for every poll goes over at once, and changes many rows in one step.
"""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

import aiosqlite

from kimiflow.stores.bulk import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kimiflow.stores.bulk import Bulk, Words

__all__ = ["ThreadedConnection"]

T = TypeVar("T")

_AT_ONCE: Final = (256, 64, 16, 4, 1)
"""Rows in one step, most first. A batch of any size is made of few different texts, which stay prepared."""
_PREPARED: Final = 256


class ThreadedConnection(aiosqlite.Connection):
    """What all here connect with, SQLAlchemy too.

    :param options: those of :func:`sqlite3.connect`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:  # noqa: ANN401 - sqlite3's
        super().__init__(lambda: sqlite3.connect(path, cached_statements=_PREPARED, **options), 64)
        # A program that ends without closing its store is not kept from it. Before aiosqlite 0.22 it is a thread itself.
        thread: Any = getattr(self, "_thread", self)
        thread.daemon = True

    async def look(self, act: Callable[[Transaction], T]) -> T:
        """Does ``act`` outside of any transaction."""
        done: T = await self._execute(lambda: act(_Transaction(self._conn)))  # type: ignore[no-untyped-call]
        return done

    async def transact(self, act: Callable[[Transaction], T], worth: Callable[[Transaction], bool] | None) -> T | None:
        """Does ``act`` in a transaction, where ``worth`` says so; all of it, or nothing."""

        def in_transaction() -> T | None:
            connection = self._conn
            transaction = _Transaction(connection)
            if worth is not None and not worth(transaction):
                return None
            try:
                return once(connection, transaction)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL or not _made_room(connection):
                    raise
            return once(connection, transaction)

        def once(connection: sqlite3.Connection, transaction: Transaction) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                done = act(transaction)
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return done

        # Where the caller is cancelled it is brought to its end all the same, and whatever comes next queues behind it.
        done: T | None = await self._execute(in_transaction)  # type: ignore[no-untyped-call]
        return done


def _made_room(connection: sqlite3.Connection) -> bool:
    """Whether the log was copied into the database as far as it goes, so that it is written from its beginning again.

    On a disk that is full. Readers are not waited for; while one holds on to the log it stays as it is.
    """
    try:
        busy, frames, copied = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    except sqlite3.OperationalError:
        return False
    return not busy and copied > 0 and frames == copied


class _Transaction(Transaction):
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, words: Words, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        return self._connection.execute(words.text, words.parameters(values)).fetchall()

    def write(self, bulk: Bulk, rows: Sequence[tuple[Any, ...]]) -> int:
        before = self._connection.total_changes
        start = 0
        for size in _AT_ONCE:
            while len(rows) - start >= size:
                part = rows[start : start + size]
                self._connection.execute(_for_rows(bulk, size), tuple(chain.from_iterable(part)))
                start += size
        return self._connection.total_changes - before


@lru_cache(maxsize=_PREPARED)
def _for_rows(bulk: Bulk, count: int) -> str:
    row = f"({', '.join('?' * len(bulk.columns))})"
    return bulk.on(f"VALUES {', '.join([row] * count)}")
