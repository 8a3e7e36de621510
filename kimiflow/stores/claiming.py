"""Claims in an SQL database: what is due, taken in one short transaction.

The rows are found and marked in the driver's own words, in as few turns as there can be. SQLite is asked without its
write lock first whether there is anything: most looks of a worker that has little to do find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.stores.base import Claim
from kimiflow.stores.bulk import Words
from kimiflow.stores.rows import ACCOUNT, AUTHORIZATION, WIDTH, to_account, to_authorization
from kimiflow.stores.tables import CODED, accounts, authorizations

if TYPE_CHECKING:
    from collections.abc import Collection

    from kimiflow.stores.backend import Backend
    from kimiflow.stores.bulk import Transaction
    from kimiflow.stores.database import Database

__all__ = ["Claiming"]

_A = authorizations.c
_JOINED = authorizations.join(accounts, _A.account_id == accounts.c.id)
_DUE = _A.claimable_at <= bindparam("now")
_OVER = _A.code_expires_at <= bindparam("now")
# The same number, but not the indexed column: so the planner looks for codes that are over, not for all that is due.
_LATER = _A.claimable_at + sa.literal_column("0.0")

_CLAIM = sa.update(authorizations).values(
    lease_owner=bindparam("owner"), claimable_at=bindparam("until"), generation=_A.generation + 1
)
_Rows = Sequence[Sequence[Any]]


class _Reach(Enum):
    """How many of the providers that there are a filter lets through."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class _Filters:
    """Which rows :meth:`~kimiflow.stores.base.Store.claim_due` may take, beside their being due."""

    only: Collection[str] | None
    providers: Collection[str] | None
    skip_providers: Collection[str]

    @property
    def shape(self) -> _Shape:
        return _Shape(self.only is not None, self.providers is not None, bool(self.skip_providers))

    def reach(self, present: Collection[str]) -> _Reach:
        """How many of the providers that are ``present`` come through."""
        allowed = [
            name
            for name in present
            if name not in self.skip_providers and (self.providers is None or name in self.providers)
        ]
        return _Reach.NONE if not allowed else _Reach.ALL if len(allowed) == len(present) else _Reach.SOME


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which of the filters are given: each combination is a statement of its own."""

    only: bool
    providers: bool
    skipped: bool

    @property
    def of_providers(self) -> bool:
        return self.providers or self.skipped


class Claiming:
    """``claim_due`` and ``next_due`` of a database."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._listed = backend.listed
        self._at_once = backend.writes_in_queries
        self._statements = _Statements(backend)

    async def claim_due(
        self, owner: str, now: float, ttl: float, limit: int, filters: tuple[Collection[str] | None, ...]
    ) -> list[Claim]:
        """See :meth:`Store.claim_due`; ``filters`` are ``only``, ``providers`` and ``skip_providers``."""
        chosen = _filters(filters)
        values: dict[str, Any] = {**self._values(chosen), "now": now, "most": limit}
        reach = await self._reach(chosen)
        shape, among = chosen.shape, False
        if reach is not _Reach.ALL and not shape.only:
            # All that is due may have to be passed over, and nobody should wait for that.
            look = self._statements.due_ids(shape, reach)
            found = await self._database.look(lambda asked: asked.run(look, values))
            if not found:
                return []
            among, values["ids"] = True, self._listed([row[0] for row in found])
        values |= {"owner": owner, "until": now + ttl}
        rows = await (self._in_one_statement if self._at_once else self._in_two)(shape, among, values)
        return [
            Claim(
                to_account(row[WIDTH + 2 :]),
                to_authorization(row[:WIDTH]),
                owner,
                row[WIDTH + 1] + 1,
                row[WIDTH] is not None,
            )
            for row in rows or ()
        ]

    async def _in_one_statement(self, shape: _Shape, among: bool, values: dict[str, Any]) -> _Rows | None:  # noqa: FBT001
        words = self._statements.due_and_claim(shape, among)
        return await self._database.at_once(lambda transaction: transaction.run(words, values), single=True)

    async def _in_two(self, shape: _Shape, among: bool, values: dict[str, Any]) -> _Rows | None:  # noqa: FBT001
        due = self._statements.due(shape, among)

        def claim(transaction: Transaction) -> _Rows:
            rows = transaction.run(due, values)
            if rows:
                transaction.run(self._statements.claim, values | {"ids": self._listed([row[0] for row in rows])})
            return rows

        def worth(transaction: Transaction) -> bool:
            return bool(transaction.run(self._statements.any_due, values))

        return await self._database.at_once(claim, worth=worth)

    async def next_due(self, filters: tuple[Collection[str] | None, ...]) -> float | None:
        """See :meth:`Store.next_due`."""
        chosen = _filters(filters)
        words = self._statements.next_due(chosen.shape, await self._reach(chosen))
        values = self._values(chosen)
        ((at,),) = await self._database.look(lambda asked: asked.run(words, values))
        found: float | None = at
        return found

    async def _reach(self, chosen: _Filters) -> _Reach:
        if not chosen.shape.of_providers:
            return _Reach.ALL
        present = await self._database.look(lambda asked: asked.run(self._statements.present, {}))
        return chosen.reach([name for (name,) in present])

    def _values(self, chosen: _Filters) -> dict[str, Any]:
        return {
            "only": None if chosen.only is None else self._listed(chosen.only),
            "providers": None if chosen.providers is None else self._listed(chosen.providers),
            "skipped": self._listed(chosen.skip_providers),
        }


def _filters(filters: tuple[Collection[str] | None, ...]) -> _Filters:
    only, providers, skip_providers = filters
    return _Filters(only, providers, skip_providers or ())


class _Statements:
    """Each built when it is first needed, and kept."""

    def __init__(self, backend: Backend) -> None:
        self._one_of = backend.one_of
        self._dialect = backend.writer.dialect
        self.due = cache(lambda shape, among: self._words(self._due(shape, among)))
        self.due_and_claim = cache(self._due_and_claim)
        self.due_ids = cache(self._due_ids)
        self.next_due = cache(self._next_due)
        self.any_due = self._words(sa.select(sa.literal_column("1")).where(_DUE).limit(sa.literal_column("1")))
        self.present = self._words(_providers())
        self.claim = self._words(_CLAIM.where(self._one_of(_A.id, "ids")))

    def _words(self, statement: sa.ClauseElement) -> Words:
        return Words.of(statement, self._dialect)

    def _chosen(self, shape: _Shape) -> list[sa.ColumnElement[bool]]:
        return [self._one_of(_A.account_id, "only")] if shape.only else []

    def _allows(self, shape: _Shape) -> sa.ColumnElement[bool]:
        allowed = []
        if shape.skipped:
            allowed.append(sa.not_(self._one_of(accounts.c.provider, "skipped")))
        if shape.providers:
            allowed.append(self._one_of(accounts.c.provider, "providers"))
        return sa.and_(*allowed)

    def _due(self, shape: _Shape, among: bool) -> sa.Select[Any]:  # noqa: FBT001
        """The rows that may be claimed, with owner and generation of the lease before, and the account.

        :param among: only those whose ids are in the parameter ``ids``.
        """
        statement = (
            sa.select(*AUTHORIZATION, _A.lease_owner, _A.generation, *ACCOUNT)
            .select_from(_JOINED)
            .where(_DUE, *self._chosen(shape))
            .order_by(_A.claimable_at)
            .limit(bindparam("most"))
            .with_for_update(of=authorizations, skip_locked=True)
        )
        if among:
            statement = statement.where(self._one_of(_A.id, "ids"))
        return statement.where(sa.or_(self._allows(shape), _OVER)) if shape.of_providers else statement

    def _due_and_claim(self, shape: _Shape, among: bool) -> Words:  # noqa: FBT001 - a key of the cache
        """Finds the same rows as they were, and claims them, in one statement."""
        due = self._due(shape, among).add_columns(_A.claimable_at).cte("due")
        *columns, since = due.c
        claimed = _CLAIM.where(_A.id == columns[0]).cte("claimed")
        return self._words(sa.select(*columns).order_by(since).add_cte(claimed))

    def _due_ids(self, shape: _Shape, reach: _Reach) -> Words:
        """The ids of those rows, found without a lock, where ``reach`` says that many may have to be passed over."""
        if reach is _Reach.NONE:
            statement = sa.select(_A.id).where(_OVER, bindparam("now") >= _LATER).order_by(_LATER)
        else:
            statement = (
                sa.select(_A.id)
                .select_from(_JOINED)
                .where(_DUE, sa.or_(self._allows(shape), _OVER))
                .order_by(_A.claimable_at)
            )
        return self._words(statement.limit(bindparam("most")))

    def _next_due(self, shape: _Shape, reach: _Reach) -> Words:
        """The earliest moment at which :meth:`due` finds a row."""
        if reach is _Reach.ALL:
            return self._words(sa.select(sa.func.min(_A.claimable_at)).where(*self._chosen(shape)))
        over = sa.case((_A.code_expires_at > _A.claimable_at, _A.code_expires_at), else_=_A.claimable_at)
        if reach is _Reach.NONE and not shape.only:
            return self._words(sa.select(sa.func.min(over)).where(CODED, _LATER.is_not(None)))
        at = sa.case((self._allows(shape), _A.claimable_at), (_A.code_expires_at.is_not(None), over))
        return self._words(
            sa.select(sa.func.min(at)).select_from(_JOINED).where(_A.claimable_at.is_not(None), *self._chosen(shape))
        )


def _providers() -> sa.Select[Any]:
    # From each name to the next one in the index, instead of over all accounts.
    name = accounts.c.provider
    steps = sa.select(sa.func.min(name).label("name")).cte("steps", recursive=True)
    following = sa.select(sa.func.min(name)).where(name > steps.c.name).scalar_subquery()
    steps = steps.union_all(sa.select(following).where(steps.c.name.is_not(None)))
    return sa.select(steps.c.name).where(steps.c.name.is_not(None))
