"""SQLite: one file, one writer at a time, any number of readers.

Writing transactions begin ``IMMEDIATE``: they take the file's only write lock before they look, so that nothing they
have read can change before they write, and a lock that is taken is waited for (``busy_timeout``) instead of refused
half-way. In one process they share one connection, and queue for it without spending a thread each. A read is one
statement: it sees the state of the last commit (WAL), waits for nobody, and needs no ``BEGIN``.

``synchronous=FULL`` makes a commit durable when it returns: a rotated refresh token must outlive a power cut.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from kimiflow.boottime import this_boot
from kimiflow.descriptors import used_up
from kimiflow.errors import InvalidSetting, StoreReplaced, StoreUnavailable
from kimiflow.stores.backend import Backend
from kimiflow.stores.bootclock import BootClock
from kimiflow.stores.sqlite_thread import ThreadedConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from contextlib import AbstractAsyncContextManager

    import aiosqlite
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from kimiflow.stores.bulk import Transaction

__all__ = ["SqliteBackend"]

T = TypeVar("T")

_WRITER: Final = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA synchronous = FULL",
    # In KiB. A batch touches about as many pages as it has rows, and most of them again in the next step.
    "PRAGMA cache_size = -32768",
)
_LONGEST_LOG: Final = 8_000
"""Pages of 4 KiB after which the log is copied back into the database. A commit of some hundred rows is a thousand pages:
SQLite's default, of as many, would do so at every one."""
_SHORTEST_LOG: Final = 64
_READER: Final = ("PRAGMA query_only = ON",)
_READERS: Final = 4
_PAUSE: Final = 0.02
_BESIDE: Final = {"-wal": "'s log", "-shm": "'s index of the log"}
"""Files of every database that is open, by how their names end; in the second one processes lock each other out."""
_HEADER: Final = 100
"""Bytes that every database begins with."""


class SqliteBackend(Backend):
    """:param busy_timeout: seconds to wait for another process that writes."""

    def __init__(self, url: sa.URL, *, busy_timeout: float) -> None:
        if url.drivername not in {"sqlite", "sqlite+aiosqlite"} or url.query or url.host:
            raise InvalidSetting(
                "KIMIFLOW_DATABASE_URL is not a URL of an SQLite file",
                hint="It looks like sqlite:///relative.db or sqlite:////absolute/path.db, and takes no parameters.",
            )
        if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
            raise InvalidSetting(
                "KIMIFLOW_DATABASE_URL names no file, and an SQLite database in memory cannot be shared",
                hint="Name a file, as in sqlite:///kimiflow.db, or use memory:// to keep nothing.",
            )
        self.path = Path(url.database).absolute()
        self.where = f"the database {self.path}"
        self._busy_timeout = busy_timeout
        self.writer = self._engine(_WRITER, connections=1)
        self.reader = self._engine(_READER, connections=_READERS)
        self._clock = BootClock(this_boot())
        self._watch: asyncio.Task[aiosqlite.Connection] | None = None
        self._stamps: sqlite3.Connection | None = None
        self._files: dict[Path, tuple[int, int]] = {}
        """The database and what is beside it, as they are open here: device and inode of each."""

    def _engine(self, pragmas: Sequence[str], *, connections: int) -> AsyncEngine:
        engine = create_async_engine(
            sa.URL.create("sqlite+aiosqlite", database=str(self.path)),
            connect_args={
                "timeout": self._busy_timeout,
                "isolation_level": None,
                "async_creator_fn": ThreadedConnection,
            },
            pool_size=connections,
            max_overflow=0,
            # A reader has nothing to roll back.
            pool_reset_on_return="rollback" if pragmas is _WRITER else None,
            hide_parameters=True,
        )

        def on_connect(connection: DBAPIConnection, record: object) -> None:
            del record
            cursor = connection.cursor()
            for pragma in pragmas:
                cursor.execute(pragma)
            if pragmas is _WRITER:
                cursor.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages()}")
            cursor.close()

        def on_begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        sa.event.listen(engine.sync_engine, "connect", on_connect)
        if pragmas is _WRITER:
            sa.event.listen(engine.sync_engine, "begin", on_begin)
        return engine

    def _log_pages(self) -> int:
        """At most a quarter of a small disk: once the log has filled it, there is no room left to copy it to either."""
        try:
            free = shutil.disk_usage(self.path.parent).free
        except OSError:
            return _LONGEST_LOG
        return min(max(free // 4_096 // 4, _SHORTEST_LOG), _LONGEST_LOG)

    async def exists(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    async def make(self) -> None:
        """Makes the file, for its owner alone; SQLite gives the files beside it the same mode."""
        try:
            missing = [folder for folder in self.path.parents if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir(mode=0o700, exist_ok=True)
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            # One that is there is left alone: to close a file ends all locks that this process has on it, and another
            # store in it may be in the middle of a transaction.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnavailable(
                f"{self.where} cannot be opened: {used_up(error.errno) or error.strerror}",
                hint="Look at KIMIFLOW_DATABASE_URL and at the folder's permissions.",
            ) from None

    async def settle_in(self) -> None:
        """Switches to write-ahead logging, which stays.

        SQLite does not wait for other processes that open the file at the same moment, so this does.
        """
        deadline = asyncio.get_running_loop().time() + self._busy_timeout
        async with ThreadedConnection(self.path, isolation_level=None, timeout=self._busy_timeout) as connection:
            while True:
                try:
                    (mode,) = await _only_row(connection, "PRAGMA journal_mode = WAL")
                except sqlite3.OperationalError as error:
                    busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                    if not busy or asyncio.get_running_loop().time() >= deadline:
                        raise
                    await asyncio.sleep(_PAUSE)
                    continue
                break
        if mode != "wal":
            raise StoreUnavailable(
                f"{self.where} lies where SQLite cannot share it between processes (journal_mode is {mode})",
                hint="Put it on a local disk.",
            )

    async def alone(self, connection: AsyncConnection) -> None:
        """``BEGIN IMMEDIATE`` has seen to it."""

    async def at_once(
        self,
        act: Callable[[Transaction], T],
        connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        *,
        writes: bool,
        worth: Callable[[Transaction], bool] | None = None,
    ) -> T | None:
        """One turn of the connection's thread, which begins the transaction and ends it."""
        del connected
        async with (self.writer if writes else self.reader).connect() as connection:
            raw = await connection.get_raw_connection()
            threaded = cast("ThreadedConnection", raw.driver_connection)
            return await (threaded.transact(act, worth) if writes else threaded.look(act))

    def is_foreign(self, tables: Collection[str]) -> bool:
        """The file is ours alone, so any table in it tells of another owner."""
        return bool(tables)

    def one_of(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        values = sa.func.json_each(sa.bindparam(parameter)).table_valued("value")
        return column.in_(sa.select(values.c.value))

    def listed(self, values: Collection[str]) -> str:
        return json.dumps(list(values))

    async def now(self, local: float) -> float:
        """Counted from the machine's start: all who share a file are on one machine."""
        return await self._clock.now(local, self.reader, self.writer)

    async def version(self) -> int:
        """Counts the commits of all other connections, those of this process included."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._connect_watch(), name="kimiflow-watch")
        try:
            # Who waits may be cancelled, and a connection that is cut short leaves a thread that talks to a closed loop.
            watch = await asyncio.shield(self._watch)
        except sqlite3.Error:
            self._watch = None
            raise
        (number,) = await _only_row(watch, "PRAGMA data_version")
        return int(number)

    def stamp(self) -> object | None:
        """The same number, read where it is kept: in memory that all processes share, so that nobody is waited for."""
        try:
            return self._stamp()
        except sqlite3.Error:
            return None

    def _stamp(self) -> object | None:
        if self._stamps is None:
            self._stamps = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        row = self._stamps.execute("PRAGMA data_version").fetchone()
        return row[0] if row else None

    def settled(self) -> None:
        """Notes which files are open.

        The connection of :meth:`stamp` stays for as long as this is, and while there is one the log stays the same file.
        """
        self._stamp()
        # SQLite puts them beside the file itself, also where the path is a link to it.
        real = self.path.resolve()
        beside = [real.with_name(real.name + suffix) for suffix in _BESIDE]
        self._files = {path: _file_at(path) for path in (self.path, *beside) if path.exists()}

    def check_in_place(self) -> None:
        """Compares what is at the paths: two looks at a folder that is in memory anyway.

        Whoever writes into a file that was unlinked writes for nobody, and another worker on the file that took its
        place has the same refresh tokens.
        """
        for path, opened in self._files.items():
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                raise self._replaced(path, "was moved or removed") from None
            except OSError as error:
                raise StoreUnavailable(f"{self.where} cannot be looked at: {error.strerror}") from None
            if (found.st_dev, found.st_ino) != opened:
                raise self._replaced(path, "was replaced by another file")
            if path == self.path and found.st_size < _HEADER:
                raise self._replaced(path, "was cut short")

    def _replaced(self, path: Path, what: str) -> StoreReplaced:
        part = next((words for suffix, words in _BESIDE.items() if path.name.endswith(suffix)), "")
        return StoreReplaced(
            f"{self.where}{part} {what} since it was opened",
            hint="Nothing new is begun; what had arrived is kept. Put the right file in its place, then start again.",
        )

    async def _connect_watch(self) -> aiosqlite.Connection:
        return await ThreadedConnection(self.path, isolation_level=None)

    async def close(self) -> None:
        stamps, self._stamps = self._stamps, None
        if stamps is not None:
            stamps.close()
        watch, self._watch = self._watch, None
        if watch is not None:
            with suppress(sqlite3.Error):
                await (await watch).close()
        await self.reader.dispose()
        # Last, so that it can tidy the log away.
        await self.writer.dispose()


def _file_at(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


async def _only_row(connection: aiosqlite.Connection, statement: str) -> tuple[Any, ...]:
    async with connection.execute(statement) as cursor:
        row = await cursor.fetchone()
    return tuple(row or ())
