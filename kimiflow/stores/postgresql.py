"""PostgreSQL: many writers at once, kept apart row by row.

A claim skips the rows that another transaction has locked (``FOR UPDATE SKIP LOCKED``), so that workers on many
machines never wait for each other. Everybody else locks in one order before anything is written, so that nobody waits in
a circle: the accounts whose authorizations come or go, then the authorizations, each in the order of their ids.

The clock is the server's: leases of hosts whose own clocks differ mean the same.

What a person asks for is announced (``NOTIFY``) to all who wait for work; a worker that misses it finds it by looking.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import create_async_engine

from kimiflow.errors import InvalidSetting
from kimiflow.stores.backend import Backend
from kimiflow.stores.bulk import Transaction
from kimiflow.stores.tables import metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from kimiflow.stores.bulk import Bulk, Words
    from kimiflow.stores.listener import Listener

__all__ = ["CONNECTIONS", "PostgresqlBackend"]

T = TypeVar("T")

_POOL: Final = 3
CONNECTIONS: Final = _POOL + 1
"""What one process opens at most: its pool, and one that listens.

A server with ``max_connections=100`` keeps 3 for superusers. 20 workers open 80 of the other 97, which leaves 17 for
four commands at a time and a look with psql. Three in the pool are enough for a worker: one to claim with, one to
commit with, one to read with while both are busy. More would not make it faster, for it works in batches.
"""
_CHANNEL: Final = "kimiflow"
_OVER: Final = "SELECT pg_current_snapshot()::text"
_MIGRATION_LOCK: Final = int.from_bytes(b"kimiflow")
_PLAIN_STATEMENTS: Final[dict[str, Any]] = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
"""Each statement prepared without a name: a pooler may run the next one elsewhere."""


class PostgresqlBackend(Backend):
    """:param busy_timeout: seconds to wait for a row that another transaction has locked."""

    locks_rows = True
    writes_in_queries = True

    def __init__(self, url: str, *, busy_timeout: float) -> None:
        try:
            from kimiflow.stores.address import Address  # noqa: PLC0415
            from kimiflow.stores.listener import Listener  # noqa: PLC0415
        except ModuleNotFoundError:
            raise InvalidSetting(
                "KIMIFLOW_DATABASE_URL names PostgreSQL, but its driver is not installed",
                hint="Install it: pip install 'kimiflow[postgresql]'",
            ) from None
        settings = {
            "lock_timeout": str(max(1, round(busy_timeout * 1000))),
            # A rotated refresh token must outlive a power cut, whatever the server's default is.
            "synchronous_commit": "on",
        }
        self._address = Address(url, settings)
        self.where = self._address.where
        self.writer = self.reader = self._engine()
        self.autocommits = not self._address.pgbouncer
        if self.autocommits:
            # The same connections. One statement needs no BEGIN and no COMMIT, each of which waits for a turn of the loop.
            self.reader = self.writer.execution_options(isolation_level="AUTOCOMMIT")
        self._listener: Listener | None = None
        if self._address.pgbouncer:
            # LISTEN belongs to a connection, and here a connection belongs to nobody: the clock alone wakes.
            self.look_every = 0.5
            _set_in_each_transaction(self.writer, settings)
        else:
            # News come by themselves; this is for what is not announced, and for announcements that got lost.
            self.look_every = 1.0
            self._listener = Listener(self._address, _CHANNEL, lambda: self.on_news())  # noqa: PLW0108 - set later

    def _engine(self) -> AsyncEngine:
        def connect() -> DBAPIConnection:
            made: DBAPIConnection = engine.sync_engine.dialect.loaded_dbapi.connect(
                async_creator_fn=self._address.connect,
                **(_PLAIN_STATEMENTS if self._address.pgbouncer else {}),
            )
            return made

        engine = create_async_engine(
            "postgresql+asyncpg://",
            creator=connect,
            isolation_level="READ COMMITTED",
            pool_size=_POOL,
            max_overflow=0,
            hide_parameters=True,
        )
        return engine

    async def exists(self) -> bool:
        """It is there, or connecting says so."""
        return True

    async def make(self) -> None:
        """A database is made by whoever runs the server."""

    async def settle_in(self) -> None:
        """Nothing to set."""

    async def alone(self, connection: AsyncConnection) -> None:
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))

    async def at_once(
        self,
        act: Callable[[Transaction], T],
        connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        *,
        writes: bool,
        worth: Callable[[Transaction], bool] | None = None,
    ) -> T | None:
        """A statement after the other; a claim that finds nothing locks nothing, so there is no need to ask before."""
        del writes, worth
        async with connected() as connection:
            return await connection.run_sync(lambda sync: act(_Transaction(sync)))

    def is_foreign(self, tables: Collection[str]) -> bool:
        """A database may be shared with other programs, as long as none of their tables has a name of ours."""
        return not metadata.tables.keys().isdisjoint(tables)

    def one_of(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        return column == sa.any_(sa.bindparam(parameter, type_=ARRAY(sa.Text)))

    def listed(self, values: Collection[str]) -> list[str]:
        return list(values)

    async def now(self, local: float) -> float:
        """The server's clock."""
        del local
        async with self.reader.connect() as connection:
            epoch = sa.func.extract("epoch", sa.func.clock_timestamp())
            return float(await connection.scalar(sa.select(epoch)) or 0.0)

    async def version(self) -> str:
        """Which transactions are over: changes with every commit, in any database of the server."""
        if self._listener is not None:
            return await self._listener.ask(_OVER)
        async with self.reader.connect() as connection:
            return str(await connection.scalar(sa.text(_OVER)))

    async def announce(self, connection: AsyncConnection) -> None:
        """Heard by all who listen once the transaction is committed, and never if it is not."""
        await connection.execute(sa.select(sa.func.pg_notify(_CHANNEL, "")))

    def horizon(self) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
        """Transactions of all databases of the server: one that writes for long delays what is told of history."""
        oldest = sa.literal_column("pg_snapshot_xmin(pg_current_snapshot())::text::bigint", sa.BigInteger)
        following = sa.literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", sa.BigInteger)
        return oldest, following

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self.writer.dispose()


def _set_in_each_transaction(engine: AsyncEngine, settings: dict[str, str]) -> None:
    chosen = sa.select(*(sa.func.set_config(name, value, True) for name, value in settings.items()))  # noqa: FBT003

    def on_begin(connection: sa.Connection) -> None:
        connection.execute(chosen)

    sa.event.listen(engine.sync_engine, "begin", on_begin)


class _Transaction(Transaction):
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def run(self, words: Words, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        found = self._connection.exec_driver_sql(words.text, words.parameters(values))
        # The driver's own rows: nobody asks them for a column by name.
        return found.cursor.fetchall() if found.returns_rows else ()

    def write(self, bulk: Bulk, rows: Sequence[tuple[Any, ...]]) -> int:
        if not rows:
            return 0
        return self._connection.exec_driver_sql(_for_rows(bulk), tuple(zip(*rows, strict=True))).rowcount


@cache
def _for_rows(bulk: Bulk) -> str:
    arrays = ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(bulk.types, 1))
    return bulk.on(f"SELECT * FROM unnest({arrays})")  # noqa: S608 - numbers and names of types, nobody's text
