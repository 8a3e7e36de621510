"""The one connection of a process on which PostgreSQL tells it of news."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import asyncpg  # type: ignore[import-untyped]

from kimiflow.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from kimiflow.stores.address import Address

    Connection: TypeAlias = asyncpg.Connection

__all__ = ["Listener"]

_NO_ANSWER: Final = 10.0
_FAREWELL: Final = 2.0


class Listener:
    """Connected when it is first asked, and again after it broke.

    It hears nothing while it is away. So who waits asks as well, now and then, whether anything has changed.

    :param heard: called in the loop's thread with each piece of news.
    """

    def __init__(self, address: Address, channel: str, heard: Callable[[], None]) -> None:
        self._address = address
        self._channel = channel
        self._heard = heard
        self._connecting: asyncio.Task[Connection] | None = None
        self._turn = asyncio.Lock()

    async def ask(self, query: str) -> str:
        """The one value that ``query`` finds.

        :raises StoreUnavailable: where there is no answer in time. What else goes wrong is the driver's.
        """
        async with self._turn:
            if self._connecting is None or _is_over(self._connecting):
                self._connecting = asyncio.create_task(self._connect(), name="kimiflow-listener")
            # Whoever asks may be cancelled; a connection that is half made would have nobody to close it.
            connection = await asyncio.shield(self._connecting)
            try:
                return str(await connection.fetchval(query, timeout=_NO_ANSWER))
            except (TimeoutError, asyncpg.InternalClientError, asyncpg.InterfaceError):
                connection.terminate()
        raise StoreUnavailable(
            f"{self._address.where} cannot be reached: the connection broke",
            hint="Nothing was lost; what was not written is tried again.",
        )

    async def _connect(self) -> Connection:
        connection = await self._address.connect()
        await connection.add_listener(self._channel, lambda *_: self._heard())
        return connection

    async def close(self) -> None:
        """Lets go of the connection."""
        connecting, self._connecting = self._connecting, None
        if connecting is None:
            return
        connecting.cancel()
        await asyncio.wait({connecting})
        if _is_over(connecting):
            return
        connection = connecting.result()
        try:
            await connection.close(timeout=_FAREWELL)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.terminate()


def _is_over(connecting: asyncio.Task[Connection]) -> bool:
    if not connecting.done():
        return False
    return connecting.cancelled() or connecting.exception() is not None or connecting.result().is_closed()
