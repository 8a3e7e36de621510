"""Rows put right beside their life, in an SQL database: what is sealed with which key, who holds what, new seals."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.stores import fence
from kimiflow.stores.base import Holding
from kimiflow.stores.rows import (
    AUTHORIZATION,
    CHANGING,
    WIDTH,
    to_authorization,
    values_of_changing,
    values_of_transition,
)
from kimiflow.stores.tables import authorizations, history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.model import Authorization, Sealed
    from kimiflow.stores.backend import Backend
    from kimiflow.stores.base import Amendment
    from kimiflow.stores.database import Database

__all__ = ["Amending"]

_A: Final = authorizations.c
_SEALED: Final = (_A.device_code, _A.access_token, _A.refresh_token)
_LONGEST_KEY_ID: Final = 8
_HISTORY: Final = [column.name for column in history.c if column is not history.c.id]


class Amending:
    """Keeps what :meth:`Store.amend` and its like promise."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._listed = backend.listed
        self._holdings = sa.select(_A.id, _A.lease_owner, _A.generation, _A.claimable_at).where(
            _A.lease_owner.is_not(None)
        )
        key_ids = (sa.func.substr(column, 1, _LONGEST_KEY_ID + 1).label("key_id") for column in _SEALED)
        each = sa.union_all(*(sa.select(key_id) for key_id in key_ids)).subquery()
        self._key_ids = (
            sa.select(each.c.key_id, sa.func.count()).where(each.c.key_id.is_not(None)).group_by(each.c.key_id)
        )
        other = (sa.func.substr(column, 1, bindparam("length")) != bindparam("prefix") for column in _SEALED)
        self._otherwise = (
            sa.select(*AUTHORIZATION)
            .where(_A.id > bindparam("after"), sa.or_(*other))
            .order_by(_A.id)
            .limit(bindparam("most"))
        )
        self._locked = (
            sa.select(*AUTHORIZATION, _A.lease_owner, _A.claimable_at, _A.generation)
            .where(backend.one_of(_A.id, "ids"))
            .order_by(_A.id)
            .with_for_update()
        )
        names = [*CHANGING, "lease_owner", "claimable_at", "generation"]
        self._columns = [f"new_{name}" for name in names]
        self._update = (
            sa.update(authorizations)
            .where(_A.id == bindparam("row_id"))
            .values({name: bindparam(f"new_{name}") for name in names})
        )
        self._add_history = sa.insert(history)

    async def holdings(self) -> list[Holding]:
        """See :meth:`Store.holdings`."""
        async with self._database.reading() as connection:
            return [Holding(*row) for row in await connection.execute(self._holdings)]

    async def sealed_with(self) -> dict[str, int]:
        """See :meth:`Store.sealed_with`."""
        found: Counter[str] = Counter()
        async with self._database.reading() as connection:
            for start, count in await connection.execute(self._key_ids):
                found[start.partition(".")[0][:_LONGEST_KEY_ID]] += count
        return dict(found)

    async def sealed_otherwise(self, key_id: str, limit: int, after: str = "") -> list[Authorization[Sealed]]:
        """See :meth:`Store.sealed_otherwise`."""
        prefix = f"{key_id}."
        parameters = {"prefix": prefix, "length": len(prefix), "most": limit, "after": after}
        async with self._database.reading() as connection:
            return [to_authorization(row) for row in await connection.execute(self._otherwise, parameters)]

    async def amend(self, amendments: Sequence[Amendment], now: float) -> list[bool]:
        """See :meth:`Store.amend`."""
        if not amendments:
            return []
        done, updates, told = [], [], []
        async with self._database.writing(announced=True) as connection:
            ids = {"ids": self._listed([each.before.id for each in amendments])}
            rows = {row[0]: row for row in await connection.execute(self._locked, ids)}
            for each in amendments:
                row = rows.pop(each.before.id, None)
                owner, claimable_at, generation = (None, None, 0) if row is None else row[WIDTH:]
                if row is None or not fence.may_amend(each, to_authorization(row[:WIDTH]), owner, claimable_at, now):
                    done.append(False)
                    continue
                done.append(True)
                if each.history is not None:
                    owner, claimable_at, generation = None, each.after.next_attempt_at, generation + 1
                    told.append(
                        dict(
                            zip(
                                _HISTORY,
                                values_of_transition(each.after.account_id, each.after.id, each.history),
                                strict=True,
                            )
                        )
                    )
                values = (*values_of_changing(each.after), owner, claimable_at, generation)
                updates.append({"row_id": each.after.id} | dict(zip(self._columns, values, strict=True)))
            if updates:
                await connection.execute(self._update, updates)
            if told:
                await connection.execute(self._add_history, told)
        return done
