"""An open database: its transactions, its clock, and word of what others commit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar, cast

from kimiflow.errors import StoreError, StoreReplaced
from kimiflow.stores.opening import bring_up_to_date
from kimiflow.stores.trouble import TablesChanged, broke, trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from kimiflow.stores.backend import Backend
    from kimiflow.stores.bulk import Transaction

__all__ = ["Database"]

T = TypeVar("T")


class Database:
    """Everything that is asked of a backend by the store; all faults leave it as :class:`StoreError`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._opened = False
        self._news = asyncio.Event()
        self._version_seen: int | str | None = None
        backend.on_news = self._tell

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            with trouble(self._backend.where):
                yield
        except StoreReplaced:
            raise
        except StoreError:
            # Of a file that is not the right one any more this says more than what came of it.
            self._backend.check_in_place()
            raise

    async def open(self) -> None:
        """Makes the database where it is missing, and brings its schema up to date.

        :raises SchemaMismatch: where it is newer than this program, or somebody else's.
        """
        with self._trouble():
            try:
                await self._backend.make()
                await bring_up_to_date(self._backend)
                self._backend.settled()
            except BaseException:
                await self._backend.close()
                raise
        self._opened = True

    async def close(self) -> None:
        """Lets go of every connection."""
        self._opened = False
        with self._trouble():
            await self._backend.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """For one statement that writes nothing."""
        self._must_be_open()
        with self._trouble():
            async with self._backend.reader.connect() as connection, _given_up(connection):
                yield connection

    @asynccontextmanager
    async def writing(self, *, announced: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction: all of it is durable when the block is left, or none of it was written.

        :param announced: others hear of it at once, because it gives them something to do.
        :raises StoreReplaced: where it would be written into a file that nobody else sees.
        """
        self._must_be_open()
        self._backend.check_in_place()
        with self._trouble():
            # Given up twice: for what happens in the transaction, and for its end.
            async with (
                self._backend.writer.connect() as connection,
                _given_up(connection),
                connection.begin(),
                _given_up(connection),
            ):
                yield connection
                if announced:
                    await self._backend.announce(connection)
        self._tell()

    async def look(self, act: Callable[[Transaction], T]) -> T:
        """Like :meth:`reading`, in the driver's own words."""
        self._must_be_open()

        async def once() -> T:
            with self._trouble():
                return cast("T", await self._backend.at_once(act, self.reading, writes=False))

        return await _once_more(once)

    async def at_once(
        self,
        act: Callable[[Transaction], T],
        *,
        worth: Callable[[Transaction], bool] | None = None,
        single: bool = False,
        in_any_case: bool = False,
    ) -> T | None:
        """Like :meth:`writing`, in the driver's own words and for a function that waits for nothing else.

        :param worth: may be asked before whether there is anything to do; where it says no, ``None`` is returned.
        :param single: ``act`` is one statement, so that it needs neither a beginning nor an end where the database can
            do without.
        :param in_any_case: also into a file that nobody else sees, because it may be put back; then that is raised.
        :raises StoreReplaced: where it is such a file.
        """
        self._must_be_open()
        if not in_any_case:
            self._backend.check_in_place()
        connected = self.reading if single and self._backend.autocommits else self.writing

        async def once() -> T | None:
            with self._trouble():
                return await self._backend.at_once(act, connected, writes=True, worth=worth)

        done = await _once_more(once)
        if in_any_case:
            self._backend.check_in_place()
        if done is not None:
            self._tell()
        return done

    def _tell(self) -> None:
        # Whoever waits holds the old event; who comes later waits for the next news.
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _must_be_open(self) -> None:
        if not self._opened:
            raise StoreError(f"{self._backend.where} is not open")

    async def now(self, local: float) -> float:
        """The time by the database's clock, where it has one."""
        with self._trouble():
            return await self._backend.now(local)

    def stamp(self) -> object | None:
        """See :meth:`~kimiflow.stores.base.Store.stamp`."""
        return self._backend.stamp()

    async def changed(self, timeout: float) -> bool:
        """Whether anybody may have committed since the last call, waiting up to ``timeout`` seconds for it.

        :raises StoreReplaced: where nothing of what others commit will be seen any more.
        """
        self._must_be_open()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        before = self._version_seen
        while True:
            # Before the look, so that what is committed after it is heard of.
            news = self._news
            self._backend.check_in_place()
            with self._trouble():
                version = await self._backend.version()
            if version != before:
                self._version_seen = version
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, self._backend.look_every)):
                    await news.wait()
            except TimeoutError:
                continue


async def _once_more(once: Callable[[], Awaitable[T]]) -> T:
    """For a statement that was prepared before somebody altered its table."""
    try:
        return await once()
    except TablesChanged:
        return await once()


@asynccontextmanager
async def _given_up(connection: AsyncConnection) -> AsyncIterator[None]:
    """A connection that broke is not waited for any more, not even to be rolled back, and never used again."""
    try:
        yield
    except Exception as error:
        if broke(error):
            await connection.invalidate()
        raise
