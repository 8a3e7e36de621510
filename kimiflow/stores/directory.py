"""What people change about accounts, in an SQL database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.errors import StoreError, StoreUnavailable
from kimiflow.stores.tables import accounts

if TYPE_CHECKING:
    from collections.abc import Collection

    from kimiflow.stores.backend import Backend
    from kimiflow.stores.database import Database

__all__ = ["Directory"]


class Directory:
    """Keeps what :meth:`Store.rename` and its like promise."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._listed = backend.listed
        chosen = backend.one_of(accounts.c.id, "accounts")
        self._set_disabled = sa.update(accounts).where(chosen).values(disabled=bindparam("new_disabled"))
        self._set_label = sa.update(accounts).where(chosen).values(label=bindparam("new_label"))
        self._named = sa.select(accounts.c.id).where(accounts.c.name == bindparam("wanted"))
        taken = sa.select(accounts.c.id).where(accounts.c.name == bindparam("new_name")).exists()
        self._rename = (
            sa.update(accounts)
            .where(accounts.c.id == bindparam("account_id"), ~taken)
            .values(name=bindparam("new_name"))
        )

    async def set_disabled(self, account_ids: Collection[str], disabled: bool) -> None:  # noqa: FBT001 - it is the value
        """See :meth:`Store.set_disabled`."""
        async with self._database.writing() as connection:
            parameters = {"accounts": self._listed(account_ids), "new_disabled": disabled}
            await connection.execute(self._set_disabled, parameters)

    async def set_label(self, account_ids: Collection[str], label: str | None) -> None:
        """See :meth:`Store.set_label`."""
        async with self._database.writing() as connection:
            await connection.execute(self._set_label, {"accounts": self._listed(account_ids), "new_label": label})

    async def rename(self, account_id: str, name: str) -> bool:
        """See :meth:`Store.rename`."""
        try:
            async with self._database.writing() as connection:
                done = await connection.execute(self._rename, {"account_id": account_id, "new_name": name})
                if done.rowcount:
                    return True
            return await self._holder(name) == account_id
        except StoreUnavailable:
            raise
        except StoreError:
            # Of two who want one name at once, and look at the same time, the index decides.
            if await self._holder(name) is None:
                raise
            return False

    async def _holder(self, name: str) -> str | None:
        async with self._database.reading() as connection:
            found: str | None = await connection.scalar(self._named, {"wanted": name})
        return found
