"""The seam between the SQL store and one kind of database: all that differs is here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractAsyncContextManager

    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from kimiflow.stores.bulk import Transaction

__all__ = ["Backend"]

T = TypeVar("T")


class Backend(ABC):
    """One database of one kind, as two engines.

    A transaction of ``writer`` sees what is stored when it reads, and keeps others from changing the rows that it read
    ``FOR UPDATE``. A statement of ``reader`` sees one moment.
    """

    writer: AsyncEngine
    reader: AsyncEngine
    where: str
    """Names the database in messages; holds no password."""
    look_every: float = 0.2
    """Seconds between looks for the commits of other processes."""
    locks_rows: bool = False
    """Whether writers keep each other from single rows, and so must take these in one order; else from everything."""
    writes_in_queries: bool = False
    """Whether a query may hold an UPDATE, so that rows are found and changed by one statement."""
    autocommits: bool = False
    """Whether a statement of ``reader`` is a transaction by itself, and may write."""
    on_news: Callable[[], None] = staticmethod(lambda: None)
    """To be called where the database itself tells of a commit, sooner than the next look."""

    def stamp(self) -> object | None:
        """See :meth:`~kimiflow.stores.base.Store.stamp`."""
        return None

    def settled(self) -> None:  # noqa: B027 - may stay as it is
        """Called once it is open and up to date."""

    def check_in_place(self) -> None:  # noqa: B027 - may stay as it is
        """Sees to it that what is open is what others find at the same address.

        :raises StoreReplaced: where it is not.
        :raises StoreUnavailable: where that cannot be found out.
        """

    @abstractmethod
    async def exists(self) -> bool:
        """Whether there is anything to look at, found out without making it."""

    @abstractmethod
    async def make(self) -> None:
        """Makes what connecting needs, where it is missing."""

    @abstractmethod
    async def settle_in(self) -> None:
        """Sets what the database itself remembers. Comes after the look at whose database it is."""

    @abstractmethod
    async def alone(self, connection: AsyncConnection) -> None:
        """Waits until nobody else migrates; lasts as long as the transaction of ``writer``."""

    @abstractmethod
    def is_foreign(self, tables: Collection[str]) -> bool:
        """Whether a database that no kimiflow migrated, but that has these tables, is somebody else's."""

    @abstractmethod
    def one_of(self, column: sa.ColumnElement[Any], parameter: str) -> sa.ColumnElement[bool]:
        """A condition: ``column`` is among the values of ``parameter``, a list of any length in one parameter."""

    @abstractmethod
    def listed(self, values: Collection[str]) -> str | list[str]:
        """The value of such a parameter."""

    @abstractmethod
    async def now(self, local: float) -> float:
        """The time by the database's clock, where it has one of its own; else ``local``."""

    @abstractmethod
    async def version(self) -> int | str:
        """Another value than before whenever anybody may have committed something since."""

    @abstractmethod
    async def at_once(
        self,
        act: Callable[[Transaction], T],
        connected: Callable[[], AbstractAsyncContextManager[AsyncConnection]],
        *,
        writes: bool,
        worth: Callable[[Transaction], bool] | None = None,
    ) -> T | None:
        """Does all of ``act`` in one transaction, with as few turns between it and the driver as there can be.

        :param connected: opens a connection of :attr:`writer` or :attr:`reader`, with a transaction where it ``writes``.
        :param worth: may be asked before the transaction begins whether there is anything to do; ``None`` is returned
            where it says no.
        """

    async def announce(self, connection: AsyncConnection) -> None:  # noqa: B027 - may stay as it is
        """Makes the transaction of ``connection`` be heard of at once; where looks are frequent they are enough."""

    def horizon(self) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]] | None:
        """The oldest transaction that may still commit and the next one to begin, as two expressions.

        ``None`` where rows become visible in the order of their ids anyway.
        """
        return None

    @abstractmethod
    async def close(self) -> None:
        """Lets go of every connection."""
